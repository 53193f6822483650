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
use super::apply::Force;
use super::calls::{Call, Injected};
use super::discovery;
use super::failure::{Failure, success};
use super::kinds::Kind;
use super::patch::{PatchKind, patch};
use super::remove::{DeleteOptions, Deleted};
use super::request::{self, Place, Route};
use super::selector::Selector;
use super::shape::Shape;
use super::store::{Id, Store};
use super::view::{self, View};
use super::watch::{self, Start, Wish};
use super::write::{Intent, Part, Target, Writer};
use crate::wire::{Body, Connection, Serve, lock};

/// A request that has been read.
struct Asked {
    method: Method,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Value,
}

impl Asked {
    fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    fn is_set(&self, name: &str) -> bool {
        matches!(self.query(name), "true" | "1")
    }

    fn view(&self) -> View {
        View::of(self.header(header::ACCEPT))
    }

    fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(self.query("labelSelector"), self.query("fieldSelector"))
    }

    fn writer(&self) -> Writer {
        let agent = self.header(header::USER_AGENT).split('/').next().unwrap_or("");
        let manager = match self.query("fieldManager") {
            "" if agent.is_empty() => "unknown",
            "" => agent,
            named => named,
        };
        Writer { manager: manager.to_owned(), dry_run: !self.query("dryRun").is_empty() }
    }
}

