//! Who sends a request: by token where it shows one and tokens are accepted, else by key.

use std::sync::Arc;

use http::HeaderMap;

use crate::denied::Denied;
use crate::keys::{KeySet, bearer};
use crate::moment::Moment;
use crate::principal::Principal;
use crate::token::Tokens;

/// Says who sends a request. Everybody may only where neither keys nor tokens are asked for: issuers alone close a service too.
///
/// # Errors
/// [`Denied`], for the reasons that keys and tokens have.
pub async fn identify(
    headers: &HeaderMap,
    keys: &KeySet,
    tokens: &Tokens,
    now: Moment,
) -> Result<Arc<Principal>, Denied> {
    if tokens.is_empty() {
        return keys.check(headers, now);
    }
    let shown = bearer(headers)?;
    if Tokens::looks_like_one(shown) {
        tokens.check(shown, now).await
    } else if keys.is_open() {
        Err(Denied::UnknownKey)
    } else {
        keys.check_key(shown, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denied::TokenFault;
    use crate::keys::KeyRecord;
    use crate::token::IssuerConfig;

    #[tokio::test]
    async fn issuers_alone_close_a_service() {
        let issuers = Tokens::new(vec![IssuerConfig::new("https://issuer.example", "wharf")]).unwrap();
        let closed = KeySet::closed([KeyRecord::of_secret("sk-one", "")]).unwrap();
        let (open, none) = (KeySet::open(), Tokens::default());
        // {"alg":"ES256"} and {"iss":"https://other.example"}
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ.AA";
        let cases = [
            (&open, &none, "", Ok("anonymous")),
            (&open, &issuers, "", Err(Denied::NoKey)),
            (&open, &issuers, "Bearer sk-one", Err(Denied::UnknownKey)),
            (&open, &issuers, &format!("Bearer {token}"), Err(Denied::Token(TokenFault::Issuer))),
            (&closed, &issuers, "Bearer sk-one", Ok("456f1612bd25")),
            (&closed, &issuers, &format!("Bearer {token}"), Err(Denied::Token(TokenFault::Issuer))),
            (&closed, &none, &format!("Bearer {token}"), Err(Denied::UnknownKey)),
        ];
        for (keys, tokens, header, expected) in cases {
            let mut headers = HeaderMap::new();
            if !header.is_empty() {
                headers.insert(http::header::AUTHORIZATION, header.parse().unwrap());
            }
            let who = identify(&headers, keys, tokens, Moment::now()).await;
            assert_eq!(who.as_ref().map(|who| &*who.name).map_err(Clone::clone), expected, "{header}");
        }
    }
}
