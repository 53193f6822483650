//! The console: a page at `/console/`, and what it reads under `/console/api/`.
//!
//! The page itself is for everybody, since it holds nothing; whatever the API tells needs a key where keys are asked for, and `sight` says
//! how much of it. Nothing here keeps or tells a prompt or an answer.

mod assets;
mod past;
mod sight;
mod stream;
mod track;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{ALLOW, CACHE_CONTROL};
use http::{HeaderValue, Method, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::sync::Notify;
use wharf_access::Moment;
use wharf_api::ApiError;
use wharf_api::console::{History, Rates, ServiceFacts};

use crate::answer::{self, Answer, stopping};
use crate::shared::Shared;

use track::Track;

pub(crate) use past::Past;
pub(crate) use sight::Sight;
pub(crate) use stream::sample;
pub(crate) use view::overview;

/// Where the page is; all else of the console is below it.
const ROOT: &str = "/console";

/// What whoever runs the services knows of them, asked for services that the gateway has been told of. It is asked often, by several
/// threads: answer from memory.
pub trait Source: Send + Sync {
    /// How the service is.
    fn facts(&self, service: &str) -> Option<ServiceFacts>;
    /// The object as its user wrote it.
    fn yaml(&self, service: &str) -> Option<String>;
    /// Kubernetes objects that it would become, or why not.
    fn manifests(&self, service: &str) -> Option<Result<String, String>>;
}

/// What the console remembers.
#[derive(Default)]
pub(crate) struct Console {
    source: Mutex<Option<Arc<dyn Source>>>,
    tracks: Mutex<BTreeMap<Arc<str>, Track>>,
    /// Told when the source would answer otherwise than before, in what a person waits to see.
    changed: Notify,
}

impl Console {
    pub(crate) fn set_source(&self, source: Arc<dyn Source>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// The source has something new to say.
    pub(crate) fn source_changed(&self) {
        self.changed.notify_waiters();
    }

    /// A clone, so that nobody waits for a lock while the source answers.
    fn source(&self) -> Option<Arc<dyn Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last seconds of a service.
    fn rates(&self, service: &str) -> Rates {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.get(service).map(Track::rates).unwrap_or_default()
    }

    /// The last minutes of a service.
    fn history(&self, service: &str) -> History {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.get(service).map(Track::history).unwrap_or_default()
    }
}

/// What of a path is the console's, if it is on and the path is.
pub(crate) fn below<'a>(shared: &Shared, path: &'a str) -> Option<&'a str> {
    let below = path.strip_prefix(ROOT).filter(|below| below.is_empty() || below.starts_with('/'))?;
    shared.config.console.then_some(below)
}

/// Answers a request for what is [`below`] the console's root.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    below: &str,
    request: &Request<Incoming>,
) -> Response<Answer> {
    let mut response = if *request.method() == Method::GET || *request.method() == Method::HEAD {
        match below.strip_prefix("/api/") {
            Some(asked) => api(shared, asked, request).await.unwrap_or_else(|error| answer::failure(&error)),
            None => assets::answer(below, request.headers())
                .unwrap_or_else(|| answer::failure(&unknown(request.method(), request.uri()))),
        }
    } else {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let mut refused = answer::failure(&ApiError::MethodNotAllowed { method, path });
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refused
    };
    assets::protect(response.headers_mut());
    response
}

/// What the page asks for, once it is known who asks.
async fn api(
    shared: &Arc<Shared>,
    asked: &str,
    request: &Request<Incoming>,
) -> Result<Response<Answer>, ApiError> {
    let headers = request.headers();
    let table = shared.table();
    let now = Moment::now();
    let sight = Sight::of(shared, &table, headers).await?;
    let none = || unknown(request.method(), request.uri());
    let mut response = match asked {
        "overview" => answer::json(&overview(shared, &sight)),
        "stream" if shared.is_draining() => return Err(stopping()),
        "stream" => stream::overviews(Arc::clone(shared), headers.clone()),
        "requests" => answer::json(&view::requests(shared, &sight)),
        "keys" => answer::json(&view::keys(shared, &table, &sight, now)),
        "history" => {
            let service = query(request.uri(), "service").filter(|name| sight.service(name));
            let service =
                service.filter(|name| table.services.contains_key(name.as_str())).ok_or_else(none)?;
            answer::json(&history(shared, &service, query(request.uri(), "hours"), now).await?)
        }
        _ => {
            let (service, part) =
                asked.strip_prefix("service/").and_then(|rest| rest.rsplit_once('/')).ok_or_else(none)?;
            let service = decoded(service);
            if !sight.service(&service) {
                return Err(none());
            }
            answer::text("text/plain; charset=utf-8", definition(shared, &sight, &service, part, none)?)
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The last minutes of a service, or as many hours as are asked for.
async fn history(
    shared: &Shared,
    service: &str,
    hours: Option<String>,
    now: Moment,
) -> Result<History, ApiError> {
    let Some(hours) = hours else { return Ok(shared.console.history(service)) };
    let wrong =
        |message: String| ApiError::InvalidRequest { message, param: Some("hours".to_owned()), code: None };
    let hours = hours.parse().map_err(|_| wrong(format!("{hours:?} is no number of hours")))?;
    let past = shared.past.as_ref();
    let past =
        past.ok_or_else(|| wrong("the gateway knows no Prometheus that remembers hours".to_owned()))?;
    past.history(service, hours, now.unix_ms).await.map_err(|error| {
        let error = wharf_telemetry::log::chain(&error);
        tracing::warn!(error, "failed to read the history of a service");
        ApiError::BadGateway(error)
    })
}

/// How a service was written, and what follows from it. For those who run it: who may only call some models has no use for it.
fn definition(
    shared: &Shared,
    sight: &Sight,
    service: &str,
    part: &str,
    none: impl Fn() -> ApiError,
) -> Result<String, ApiError> {
    if sight.is_narrow(service) {
        return Err(ApiError::PermissionDenied {
            message: "a key that is for some models only may not read how services are defined".to_owned(),
            param: None,
            code: "definition_not_allowed",
        });
    }
    let source = shared.console.source().ok_or_else(&none)?;
    match part {
        "yaml" => source.yaml(service).ok_or_else(none),
        "manifests" => {
            let why_not =
                |message| ApiError::InvalidRequest { message, param: None, code: Some("not_renderable") };
            source.manifests(service).ok_or_else(none)?.map_err(why_not)
        }
        _ => Err(none()),
    }
}

fn unknown(method: &Method, uri: &Uri) -> ApiError {
    ApiError::NotFound { method: method.to_string(), path: uri.path().to_owned() }
}

/// A parameter of the query.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(&value.replace('+', " ")))
}

/// Text of a URL without its percent signs; one that stands for nothing stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_urls_are_read_however_they_are_written() {
        for (written, name) in [
            ("demo/chat", "demo/chat"),
            ("demo%2Fchat", "demo/chat"),
            ("%", "%"),
            ("a%2", "a%2"),
            ("%C3%A4%zz", "ä%zz"),
        ] {
            assert_eq!(decoded(written), name);
        }
        let uri: Uri = "/console/api/history?x=1&service=a%2Fb+c".parse().unwrap();
        assert_eq!(query(&uri, "service").as_deref(), Some("a/b c"));
        assert_eq!(query(&uri, "other"), None);
    }
}
