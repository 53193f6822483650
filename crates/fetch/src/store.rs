//! S3, Google Cloud Storage and what speaks their protocols, through the `object_store` crate with a transport of ours: its requests pass the same
//! policy, proxies and certificates as every other, and failures are tried again by the same rules.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::TryStreamExt as _;
use http_body_util::BodyExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{
    HttpClient, HttpConnector, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig};
use reqwest::Url;
use wharf_api::Digest;
use wharf_api::source::{BucketSource, Store};

use crate::error::FetchError;
use crate::http::{Http, HttpError, shown};
use crate::names::RelativeName;
use crate::object::{ALL, Body, Object, Opened};
use crate::remote::{Kind, Remote, RemoteFile};
use crate::retry::{Retry, passing, retry_after};
use crate::settings::{Settings, web_address};

/// An object of a store, in the version that was listed.
#[derive(Debug)]
pub(crate) struct StoreObject {
    store: Arc<dyn ObjectStore>,
    location: Path,
    /// `s3://bucket/key`.
    shown: String,
    retry: Retry,
}

impl StoreObject {
    pub(crate) fn shown(&self) -> String {
        self.shown.clone()
    }

    pub(crate) fn retry(&self) -> Retry {
        self.retry
    }

    pub(crate) async fn open(&self, range: &Range<u64>, tag: Option<&str>) -> Result<Opened, HttpError> {
        let strong = tag.filter(|tag| tag.starts_with('"')).map(str::to_owned);
        let options = GetOptions {
            range: (*range != ALL).then(|| GetRange::Bounded(range.clone())),
            if_match: strong,
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&self.location, options).await.map_err(|error| match error {
            object_store::Error::Precondition { .. } => HttpError::Changed { url: self.shown.clone() },
            // Our transport has tried often enough already.
            other => HttpError::Protocol { url: self.shown.clone(), why: reason(&other) },
        })?;
        Ok(Opened {
            start: result.range.start,
            whole: false,
            total: Some(result.meta.size),
            tag: result.meta.e_tag.clone(),
            sha256: result.extensions.get::<Digest>().copied(),
            body: Body::Stream { name: self.shown.clone(), stream: result.into_stream() },
        })
    }
}

/// The innermost reason, which says the most; outer ones repeat the address.
pub(crate) fn reason(error: &object_store::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    // Stores answer in XML, of which one element is for people.
    let message = text.split_once("<Message>").and_then(|(_, rest)| Some(rest.split_once("</Message>")?.0));
    let text = match (message, text.split_once("<?xml")) {
        (Some(message), Some((before, _))) => format!("{before}{message}"),
        _ => text,
    };
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.trim().to_owned()
}

