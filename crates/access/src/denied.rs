//! Why a request may not pass, and what its sender reads.

use std::time::Duration;

use wharf_api::ApiError;

use crate::limits::Limited;

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Denied {
    /// The request has neither key nor token.
    #[error("no API key was given; send it as the header Authorization: Bearer <key>")]
    NoKey,
    /// Nobody has this key.
    #[error("the API key is not known to this server")]
    UnknownKey,
    /// Nobody has this key, and its checksum says that it was never issued as it stands.
    #[error("the API key is incomplete or mistyped: its checksum does not fit")]
    MistypedKey,
    /// The key was taken back.
    #[error("the API key was revoked")]
    RevokedKey,
    /// The key is past its date.
    #[error("the API key has expired")]
    ExpiredKey,
    /// The key is before its date.
    #[error("the API key is not valid yet")]
    EarlyKey,
    /// The token is none that we accept.
    #[error("{0}")]
    Token(TokenFault),
    /// The issuer's keys cannot be had, so nobody can tell whether the token is good.
    #[error("the token cannot be checked now: the keys of its issuer could not be fetched")]
    IssuerUnavailable {
        /// When they are asked for again.
        retry_after: Duration,
    },
    /// The caller may not use this model.
    #[error("this key may not use the model {model:?}")]
    Model {
        /// The name in the request.
        model: String,
    },
    /// The caller has used up what it may.
    #[error(transparent)]
    Limited(#[from] Limited),
}

/// What is wrong with a token. It says no more than its holder can read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is no JSON Web Token.
    #[error("the token is not a JSON Web Token")]
    Malformed,
    /// None of the configured issuers made it.
    #[error("the token's issuer is not accepted here")]
    Issuer,
    /// It is for somebody else.
    #[error("the token's audience is not this service")]
    Audience,
    /// It is signed in a way that is not accepted.
    #[error("the token's algorithm is not accepted here")]
    Algorithm,
    /// The issuer has no such key.
    #[error("the token's key is not one of its issuer's")]
    Key,
    /// The signature is not the key's.
    #[error("the token's signature does not fit")]
    Signature,
    /// It is past its date.
    #[error("the token has expired")]
    Expired,
    /// It is before its date.
    #[error("the token is not valid yet")]
    Early,
    /// A claim that is needed is missing or of the wrong type.
    #[error("the token lacks a claim that this service needs")]
    Claim,
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> ApiError {
        let message = denied.to_string();
        match denied {
            Denied::NoKey
            | Denied::UnknownKey
            | Denied::MistypedKey
            | Denied::RevokedKey
            | Denied::Token(_) => ApiError::InvalidApiKey(message),
            Denied::ExpiredKey => ApiError::PermissionDenied { message, param: None, code: "key_expired" },
            Denied::EarlyKey => {
                ApiError::PermissionDenied { message, param: None, code: "key_not_yet_valid" }
            }
            Denied::Model { .. } => {
                ApiError::PermissionDenied { message, param: Some("model"), code: "model_not_allowed" }
            }
            Denied::IssuerUnavailable { retry_after } => {
                ApiError::Unavailable { reason: message, retry_after_seconds: whole_seconds(retry_after) }
            }
            Denied::Limited(limited) => limited.into(),
        }
    }
}

/// Whole seconds that are no shorter, as `Retry-After` wants them; at least one.
pub(crate) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_unknown_gets_401_and_who_may_not_gets_403() {
        let cases = [
            (Denied::NoKey, 401, "invalid_api_key"),
            (Denied::RevokedKey, 401, "invalid_api_key"),
            (Denied::Token(TokenFault::Expired), 401, "invalid_api_key"),
            (Denied::ExpiredKey, 403, "key_expired"),
            (Denied::Model { model: "m".into() }, 403, "model_not_allowed"),
            (Denied::IssuerUnavailable { retry_after: Duration::from_millis(1) }, 503, "unavailable"),
        ];
        for (denied, status, code) in cases {
            let sentence = denied.to_string();
            let error = ApiError::from(denied);
            assert_eq!((error.status(), error.code(), error.to_string()), (status, Some(code), sentence));
        }
    }
}
