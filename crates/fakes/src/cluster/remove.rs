//! Deletes objects, and what goes with them: what they own, what is in their namespace, what they define.
//!
//! A real cluster collects garbage some time after a deletion; here it is gone with the answer, unless a test holds collection back.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::{self, Kind};
use super::store::{Id, Store};
use super::write::{Target, now, set};

/// Held by an owner that goes after what it owns.
const FOREGROUND: &str = "foregroundDeletion";

/// What happens to what a deleted object owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// The body of a DELETE.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) propagation: Propagation,
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    pub(crate) fn parse(body: &Value) -> DeleteOptions {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        DeleteOptions {
            propagation: match body["propagationPolicy"].as_str() {
                Some("Foreground") => Propagation::Foreground,
                Some("Orphan") => Propagation::Orphan,
                _ => Propagation::Background,
            },
            grace: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
        }
    }
}

/// An object that is gone, or will be.
#[derive(Clone, Debug)]
pub(crate) enum Deleted {
    Gone(Arc<Value>),
    Going(Arc<Value>),
}

impl Store {
    /// Deletes an object, or marks it as one that goes when its finalizers are done.
    pub(crate) fn delete(&mut self, target: &Target, options: &DeleteOptions) -> Result<Deleted, Failure> {
        let id = &target.id;
        let live = self.get(id).cloned().ok_or_else(|| Failure::not_found(&target.kind, &id.name))?;
        let metadata = &live["metadata"];
        let differs = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_some_and(|wanted| metadata[field] != *wanted)
        };
        if differs(&options.uid, "uid") || differs(&options.resource_version, "resourceVersion") {
            let what = "the preconditions of the deletion do not hold";
            return Err(Failure::conflict(&target.kind, &id.name, what));
        }
        if options.dry_run {
            return Ok(Deleted::Gone(live));
        }
        let uid = metadata["uid"].as_str().unwrap_or("").to_owned();
        let mut object = Value::clone(&live);
        mark(&mut object, options);
        match options.propagation {
            Propagation::Background => {}
            Propagation::Orphan => self.orphan(&uid),
            Propagation::Foreground => {
                if !self.owned_by(&uid).is_empty() {
                    add_finalizer(&mut object, FOREGROUND);
                }
            }
        }
        if id.kind.plural == "namespaces" && id.kind.group.is_empty() {
            object["status"]["phase"] = "Terminating".into();
        }
        if self.may_go(id, &object) {
            return Ok(Deleted::Gone(self.remove(id).unwrap_or(live)));
        }
        if object != *live {
            self.put(id, object);
        }
        if id.kind.plural == "namespaces" && id.kind.group.is_empty() {
            self.empty_namespace(&id.name);
        }
        if options.propagation == Propagation::Foreground {
            self.collect(&uid);
        }
        // With what it waited for, it may have gone too.
        Ok(match self.get(id) {
            Some(object) => Deleted::Going(Arc::clone(object)),
            None => Deleted::Gone(live),
        })
    }

    /// What follows from an object having been written.
    pub(crate) fn after_write(&mut self, id: &Id, object: &Arc<Value>) {
        if !object["metadata"]["deletionTimestamp"].is_null() && self.may_go(id, object) {
            self.remove(id);
            return;
        }
        if id.kind.plural == "customresourcedefinitions" {
            self.define(id, object);
        }
        let refers =
            object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
        if self.collects && refers {
            self.collect_if_orphaned(id);
        }
    }

    /// Collects everything whose owners are gone.
    pub(crate) fn collect_all(&mut self) {
        let ids: Vec<Id> = self.all().map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.collect_if_orphaned(id));
    }

    /// Whether nothing holds back an object that is to go.
    fn may_go(&self, id: &Id, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let held = metadata["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        let of_core = |plural: &str| id.kind.group.is_empty() && id.kind.plural == plural;
        if of_core("pods") {
            let placed = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
            return !held && (!placed || metadata["deletionGracePeriodSeconds"] == 0);
        }
        if of_core("namespaces") {
            return !held && !self.all().any(|(other, _)| other.namespace == id.name);
        }
        !held
    }

    /// Takes an object away, then what depends on it.
    fn remove(&mut self, id: &Id) -> Option<Arc<Value>> {
        let gone = self.take(id)?;
        if id.kind.plural == "customresourcedefinitions" {
            self.undefine(&gone);
        }
        let uid = gone["metadata"]["uid"].as_str().unwrap_or("").to_owned();
        if self.collects {
            self.collect(&uid);
        }
        for owner in gone["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            self.release_owner(owner["uid"].as_str().unwrap_or(""));
        }
        let namespace = self.all().find(|(other, _)| {
            other.kind.group.is_empty() && other.kind.plural == "namespaces" && other.name == id.namespace
        });
        if let Some((namespace, object)) = namespace.map(|(id, object)| (id.clone(), Arc::clone(object)))
            && !object["metadata"]["deletionTimestamp"].is_null()
            && self.may_go(&namespace, &object)
        {
            self.remove(&namespace);
        }
        Some(gone)
    }

    fn owned_by(&self, uid: &str) -> Vec<Id> {
        let owned = self.all().filter(|(_, object)| owners(object).any(|owner| owner["uid"] == uid));
        owned.map(|(id, _)| id.clone()).collect()
    }

    /// Deletes what this owner owned, as far as nobody else owns it.
    fn collect(&mut self, uid: &str) {
        for id in self.owned_by(uid) {
            self.delete_owned(&id, uid);
        }
    }

    fn collect_if_orphaned(&mut self, id: &Id) {
        let Some(object) = self.get(id).cloned() else { return };
        let gone: Vec<&str> = owners(&object)
            .filter_map(|owner| owner["uid"].as_str())
            .filter(|uid| !self.exists(uid))
            .collect();
        if let (Some(uid), true) = (gone.first(), gone.len() == owners(&object).count()) {
            self.delete_owned(id, uid);
        }
    }

    fn delete_owned(&mut self, id: &Id, gone: &str) {
        let Some(object) = self.get(id).cloned() else { return };
        let another = owners(&object)
            .any(|owner| owner["uid"] != gone && owner["uid"].as_str().is_some_and(|uid| self.exists(uid)));
        if another {
            self.disown(id, &object, gone);
            return;
        }
        if let Some(target) = self.target(id) {
            // It exists, so it can be deleted.
            let _ = self.delete(&target, &DeleteOptions::default());
        }
    }

    fn orphan(&mut self, uid: &str) {
        for id in self.owned_by(uid) {
            if let Some(object) = self.get(&id).cloned() {
                self.disown(&id, &object, uid);
            }
        }
    }

    fn disown(&mut self, id: &Id, object: &Value, uid: &str) {
        let mut object = object.clone();
        if let Some(list) = object["metadata"]["ownerReferences"].as_array_mut() {
            list.retain(|owner| owner["uid"] != uid);
        }
        self.put(id, object);
    }

    /// Lets an owner go that waited for what it owned.
    fn release_owner(&mut self, uid: &str) {
        let waiting = self.all().find(|(_, object)| {
            object["metadata"]["uid"] == uid
                && object["metadata"]["finalizers"]
                    .as_array()
                    .is_some_and(|list| list.contains(&FOREGROUND.into()))
        });
        let Some((id, object)) = waiting.map(|(id, object)| (id.clone(), Value::clone(object))) else {
            return;
        };
        if self.owned_by(uid).is_empty() {
            let mut object = object;
            if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|finalizer| finalizer != FOREGROUND);
            }
            let object = self.put(&id, object);
            self.after_write(&id, &object);
        }
    }

    fn exists(&self, uid: &str) -> bool {
        self.all().any(|(_, object)| object["metadata"]["uid"] == uid)
    }

    fn empty_namespace(&mut self, namespace: &str) {
        let inside: Vec<Id> =
            self.all().filter(|(id, _)| id.namespace == namespace).map(|(id, _)| id.clone()).collect();
        for id in inside {
            if let Some(target) = self.target(&id) {
                // What another deletion has taken along is gone already.
                let _ = self.delete(&target, &DeleteOptions::default());
            }
        }
    }

    /// An object as what is written to.
    pub(crate) fn target(&self, id: &Id) -> Option<Target> {
        let kind = self.kind(&id.kind.group, &id.kind.plural)?.clone();
        let version = kind.preferred().to_owned();
        Some(Target { kind, version, id: id.clone(), part: super::write::Part::Whole })
    }

    /// Serves the kind that a CustomResourceDefinition defines, and says in its status that it does.
    fn define(&mut self, id: &Id, definition: &Value) {
        let Some(kind) = kinds::from_definition(definition) else { return };
        self.kinds.retain(|known| known.key() != kind.key());
        self.kinds.push(kind);
        let mut established = definition.clone();
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": definition["metadata"]["creationTimestamp"]});
        established["status"] = json!({
            "conditions": [condition("NamesAccepted"), condition("Established")],
            "acceptedNames": definition["spec"]["names"],
            "storedVersions": definition["spec"]["versions"].as_array().into_iter().flatten()
                .filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect::<Vec<_>>(),
        });
        if established != *definition {
            self.put(id, established);
        }
    }

    fn undefine(&mut self, definition: &Value) {
        let Some(kind) = kinds::from_definition(definition) else { return };
        self.drop_kinds(|known: &Kind| known.key() == kind.key());
    }

    /// Serves some kinds no longer; their objects are gone.
    pub(crate) fn drop_kinds(&mut self, which: impl Fn(&Kind) -> bool) {
        let (gone, kept) = std::mem::take(&mut self.kinds).into_iter().partition(|kind| which(kind));
        self.kinds = kept;
        let gone: Vec<Kind> = gone;
        let ids: Vec<Id> = self
            .all()
            .filter(|(id, _)| gone.iter().any(|kind| kind.key() == id.kind))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.take(&id);
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

fn mark(object: &mut Value, options: &DeleteOptions) {
    let metadata = &mut object["metadata"];
    if metadata["deletionTimestamp"].is_null() {
        metadata["deletionTimestamp"] = now().into();
    }
    let default = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let is_pod = object["kind"] == "Pod";
    let grace = options.grace.unwrap_or(if is_pod { default } else { 0 });
    let metadata = &mut object["metadata"];
    let shorter = metadata["deletionGracePeriodSeconds"].as_i64().is_none_or(|before| grace < before);
    if shorter {
        set(metadata, "deletionGracePeriodSeconds", Some(grace.into()));
    }
}

fn add_finalizer(object: &mut Value, name: &str) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.contains(&name.into()) => {}
        Some(list) => list.push(name.into()),
        None => *finalizers = json!([name]),
    }
}