/// What the bucket has at the prefix: one object of that name, or all below it.
pub(crate) async fn open(source: &BucketSource, settings: &Settings) -> Result<Remote, FetchError> {
    let scheme = match source.store {
        Store::S3 => "s3",
        Store::Gs => "gs",
    };
    let name = format!("{scheme}://{}/{}", source.bucket, source.prefix);
    let store: Arc<dyn ObjectStore> = match source.store {
        Store::S3 => s3(&source.bucket, settings)?,
        Store::Gs => gs(&source.bucket, settings)?,
    };
    let failed = |error: object_store::Error| explain(format!("list {name}"), source.store, &error);
    let prefix =
        Path::parse(&source.prefix).map_err(|error| FetchError::Choice(format!("{name}: {error}")))?;
    let object = |meta: &object_store::ObjectMeta, name: RelativeName| RemoteFile {
        name,
        size: Some(meta.size),
        sha256: None,
        tag: meta.e_tag.clone().or_else(|| Some(meta.last_modified.to_rfc3339())),
        kind: Kind::File,
        object: Object::Store(Arc::new(StoreObject {
            store: Arc::clone(&store),
            location: meta.location.clone(),
            shown: format!("{scheme}://{}/{}", source.bucket, meta.location),
            retry: settings.retry,
        })),
    };
    if !source.prefix.is_empty() {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match store.get_opts(&prefix, options).await {
            Ok(result) => {
                let last = source.prefix.rsplit('/').next().unwrap_or_default();
                return Ok(Remote::new(vec![object(&result.meta, RelativeName::new(last)?)]));
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let below = (!source.prefix.is_empty()).then_some(&prefix);
    let listed: Vec<_> = store.list(below).try_collect().await.map_err(failed)?;
    let mut files = Vec::new();
    for meta in &listed {
        let key = meta.location.as_ref();
        let inner = key.strip_prefix(source.prefix.as_str()).unwrap_or(key).trim_start_matches('/');
        // Consoles make empty objects that stand for folders.
        if inner.is_empty() || (meta.size == 0 && key.ends_with('/')) || inner == crate::manifest::MANIFEST {
            continue;
        }
        files.push(object(meta, RelativeName::new(inner)?));
    }
    if files.is_empty() {
        return Err(FetchError::Choice(format!("nothing is at {name}: check the bucket and the prefix")));
    }
    crate::select::folder(files)
}

fn explain(doing: String, store: Store, error: &object_store::Error) -> FetchError {
    let variables = match store {
        Store::S3 => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a public bucket)"
        }
        Store::Gs => "GOOGLE_APPLICATION_CREDENTIALS (or GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    };
    let why = reason(error);
    let hint = match error {
        object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } => {
            Some(format!("check {variables}"))
        }
        object_store::Error::NotFound { .. } => Some("check the bucket and the prefix".to_owned()),
        _ if why.contains(" 404 ") => Some("check the bucket and the prefix".to_owned()),
        _ if why.contains("configured region") => Some("set AWS_REGION".to_owned()),
        _ if why.contains("169.254.169.254") || why.contains("metadata") => Some(format!("set {variables}")),
        _ => None,
    };
    if let Some(refusal) = refusal(error) {
        return FetchError::Refused { source_: doing, source: refusal };
    }
    FetchError::Store { doing, hint, why }
}

fn refusal(error: &object_store::Error) -> Option<crate::policy::PolicyError> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(HttpError::Refused { source, .. }) = inner.downcast_ref::<HttpError>() {
            return Some(source.clone());
        }
        source = inner.source();
    }
    None
}

/// Failures are tried again by the transport, which knows what the server asked for.
fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// What a store's client asks on its own account.
fn transport(settings: &Settings, endpoint: Option<&Url>) -> Result<Connector, FetchError> {
    let plain: Vec<Url> = endpoint.into_iter().filter(|url| url.scheme() == "http").cloned().collect();
    Ok(Connector { http: Http::new(settings, &plain)?, credentials: Http::for_credentials(settings)? })
}

