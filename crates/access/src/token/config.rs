//! What users say of issuers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::principal::Priority;

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerConfig {
    /// As the claim `iss` has it.
    pub issuer: String,
    /// What the claim `aud` must have: the name under which the issuer knows this service.
    pub audience: String,
    /// Where its keys are; where its discovery document says if absent (`<issuer>/.well-known/openid-configuration`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Algorithms that are accepted.
    #[serde(default = "usual_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// By how much its clock and ours may differ.
    #[serde(default = "usual_leeway")]
    pub leeway_seconds: u64,
    /// The claim that says who the caller is.
    #[serde(default = "subject")]
    pub subject_claim: String,
    /// The claim that says what people call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_claim: Option<String>,
    /// The claim that lists the models they may use; all if this is absent, none if the token lacks the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_claim: Option<String>,
    /// The claim that names their class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_claim: Option<String>,
    /// Classes by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Class>,
    /// The class of tokens that name none of those.
    #[serde(default)]
    pub default_class: Class,
    /// How long after a fetch a key that we lack may be the reason for another one.
    #[serde(default = "usual_refetch")]
    pub refetch_seconds: u64,
    /// How old keys may be before they are fetched again.
    #[serde(default = "usual_refresh")]
    pub refresh_seconds: u64,
    /// How old keys may become when the issuer cannot be reached.
    #[serde(default = "usual_stale")]
    pub stale_seconds: u64,
}

/// What callers of one kind may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Class {
    /// Limits of each of them.
    pub limits: Limits,
    /// Who goes first when not everybody can.
    pub priority: Priority,
}

/// Algorithms whose keys can be published. There is none for shared secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSA with SHA-256.
    RS256,
    /// RSA with SHA-384.
    RS384,
    /// RSA with SHA-512.
    RS512,
    /// RSA-PSS with SHA-256.
    PS256,
    /// RSA-PSS with SHA-384.
    PS384,
    /// RSA-PSS with SHA-512.
    PS512,
    /// P-256 with SHA-256.
    ES256,
    /// P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

/// Why an issuer cannot be meant as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenConfigError {
    /// Two entries for one issuer.
    #[error("the issuer {issuer:?} is there twice")]
    Twice {
        /// The issuer.
        issuer: String,
    },
    /// Something is missing.
    #[error("the issuer {issuer:?} has no {field}")]
    Missing {
        /// The issuer.
        issuer: String,
        /// What is missing.
        field: &'static str,
    },
    /// Keys that come unencrypted could be anybody's.
    #[error(
        "the issuer {issuer:?} has the address {url:?}: it must begin with https://, or be on this machine"
    )]
    Insecure {
        /// The issuer.
        issuer: String,
        /// The address.
        url: String,
    },
    /// The system's certificates cannot be read.
    #[error("failed to prepare fetching the keys of the issuer {issuer:?}: {reason}")]
    Client {
        /// The issuer.
        issuer: String,
        /// Why.
        reason: String,
    },
}

impl IssuerConfig {
    /// An issuer with everything as it usually is.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> IssuerConfig {
        IssuerConfig {
            issuer: issuer.into(),
            audience: audience.into(),
            jwks_url: None,
            algorithms: usual_algorithms(),
            leeway_seconds: usual_leeway(),
            subject_claim: subject(),
            name_claim: None,
            models_claim: None,
            class_claim: None,
            classes: BTreeMap::new(),
            default_class: Class::default(),
            refetch_seconds: usual_refetch(),
            refresh_seconds: usual_refresh(),
            stale_seconds: usual_stale(),
        }
    }

    /// # Errors
    /// What cannot be meant.
    pub(super) fn check(&self) -> Result<(), TokenConfigError> {
        let missing = |field| TokenConfigError::Missing { issuer: self.issuer.clone(), field };
        let fields =
            [("issuer", &self.issuer), ("audience", &self.audience), ("subjectClaim", &self.subject_claim)];
        if let Some((field, _)) = fields.into_iter().find(|(_, value)| value.is_empty()) {
            return Err(missing(field));
        }
        if self.algorithms.is_empty() {
            return Err(missing("algorithms"));
        }
        let url = self.jwks_url.as_ref().unwrap_or(&self.issuer);
        if is_safe(url) {
            Ok(())
        } else {
            Err(TokenConfigError::Insecure { issuer: self.issuer.clone(), url: url.clone() })
        }
    }
}

/// Whether keys from there can be believed: the way is encrypted, or does not leave the machine.
pub(super) fn is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let loopback = |host: &str| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    url.scheme() == "https" || (url.scheme() == "http" && url.host_str().is_some_and(loopback))
}

impl Algorithm {
    pub(super) fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

fn usual_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
}

fn subject() -> String {
    "sub".to_owned()
}

fn usual_leeway() -> u64 {
    30
}

fn usual_refetch() -> u64 {
    30
}

fn usual_refresh() -> u64 {
    600
}

fn usual_stale() -> u64 {
    86_400
}