/// An answer that is not a stream.
type Answer = Result<(u16, Value), Failure>;

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
            verb: "",
            kind: String::new(),
            namespace: String::new(),
            name: String::new(),
            part: String::new(),
            path: path.to_owned(),
            user_agent: asked.header(header::USER_AGENT).to_owned(),
            body: asked.body.clone(),
            code: 0,
        };
        if let Route::Resource(place) = route {
            call.verb = verb(place, asked);
            call.kind = lock(&self.store)
                .kind(&place.group, &place.plural)
                .map_or_else(|| place.plural.clone(), |kind| kind.kind.clone());
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
            Route::OpenApi => {
                Some(json!({"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": {}}))
            }
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
        let Some(kind) = found else { return failed(&Failure::no_resource()) };
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

fn verb(place: &Place, asked: &Asked) -> &'static str {
    let collection = place.name.is_empty();
    match (asked.method.as_str(), collection) {
        ("GET", _) if asked.is_set("watch") => "watch",
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

/// Everything but watches and reviews.
fn act(store: &mut Store, kind: Kind, place: &Place, asked: &Asked) -> Answer {
    if kind.namespaced
        && place.namespace.is_empty()
        && (!place.name.is_empty() || asked.method == Method::POST)
    {
        return Err(Failure::no_resource());
    }
    if !kind.namespaced && !place.namespace.is_empty() {
        return Err(Failure::no_resource());
    }
    let id = Id { kind: kind.key(), namespace: place.namespace.clone(), name: place.name.clone() };
    let part = match place.part.as_str() {
        "" => Part::Whole,
        "status" if kind.status => Part::Status,
        "scale" if kind.scale.is_some() => Part::Scale,
        "eviction" | "binding" if kind.kind == "Pod" && asked.method == Method::POST => {
            let target = Target { kind, version: place.version.clone(), id, part: Part::Whole };
            return pod_part(store, &target, &place.part, asked);
        }
        _ => return Err(Failure::no_resource()),
    };
    let target = Target { kind, version: place.version.clone(), id, part };
    match (verb(place, asked), part) {
        ("list", _) => list(store, &target, asked),
        ("get", _) => get(store, &target, asked),
        ("create", Part::Whole) if place.name.is_empty() => {
            write(store, &target, Intent::Create(asked.body.clone()), asked)
        }
        ("update" | "patch", Part::Scale) => scale(store, &target, asked),
        ("update", _) => write(store, &target, Intent::Replace(asked.body.clone()), asked),
        ("patch", _) => {
            let intent = patch_intent(asked)?;
            write(store, &target, intent, asked)
        }
        ("delete", Part::Whole) => delete(store, &target, asked),
        ("deletecollection", Part::Whole) => delete_many(store, &target, asked),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn get(store: &Store, target: &Target, asked: &Asked) -> Answer {
    let Target { kind, version, id, part } = target;
    let object = store.get(id).ok_or_else(|| Failure::not_found(kind, &id.name))?;
    match (part, &kind.scale) {
        (Part::Scale, Some(paths)) => Ok((200, view::scale(object, paths))),
        _ => Ok((200, view::one(object, kind, version, asked.view()))),
    }
}

fn list(store: &Store, target: &Target, asked: &Asked) -> Answer {
    let Target { kind, version, id, .. } = target;
    let mut found = store.list(&id.kind, &id.namespace, &asked.selector()?);
    let mut metadata = json!({"resourceVersion": store.version().to_string()});
    if let Some((from, after)) = asked.query("continue").split_once(':') {
        let readable = from.parse().ok().is_some_and(|from| store.since(from).is_some());
        if !readable {
            return Err(Failure::expired("the continue token is too old; list again"));
        }
        found.retain(|(id, _)| position(id).as_str() > after);
        metadata["resourceVersion"] = from.into();
    }
    let limit = asked.query("limit").parse().unwrap_or(0);
    if limit > 0 && found.len() > limit {
        let last = position(&found[limit - 1].0);
        let from = metadata["resourceVersion"].as_str().unwrap_or("").to_owned();
        metadata["continue"] = format!("{from}:{last}").into();
        metadata["remainingItemCount"] = (found.len() - limit).into();
        found.truncate(limit);
    }
    let objects: Vec<&Value> = found.iter().map(|(_, object)| &**object).collect();
    Ok((200, view::many(&objects, kind, version, asked.view(), metadata)))
}

/// Where an object is in a list.
fn position(id: &Id) -> String {
    format!("{}/{}", id.namespace, id.name)
}

fn patch_intent(asked: &Asked) -> Result<Intent, Failure> {
    let content_type = asked.header(header::CONTENT_TYPE);
    let kind = PatchKind::of(content_type).ok_or_else(|| Failure::unsupported_media(content_type))?;
    if kind != PatchKind::Apply {
        return Ok(Intent::Patch(kind, asked.body.clone()));
    }
    if asked.query("fieldManager").is_empty() {
        return Err(Failure::bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: is required for apply patch",
        ));
    }
    let force = if asked.is_set("force") { Force::Yes } else { Force::No };
    Ok(Intent::Apply(asked.body.clone(), force))
}

fn write(store: &mut Store, target: &Target, intent: Intent, asked: &Asked) -> Answer {
    let written = store.write(target, intent, &asked.writer())?;
    let code = if written.created { 201 } else { 200 };
    Ok((code, view::one(&written.object, &target.kind, &target.version, asked.view())))
}

/// Changes an object through its scale.
fn scale(store: &mut Store, target: &Target, asked: &Asked) -> Answer {
    let Target { kind, id, .. } = target;
    let paths = kind.scale.as_ref().ok_or_else(Failure::no_resource)?;
    let object = store.get(id).ok_or_else(|| Failure::not_found(kind, &id.name))?;
    let shown = view::scale(object, paths);
    let (wanted, owned) = if asked.method == Method::PUT {
        (asked.body.clone(), None)
    } else {
        match patch_intent(asked)? {
            Intent::Apply(body, force) => (body, Some(force)),
            Intent::Patch(how, body) => (patch(&shown, how, &body, Shape::of("Scale", None))?, None),
            Intent::Create(_) | Intent::Replace(_) => return Err(Failure::method_not_allowed()),
        }
    };
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        return Err(Failure::bad_request("spec.replicas must not be negative"));
    }
    let mut change = json!({});
    set_at(&mut change, &paths.replicas, replicas.into());
    if let Some(version) =
        wanted["metadata"]["resourceVersion"].as_str().filter(|version| !version.is_empty())
    {
        change["metadata"] = json!({"resourceVersion": version});
    }
    let intent = match owned {
        Some(force) => Intent::Apply(change, force),
        None => Intent::Patch(PatchKind::Merge, change),
    };
    let written = store.write(target, intent, &asked.writer())?;
    Ok((200, view::scale(&written.object, paths)))
}

fn set_at(object: &mut Value, pointer: &str, value: Value) {
    let place = pointer.split('/').skip(1).fold(object, |at, name| &mut at[name]);
    *place = value;
}

fn delete(store: &mut Store, target: &Target, asked: &Asked) -> Answer {
    let mut options = DeleteOptions::parse(&asked.body);
    options.dry_run |= !asked.query("dryRun").is_empty();
    match store.delete(target, &options)? {
        Deleted::Gone(object) => {
            let Target { kind, id, .. } = target;
            let uid = &object["metadata"]["uid"];
            Ok((
                200,
                success(&json!({"name": id.name, "group": kind.group, "kind": kind.plural, "uid": uid})),
            ))
        }
        Deleted::Going(object) => Ok((200, view::one(&object, &target.kind, &target.version, asked.view()))),
    }
}

fn delete_many(store: &mut Store, target: &Target, asked: &Asked) -> Answer {
    let found = store.list(&target.id.kind, &target.id.namespace, &asked.selector()?);
    let options = DeleteOptions::parse(&asked.body);
    for (id, _) in &found {
        // One may have taken another along.
        let _ = store.delete(&Target { id: id.clone(), ..target.clone() }, &options);
    }
    let objects: Vec<&Value> = found.iter().map(|(_, object)| &**object).collect();
    let metadata = json!({"resourceVersion": store.version().to_string()});
    Ok((200, view::many(&objects, &target.kind, &target.version, asked.view(), metadata)))
}

fn pod_part(store: &mut Store, target: &Target, part: &str, asked: &Asked) -> Answer {
    if part == "eviction" {
        store.delete(target, &DeleteOptions::parse(&asked.body["deleteOptions"]))?;
    } else {
        let node = asked.body["target"]["name"].clone();
        let intent = Intent::Patch(PatchKind::Merge, json!({"spec": {"nodeName": node}}));
        store.write(target, intent, &asked.writer())?;
    }
    Ok((201, success(&json!({}))))
}