/// An address from the environment; the specific name comes before the general one.
fn endpoint(names: &[&'static str], clouds: &BTreeMap<String, String>) -> Result<Option<Url>, FetchError> {
    let found =
        names.iter().find_map(|name| Some((*name, clouds.get(*name).filter(|value| !value.is_empty())?)));
    found.map(|(name, value)| web_address(name, value)).transpose()
}

fn s3(bucket: &str, settings: &Settings) -> Result<Arc<dyn ObjectStore>, FetchError> {
    let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = endpoint(&names, &settings.clouds)?;
    let options =
        ClientOptions::new().with_allow_http(endpoint.as_ref().is_some_and(|url| url.scheme() == "http"));
    let mut builder = AmazonS3Builder::new();
    for (name, value) in settings.clouds.iter().filter(|(_, value)| !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_client_options(options)
        .with_bucket_name(bucket)
        .with_retry(once())
        .with_http_connector(transport(settings, endpoint.as_ref())?)
        .build();
    let setting = |error| FetchError::Setting { what: "the AWS_ variables".to_owned(), why: reason(&error) };
    Ok(Arc::new(store.map_err(setting)?))
}

fn gs(bucket: &str, settings: &Settings) -> Result<Arc<dyn ObjectStore>, FetchError> {
    let endpoint = endpoint(&["GOOGLE_BASE_URL"], &settings.clouds)?;
    let options =
        ClientOptions::new().with_allow_http(endpoint.as_ref().is_some_and(|url| url.scheme() == "http"));
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in settings.clouds.iter().filter(|(_, value)| !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_client_options(options)
        .with_bucket_name(bucket)
        .with_retry(once())
        .with_http_connector(transport(settings, endpoint.as_ref())?)
        .build();
    let setting =
        |error| FetchError::Setting { what: "the GOOGLE_ variables".to_owned(), why: reason(&error) };
    Ok(Arc::new(store.map_err(setting)?))
}

/// Gives the stores' clients our transport.
#[derive(Clone, Debug)]
struct Connector {
    http: Http,
    credentials: Http,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// Where clients of stores get this machine's own credentials from.
const CREDENTIAL_HOSTS: [&str; 5] =
    ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", crate::http::GOOGLE_METADATA];

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, object_store::client::HttpError> {
        let (parts, body) = request.into_parts();
        let url: Url = parts.uri.to_string().parse().map_err(|e| failed(HttpErrorKind::Unknown, e))?;
        let own = CREDENTIAL_HOSTS.contains(&url.host_str().unwrap_or_default());
        let mut failures = 0;
        loop {
            let mut request = reqwest::Request::new(parts.method.clone(), url.clone());
            *request.headers_mut() = parts.headers.clone();
            *request.body_mut() = body.as_bytes().map(|bytes| bytes.clone().into());
            let outcome = match own {
                true => self.credentials.execute_unchecked(request).await,
                false => self.http.execute(request).await,
            };
            let (passes, asked) = match &outcome {
                Ok(response) => {
                    let now = std::time::SystemTime::now();
                    (passing(response.status()), retry_after(response.headers(), now))
                }
                // Whether this machine has credentials is answered at once or not at all.
                Err(error) => (error.is_passing() && !own, None),
            };
            if passes {
                failures += 1;
                if let Some(pause) = self.http.retry.pause(failures, asked, fastrand::f64()) {
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            return match outcome {
                Ok(response) => Ok(convert(response)),
                Err(error) => Err(failed(HttpErrorKind::Unknown, error)),
            };
        }
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    kind: HttpErrorKind,
    error: E,
) -> object_store::client::HttpError {
    object_store::client::HttpError::new(kind, error)
}

fn convert(response: reqwest::Response) -> HttpResponse {
    let url = response.url().clone();
    let mut converted = http::Response::builder().status(response.status());
    if let Some(headers) = converted.headers_mut() {
        headers.clone_from(response.headers());
    }
    if let Some(checksum) = checksum(response.headers()) {
        converted = converted.extension(checksum);
    }
    let body = http::Response::<reqwest::Body>::from(response).into_body();
    // Its errors are shown, and queries may hold signatures.
    let body = HttpResponseBody::new(body.map_err(move |error| {
        let why = error.without_url().to_string();
        failed(HttpErrorKind::Interrupted, HttpError::Network { url: shown(&url), why })
    }));
    converted.body(body).expect("its parts are those of a response")
}

/// The SHA-256 of the whole object, where S3 sends one; sums of several parts are marked by a dash.
fn checksum(headers: &http::HeaderMap) -> Option<Digest> {
    let text = headers.get("x-amz-checksum-sha256")?.to_str().ok()?;
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(Digest::new(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stores_checksum_is_believed_only_when_it_is_of_the_whole_object() {
        let found = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("x-amz-checksum-sha256", value.parse().unwrap());
            checksum(&headers)
        };
        let whole = BASE64_STANDARD.encode([7; 32]);
        assert_eq!(found(&whole), Some(Digest::new([7; 32])));
        assert_eq!(found(&format!("{whole}-3")), None);
        assert_eq!(found("x"), None);
    }
}
