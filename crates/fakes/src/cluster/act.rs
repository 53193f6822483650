//! What the verbs do, but for watches and reviews.

use http::{Method, header};
use serde_json::{Value, json};

use super::apply::Force;
use super::failure::{Failure, success};
use super::kinds::Kind;
use super::patch::{PatchKind, patch};
use super::remove::{DeleteOptions, Deleted};
use super::request::Place;
use super::serve::{Answer, Asked, verb};
use super::shape::Shape;
use super::store::{Id, Store};
use super::view;
use super::write::{Intent, Part, Target};

/// Everything but watches and reviews.
pub(super) fn act(store: &mut Store, kind: Kind, place: &Place, asked: &Asked) -> Answer {
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
    if kind.custom {
        // Kubernetes' own kinds leave out what is empty.
        metadata["continue"] = "".into();
    }
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
