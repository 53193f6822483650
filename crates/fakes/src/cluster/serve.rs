//! Answers requests: finds out what one is about, lets it go wrong if it must, and hands it to the store.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Shared;
use super::act::act;
use super::calls::{Call, Injected};
use super::discovery;
use super::failure::Failure;
use super::kinds::Kind;
use super::request::{self, Place, Route};
use super::selector::Selector;
use super::view::View;
use super::watch::{self, Start, Wish};
use super::write::Writer;
use crate::wire::{Body, Connection, Serve, lock};

/// A request that has been read.
pub(super) struct Asked {
    pub(super) method: Method,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    pub(super) body: Value,
}

impl Asked {
    pub(super) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.query(name), "true" | "1")
    }

    pub(super) fn view(&self) -> View {
        View::of(self.header(header::ACCEPT))
    }

    pub(super) fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(self.query("labelSelector"), self.query("fieldSelector"))
    }

    pub(super) fn writer(&self) -> Writer {
        let agent = self.header(header::USER_AGENT).split('/').next().unwrap_or("");
        let manager = match self.query("fieldManager") {
            "" if agent.is_empty() => "unknown",
            "" => agent,
            named => named,
        };
        Writer {
            manager: manager.to_owned(),
            dry_run: !self.query("dryRun").is_empty(),
            strict: self.query("fieldValidation") == "Strict",
        }
    }
}

/// An answer that is not a stream.
pub(super) type Answer = Result<(u16, Value), Failure>;

impl Serve for Shared {
    fn admits(&self) -> bool {
        true
    }

    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let route = Route::parse(parts.uri.path());
            let asked = Asked {
                method: parts.method,
                query: request::query(parts.uri.query().unwrap_or("")),
                headers: parts.headers,
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
            let call = self.call(&route, &asked, path);
            let (number, injected) = {
                let mut calls = lock(&self.calls);
                let injected = calls.injected(&call);
                (calls.add(call), injected)
            };
            self.changed();
            match injected {
                Some(Injected::Status(code)) => {
                    lock(&self.calls).answered(number, code);
                    return failed(&Failure::new(code, reason(code), "the server was told to fail"));
                }
                Some(Injected::Hang) => return pending().await,
                Some(Injected::CutBefore) => {
                    connection.close();
                    return pending().await;
                }
                Some(Injected::Slow(time)) => tokio::time::sleep(time).await,
                Some(Injected::CutAfter) | None => {}
            }
            let unreadable = !body.is_empty() && asked.body.is_null();
            let response = match route {
                _ if unreadable => failed(&Failure::bad_request("the body of the request is not JSON")),
                Route::Resource(place) => self.resource(&place, &asked),
                route => answered(self.describe(&route)),
            };
            if injected == Some(Injected::CutAfter) {
                connection.close();
                return pending().await;
            }
            lock(&self.calls).answered(number, response.status().as_u16());
            response
        })
    }
}

/// The word for an injected code.
fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

fn answered(answer: Answer) -> Response<Body> {
    match answer {
        Ok((code, body)) => json_response(code, &body),
        Err(failure) => failed(&failure),
    }
}

