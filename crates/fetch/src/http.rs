//! The guarded HTTP client: every request and every redirect is checked against the policy, credentials stay with their origin, and no
//! error shows a query or a token.

mod error;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::{Method, Response, Url};
use wharf_api::Digest;

use crate::error::FetchError;
use crate::policy::{Policy, PolicyError, origin};
use crate::resolver::GuardedResolver;
use crate::retry::Retry;
use crate::secret::Authorization;
use crate::settings::Settings;

pub(crate) use error::{HttpError, network};
use error::{innermost, status};

/// Where Google's machines get their own credentials from.
pub(crate) const GOOGLE_METADATA: &str = "metadata.google.internal";

const MAX_REDIRECTS: usize = 10;

/// The address as it may be shown: queries hold signatures.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.into()
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Get {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) auth: Option<Authorization>,
}

impl Get {
    pub(crate) fn new(url: Url, auth: Option<Authorization>) -> Get {
        Get { url, headers: HeaderMap::new(), auth }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Get {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// A success.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Where it came from in the end.
    pub(crate) url: Url,
    /// The SHA-256 that the Hub names on the way to a large file.
    pub(crate) linked: Option<Digest>,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    policy: Arc<Policy>,
    /// Origins that may be spoken to without encryption.
    plain: Arc<[String]>,
    /// Hosts whose addresses are not checked, and which are therefore no sources.
    exempt: Arc<BTreeSet<String>>,
    pub(crate) retry: Retry,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Http {
    /// `plain` are addresses that the user has chosen to speak to without encryption.
    pub(crate) fn new(settings: &Settings, plain: &[Url]) -> Result<Http, FetchError> {
        Http::build(settings, settings.policy.clone(), plain, settings.proxies.hosts())
    }

    /// For the services that hand out credentials of this machine to a client of an object store: they are asked by that client alone, at
    /// fixed addresses, and no redirect is followed.
    pub(crate) fn for_credentials(settings: &Settings) -> Result<Http, FetchError> {
        let mut exempt = settings.proxies.hosts();
        exempt.insert(GOOGLE_METADATA.to_owned());
        Http::build(settings, settings.policy.clone(), &[], exempt)
    }

    fn build(
        settings: &Settings,
        policy: Policy,
        plain: &[Url],
        exempt: BTreeSet<String>,
    ) -> Result<Http, FetchError> {
        let policy = Arc::new(policy);
        let setting = |what: &str| {
            let what = what.to_owned();
            move |error: reqwest::Error| FetchError::Setting { what, why: innermost(&error) }
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Ranges are to come over connections of their own; HTTP/2 would put them all on one.
            .http1_only()
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.idle_timeout)
            .pool_max_idle_per_host(settings.connections)
            .dns_resolver(Arc::new(GuardedResolver::new(Arc::clone(&policy), exempt.clone())));
        for proxy in settings.proxies.build().map_err(setting("the proxy settings"))? {
            builder = builder.proxy(proxy);
        }
        for (name, pem) in &settings.certificates {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(setting(name))?;
            if certificates.is_empty() {
                let why = "it holds no certificate in PEM form".to_owned();
                return Err(FetchError::Setting { what: name.clone(), why });
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(setting("the settings of the HTTP client"))?;
        let (plain, exempt) = (plain.iter().map(origin).collect(), exempt.into());
        Ok(Http { client, policy, plain, exempt, retry: settings.retry })
    }

    fn check(&self, url: &Url) -> Result<(), PolicyError> {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        if !self.policy.allow_private && self.exempt.contains(&host) {
            return Err(PolicyError::Proxy(host));
        }
        self.policy.check_url(url, &self.plain)
    }

    /// One try, redirects followed.
    pub(crate) async fn once(&self, get: &Get) -> Result<Answer, HttpError> {
        let refused = |source| HttpError::Refused { url: shown(&get.url), source };
        self.check(&get.url).map_err(refused)?;
        let mut url = get.url.clone();
        let mut auth = get.auth.as_ref();
        let mut linked = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.request(Method::GET, url.clone()).headers(get.headers.clone());
            // Ranges and digests are about the bytes as they are stored.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            request = match auth {
                Some(Authorization::Bearer(token)) => request.bearer_auth(token.reveal()),
                Some(Authorization::Basic { user, password }) => {
                    request.basic_auth(user, Some(password.reveal()))
                }
                None => request,
            };
            let response = request.send().await.map_err(|error| match network(&url, error) {
                HttpError::Refused { url: to, source } if url != get.url => {
                    HttpError::RefusedRedirect { url: shown(&get.url), to, source }
                }
                other => other,
            })?;
            linked = linked.or_else(|| linked_digest(response.headers()));
            let Some(next) = location(&url, &response) else {
                return match response.status().is_success() {
                    true => Ok(Answer { response, url, linked }),
                    false => Err(status(&url, response).await),
                };
            };
            self.check(&next).map_err(|source| HttpError::RefusedRedirect {
                url: shown(&url),
                to: shown(&next),
                source,
            })?;
            if origin(&next) != origin(&url) {
                // For good: a way back would be one that the other host has chosen.
                auth = None;
            }
            url = next;
        }
        Err(HttpError::Redirects { url: shown(&get.url) })
    }

    /// As often as the settings allow, for answers that are small.
    pub(crate) async fn get(&self, get: &Get) -> Result<Answer, HttpError> {
        let mut failures = 0;
        loop {
            match self.once(get).await {
                Err(error) if error.is_passing() => {
                    failures += 1;
                    let Some(pause) = self.retry.pause(failures, error.asked_pause(), fastrand::f64()) else {
                        return Err(error);
                    };
                    tracing::debug!(%error, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// The whole of a small answer, read again when it breaks off.
    pub(crate) async fn bytes(&self, get: &Get, limit: usize) -> Result<(HeaderMap, Vec<u8>), HttpError> {
        let mut failures = 0;
        loop {
            let Answer { response, url, linked: _ } = self.get(get).await?;
            let headers = response.headers().clone();
            match body(&url, response, limit).await {
                Ok(bytes) => return Ok((headers, bytes)),
                Err(error) if error.is_passing() => {
                    failures += 1;
                    let Some(pause) = self.retry.pause(failures, None, fastrand::f64()) else {
                        return Err(error);
                    };
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A request that another client made; redirects are the caller's to judge.
    pub(crate) async fn execute(&self, request: reqwest::Request) -> Result<Response, HttpError> {
        let url = request.url().clone();
        let refused = |source| HttpError::Refused { url: shown(&url), source };
        self.check(&url).map_err(refused)?;
        self.execute_unchecked(request).await
    }

    /// As [`Http::execute`], for addresses that are constants of the caller's.
    pub(crate) async fn execute_unchecked(&self, request: reqwest::Request) -> Result<Response, HttpError> {
        let url = request.url().clone();
        self.client.execute(request).await.map_err(|error| network(&url, error))
    }
}

fn location(url: &Url, response: &Response) -> Option<Url> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| redirects)?;
    url.join(location.to_str().ok()?).ok()
}

/// `X-Linked-ETag` holds the SHA-256 of large files; of others it is an object of git, which is shorter.
fn linked_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::from_hex(headers.get("x-linked-etag")?.to_str().ok()?.trim_matches('"'))
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn body(url: &Url, mut response: Response, limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| network(url, error))? {
        if bytes.len() + chunk.len() > limit {
            let why = format!("it is longer than {limit} bytes");
            return Err(HttpError::Protocol { url: shown(url), why });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_addresses_have_no_query_and_no_password() {
        let url = "https://user:hunter2@e.com/x?X-Amz-Signature=abc#f".parse().unwrap();
        assert_eq!(shown(&url), "https://e.com/x");
    }
}
