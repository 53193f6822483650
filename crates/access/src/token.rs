//! Signed tokens: who an issuer says a caller is (JSON Web Tokens, RFC 7519, by an issuer's published keys, RFC 7517).
//!
//! Only signatures by public keys count: what is signed with a shared secret, or not at all, is refused whatever the configuration says, and
//! so is a token whose header names another algorithm than its key has. Without a key that is known to be the issuer's nobody passes.

mod config;
mod jwks;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Map, Value};

use crate::denied::{Denied, TokenFault};
use crate::limits::Limits;
use crate::moment::Moment;
use crate::principal::{Models, Principal, Priority};

pub use config::{Algorithm, Class, IssuerConfig, TokenConfigError};
pub use jwks::Issuer;

/// Longest token that is looked at.
const MAX_BYTES: usize = 16 << 10;

/// Longest subject that becomes a caller's id.
const MAX_SUBJECT: usize = 256;

/// Whether issuers can be meant as they are written. Asks nobody.
///
/// # Errors
/// [`TokenConfigError`] for the first that cannot.
pub fn check_issuers(configs: &[IssuerConfig]) -> Result<(), TokenConfigError> {
    for (i, config) in configs.iter().enumerate() {
        config.check()?;
        if configs[..i].iter().any(|earlier| earlier.issuer == config.issuer) {
            return Err(TokenConfigError::Twice { issuer: config.issuer.clone() });
        }
    }
    Ok(())
}

/// Issuers whose tokens are accepted.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Arc<Issuer>>);

impl Tokens {
    /// Takes issuers as configured; their keys are fetched by [`Tokens::follow`], or else when the first token needs them.
    ///
    /// # Errors
    /// [`TokenConfigError`] for the first that cannot be meant.
    pub fn new(configs: Vec<IssuerConfig>) -> Result<Tokens, TokenConfigError> {
        check_issuers(&configs)?;
        let issuers = configs.into_iter().map(|config| Issuer::new(config).map(Arc::new));
        Ok(Tokens(issuers.collect::<Result<_, _>>()?))
    }

    /// Fetches the keys of all issuers now and again before they are old, so that requests need not wait for it. Runs until it is dropped;
    /// without it keys are fetched by the requests that need them.
    pub async fn follow(self) {
        let mut tasks = tokio::task::JoinSet::new();
        for issuer in self.0 {
            tasks.spawn(async move { issuer.follow().await });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Whether no issuer is accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a text has the form of a token, so that it need not be looked for among the keys.
    pub fn looks_like_one(text: &str) -> bool {
        text.starts_with("eyJ") && text.bytes().filter(|&b| b == b'.').count() == 2
    }

    /// Accepts a token; waits only where its issuer's keys must be fetched.
    ///
    /// # Errors
    /// [`Denied::Token`], [`Denied::IssuerUnavailable`].
    pub async fn check(&self, token: &str, now: Moment) -> Result<Arc<Principal>, Denied> {
        let unread = Unread::parse(token).map_err(Denied::Token)?;
        let issuer = self.0.iter().find(|issuer| issuer.config().issuer == unread.issuer);
        let issuer = issuer.ok_or(Denied::Token(TokenFault::Issuer))?;
        let allowed = |a: &Algorithm| a.library() == unread.algorithm;
        if !issuer.config().algorithms.iter().any(allowed) {
            return Err(Denied::Token(TokenFault::Algorithm));
        }
        let keys = issuer.keys(unread.key_id.as_deref(), unread.algorithm, now).await?;
        let claims = verify(token, &keys, unread.algorithm).map_err(Denied::Token)?;
        principal(issuer.config(), &claims, now).map(Arc::new).map_err(Denied::Token)
    }
}

/// What a token says of itself, of which nothing is proven.
struct Unread {
    issuer: String,
    key_id: Option<String>,
    algorithm: jsonwebtoken::Algorithm,
}

impl Unread {
    fn parse(token: &str) -> Result<Unread, TokenFault> {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Malformed);
        };
        if token.len() > MAX_BYTES {
            return Err(TokenFault::Malformed);
        }
        // An algorithm that the library has no name for, `none` among them, makes no header.
        let header = jsonwebtoken::decode_header(token).map_err(|e| match e.kind() {
            ErrorKind::Json(_) => TokenFault::Algorithm,
            _ => TokenFault::Malformed,
        })?;
        // Extensions that must be understood (RFC 7515, 4.1.11): none are.
        if header.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenFault::Malformed)?;
        let claims: Map<String, Value> =
            serde_json::from_slice(&claims).map_err(|_| TokenFault::Malformed)?;
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenFault::Claim)?.to_owned();
        Ok(Unread { issuer, key_id: header.kid, algorithm: header.alg })
    }
}

/// The claims, if one of the keys signed them. Times and audience are ours to check: the library reads the clock itself.
fn verify(
    token: &str,
    keys: &[DecodingKey],
    algorithm: jsonwebtoken::Algorithm,
) -> Result<Map<String, Value>, TokenFault> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let mut fault = TokenFault::Key;
    for key in keys {
        match jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation) {
            Ok(data) => return Ok(data.claims),
            Err(e) => {
                fault = match e.kind() {
                    ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenFault::Algorithm,
                    ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::InvalidToken => {
                        TokenFault::Malformed
                    }
                    _ => TokenFault::Signature,
                };
            }
        }
    }
    Err(fault)
}

/// Who signed claims are about.
fn principal(
    config: &IssuerConfig,
    claims: &Map<String, Value>,
    now: Moment,
) -> Result<Principal, TokenFault> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(config.issuer.as_str()) {
        return Err(TokenFault::Issuer);
    }
    if !names(claims.get("aud")).iter().any(|audience| *audience == config.audience) {
        return Err(TokenFault::Audience);
    }
    let (now, leeway) = (now.unix_ms as f64 / 1000.0, config.leeway_seconds as f64);
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenFault::Claim),
    };
    // A token without an end could never be taken back.
    if now >= time("exp")?.ok_or(TokenFault::Claim)? + leeway {
        return Err(TokenFault::Expired);
    }
    if time("nbf")?.is_some_and(|begin| now + leeway < begin) {
        return Err(TokenFault::Early);
    }
    let subject = text(&config.subject_claim).ok_or(TokenFault::Claim)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT {
        return Err(TokenFault::Claim);
    }
    let models = match &config.models_claim {
        None => Models::All,
        // What the issuer does not say is not allowed.
        Some(claim) => names(claims.get(claim)).into_iter().map(str::to_owned).collect::<Vec<_>>().into(),
    };
    let class = config.class_claim.as_deref().and_then(text).and_then(|name| config.classes.get(name));
    let Class { limits, priority } = class.copied().unwrap_or(config.default_class);
    Ok(Principal {
        id: format!("token:{}:{subject}", config.issuer).into(),
        name: config.name_claim.as_deref().and_then(text).unwrap_or(subject).into(),
        models,
        limits,
        priority,
    })
}

/// One text, several in a list, or several with spaces between them, as `scope` has it.
fn names(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
}

impl Default for Class {
    fn default() -> Class {
        Class { limits: Limits::default(), priority: Priority::Default }
    }
}

#[cfg(test)]
mod tests;