/// What is served by nobody is answered by the HTTP server, not by the API.
fn nowhere() -> Response<Body> {
    let body = Full::from("404 page not found\n").map_err(|never| match never {}).boxed_unsync();
    let mut response = with_type(404, body);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn failed(failure: &Failure) -> Response<Body> {
    json_response(failure.code, &failure.body())
}

fn json_response(code: u16, body: &Value) -> Response<Body> {
    let body = Full::from(body.to_string()).map_err(|never| match never {}).boxed_unsync();
    with_type(code, body)
}

fn with_type(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Shared {
    fn call(&self, route: &Route, asked: &Asked, path: &str) -> Call {
        let mut call = Call {
            path: path.to_owned(),
            user_agent: asked.header(header::USER_AGENT).to_owned(),
            body: asked.body.clone(),
            ..Call::default()
        };
        if let Route::Resource(place) = route {
            call.verb = verb(place, asked);
            call.kind = lock(&self.store)
                .kind(&place.group, &place.plural)
                .map_or_else(|| place.plural.clone(), |kind| kind.kind.clone());
            call.group.clone_from(&place.group);
            call.plural.clone_from(&place.plural);
            call.namespace.clone_from(&place.namespace);
            call.name.clone_from(&place.name);
            call.part.clone_from(&place.part);
        }
        call
    }

    fn describe(&self, route: &Route) -> Answer {
        let store = lock(&self.store);
        let found = match route {
            Route::Version => Some(discovery::version()),
            Route::Health => Some(json!("ok")),
            Route::Schemas => Some(discovery::schemas(&store.kinds)),
            Route::Schema(group, version) => discovery::schema(&store.kinds, group, version),
            Route::CoreVersions => Some(discovery::core_versions()),
            Route::Groups => Some(discovery::groups(&store.kinds)),
            Route::Group(name) => discovery::group(&store.kinds, name),
            Route::Resources(group, version) => discovery::resources(&store.kinds, group, version),
            Route::Resource(_) | Route::Unknown => None,
        };
        found.map(|body| (200, body)).ok_or_else(Failure::no_resource)
    }

    fn resource(self: &Arc<Self>, place: &Place, asked: &Asked) -> Response<Body> {
        let found = lock(&self.store)
            .kind(&place.group, &place.plural)
            .filter(|kind| kind.versions.iter().any(|version| version.name == place.version))
            .cloned();
        let Some(kind) = found else { return nowhere() };
        if kind.review {
            return answered(self.review(&kind, place, asked));
        }
        if verb(place, asked) == "watch" {
            return match wish(kind, place, asked) {
                Ok(wish) => with_type(200, watch::start(self, wish)),
                Err(failure) => failed(&failure),
            };
        }
        let answer = act(&mut lock(&self.store), kind, place, asked);
        self.changed();
        answered(answer)
    }

    fn review(&self, kind: &Kind, place: &Place, asked: &Asked) -> Answer {
        if asked.method != Method::POST {
            return Err(Failure::method_not_allowed());
        }
        let answer = Arc::clone(&lock(&self.reviews));
        let mut body = asked.body.clone();
        body["apiVersion"] = kind.api_version(&place.version).into();
        body["kind"] = kind.kind.clone().into();
        body["status"] = answer(&kind.kind, &asked.body["spec"]);
        Ok((201, body))
    }
}

pub(super) fn verb(place: &Place, asked: &Asked) -> &'static str {
    verb_of(&asked.method, place.name.is_empty(), asked.is_set("watch"))
}

/// What a request does, as RBAC has it.
pub(crate) fn verb_of(method: &Method, collection: bool, watches: bool) -> &'static str {
    match (method.as_str(), collection) {
        ("GET", _) if watches => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "",
    }
}

fn wish(kind: Kind, place: &Place, asked: &Asked) -> Result<Wish, Failure> {
    let mut selector = asked.selector()?;
    if !place.name.is_empty() {
        selector = Selector::parse("", &format!("metadata.name={}", place.name))?;
    }
    let bookmarks = asked.is_set("allowWatchBookmarks");
    let start = match (asked.is_set("sendInitialEvents"), asked.query("resourceVersion")) {
        (true, _) => Start::Everything { then_bookmark: bookmarks },
        (false, "" | "0") => Start::Everything { then_bookmark: false },
        (false, version) => {
            let version = version.parse();
            Start::After(version.map_err(|_| Failure::bad_request("the resourceVersion is not one of ours"))?)
        }
    };
    Ok(Wish {
        kind,
        version: place.version.clone(),
        namespace: place.namespace.clone(),
        selector,
        view: asked.view(),
        bookmarks,
        start,
        timeout: asked.query("timeoutSeconds").parse().ok().map(Duration::from_secs),
    })
}
