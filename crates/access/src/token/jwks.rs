//! An issuer's keys: fetched when needed, by one request at a time, kept for a bounded time when the issuer cannot be reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::config::{IssuerConfig, TokenConfigError, is_safe};
use crate::denied::{Denied, TokenFault};
use crate::moment::Moment;

/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document that can be a list of keys.
const MAX_BYTES: usize = 1 << 20;
/// How often it is looked whether keys are old.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The share of `refreshSeconds` after which keys are fetched again although nobody needs it yet.
const RENEW_AT: f64 = 0.9;
/// More keys than an issuer has.
const MAX_KEYS: usize = 100;

/// An issuer and what is known of its keys.
#[derive(Debug)]
pub struct Issuer {
    config: IssuerConfig,
    client: reqwest::Client,
    pub(super) keys: ArcSwapOption<Keys>,
    /// When it was last asked; held while it is asked, so that nobody asks twice.
    asked: Mutex<Option<Instant>>,
}

#[derive(Debug)]
pub(super) struct Keys {
    fetched: Instant,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// Algorithms that it may have signed with.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// What to do about keys as they are; pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// They do.
    Nothing,
    /// They do, and should be fetched again.
    Refresh,
    /// They do not.
    Fetch,
}

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("failed to ask {url}")]
    Ask { url: String, source: reqwest::Error },
    #[error("{url} has more than 1 MiB")]
    Large { url: String },
    #[error("failed to read what {url} has")]
    Read { url: String, source: serde_json::Error },
    #[error("the discovery document is of the issuer {found:?}")]
    Other { found: String },
    #[error("the keys are said to be at {url:?}, which is neither encrypted nor on this machine")]
    Insecure { url: String },
}

/// The part of a discovery document that matters here (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// # Errors
    /// [`TokenConfigError`].
    pub fn new(config: IssuerConfig) -> Result<Issuer, TokenConfigError> {
        config.check()?;
        // Nobody but the issuer says where its keys are, so redirects are not followed.
        let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let client = client
            .build()
            .map_err(|e| TokenConfigError::Client { issuer: config.issuer.clone(), reason: e.to_string() })?;
        Ok(Issuer { config, client, keys: ArcSwapOption::empty(), asked: Mutex::new(None) })
    }

    /// As it was configured.
    pub fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// Fetches the keys now and again before they are old, as long as it runs.
    pub(super) async fn follow(&self) {
        loop {
            self.renew(Moment::now()).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fetches keys that are missing, or so old that a request would soon ask for them.
    pub(super) async fn renew(&self, now: Moment) {
        let soon = Duration::from_secs(self.config.refresh_seconds).mul_f64(RENEW_AT);
        if self.keys.load().as_deref().is_none_or(|keys| age(keys, now.monotonic) >= soon) {
            self.fetch(&mut *self.asked.lock().await, now).await;
        }
    }

    /// Keys that may have signed a token with this key id and algorithm.
    pub(super) async fn keys(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Moment,
    ) -> Result<Vec<DecodingKey>, Denied> {
        let known = self.keys.load_full();
        match self.need(known.as_deref(), id, now.monotonic) {
            Need::Nothing => {}
            Need::Refresh => {
                // Whoever comes first fetches; the others go on with what there is.
                if let Ok(mut asked) = self.asked.try_lock() {
                    self.fetch(&mut asked, now).await;
                }
            }
            Need::Fetch => {
                let mut asked = self.asked.lock().await;
                // Somebody may have fetched while we waited.
                if self.need(self.keys.load().as_deref(), id, now.monotonic) == Need::Fetch {
                    self.fetch(&mut asked, now).await;
                }
            }
        }
        let stale = Duration::from_secs(self.config.stale_seconds);
        let usable = self.keys.load_full().filter(|keys| age(keys, now.monotonic) <= stale);
        let retry_after = Duration::from_secs(self.config.refetch_seconds.max(1));
        let keys = usable.ok_or(Denied::IssuerUnavailable { retry_after })?;
        let fits = |key: &&Key| id.is_none_or(|id| key.id.as_deref() == Some(id));
        let named: Vec<&Key> = keys.keys.iter().filter(fits).collect();
        if named.is_empty() {
            return Err(Denied::Token(TokenFault::Key));
        }
        let keys: Vec<DecodingKey> = named
            .into_iter()
            .filter(|key| key.algorithms.contains(&algorithm))
            .map(|key| key.key.clone())
            .collect();
        if keys.is_empty() { Err(Denied::Token(TokenFault::Algorithm)) } else { Ok(keys) }
    }

    fn need(&self, keys: Option<&Keys>, id: Option<&str>, now: Instant) -> Need {
        let Some(keys) = keys else { return Need::Fetch };
        let known = id.is_none_or(|id| keys.keys.iter().any(|key| key.id.as_deref() == Some(id)));
        let age = age(keys, now);
        if !known || age > Duration::from_secs(self.config.stale_seconds) {
            Need::Fetch
        } else if age > Duration::from_secs(self.config.refresh_seconds) {
            Need::Refresh
        } else {
            Need::Nothing
        }
    }

    /// Fetches the keys, unless that was tried just now: a token with an invented key id must not make us ask its issuer each time.
    async fn fetch(&self, asked: &mut Option<Instant>, now: Moment) {
        let pause = Duration::from_secs(self.config.refetch_seconds);
        if asked.is_some_and(|last| now.monotonic.saturating_duration_since(last) < pause) {
            return;
        }
        *asked = Some(now.monotonic);
        match self.ask().await {
            Ok(keys) => self.keys.store(Some(Arc::new(Keys { fetched: now.monotonic, keys }))),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(issuer = self.config.issuer, %error, source, "the issuer's keys stay as they were");
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Key>, FetchError> {
        let url = match &self.config.jwks_url {
            Some(url) => url.clone(),
            None => {
                let base = self.config.issuer.trim_end_matches('/');
                let url = format!("{base}/.well-known/openid-configuration");
                let Discovery { issuer, jwks_uri } = self.get(&url).await?;
                if issuer != self.config.issuer {
                    return Err(FetchError::Other { found: issuer });
                }
                jwks_uri
            }
        };
        if !is_safe(&url) {
            return Err(FetchError::Insecure { url });
        }
        let JwkList { keys } = self.get(&url).await?;
        // One key of a kind that we do not know does not spoil the others.
        let keys = keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(JwkSet { keys: keys.collect() }.keys.iter().filter_map(read).collect())
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, FetchError> {
        let failed = |source| FetchError::Ask { url: url.to_owned(), source };
        let response = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let mut response = response.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(FetchError::Large { url: url.to_owned() });
            }
        }
        serde_json::from_slice(&body).map_err(|source| FetchError::Read { url: url.to_owned(), source })
    }
}

#[derive(Deserialize)]
struct JwkList {
    keys: Vec<serde_json::Value>,
}

fn age(keys: &Keys, now: Instant) -> Duration {
    now.saturating_duration_since(keys.fetched)
}

/// A key that signatures can be checked with.
fn read(jwk: &Jwk) -> Option<Key> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            vec![RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        // A secret that is published is none.
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        let only = Algorithm::try_from(only).ok()?;
        algorithms.retain(|algorithm| *algorithm == only);
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (!algorithms.is_empty()).then(|| Key { id: jwk.common.key_id.clone(), algorithms, key })
}
