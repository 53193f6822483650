//! What the cluster remembers: objects, and the last changes of them, each with its version.
//!
//! This file decides versions and history. What an object may become is decided in `write`, what goes with a deleted one in `remove`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::kinds::{self, Kind, KindKey};
use super::selector::Selector;

/// Changes that are remembered unless a test says otherwise.
const HISTORY: usize = 10_000;

/// Identifies an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) kind: KindKey,
    /// Empty for kinds of the cluster.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) id: Id,
    pub(crate) before: Option<Arc<Value>>,
    /// As it is now, or as it last was.
    pub(crate) object: Arc<Value>,
    pub(crate) deleted: bool,
}

/// Everything that the cluster remembers.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) kinds: Vec<Kind>,
    objects: BTreeMap<Id, Arc<Value>>,
    history: VecDeque<Change>,
    limit: usize,
    version: u64,
    /// Changes up to this one are forgotten.
    forgotten: u64,
    made: u64,
    /// Whether what a deleted object owned is deleted.
    pub(crate) collects: bool,
}

impl Store {
    pub(crate) fn new() -> Store {
        Store {
            kinds: kinds::own(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            limit: HISTORY,
            version: 1,
            forgotten: 1,
            made: 0,
            collects: true,
        }
    }

    pub(crate) fn kind(&self, group: &str, plural: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.group == group && kind.plural == plural)
    }

    /// The kind of this name, `Deployment` or, where several groups have it, `Event.events.k8s.io`.
    pub(crate) fn kind_named(&self, name: &str) -> Option<&Kind> {
        self.kinds
            .iter()
            .find(|kind| kind.qualified_kind() == name)
            .or_else(|| self.kinds.iter().find(|kind| kind.kind == name))
    }

    /// The kind that objects with these two fields have.
    pub(crate) fn kind_of(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.kinds.iter().find(|known| known.group == group && known.kind == kind)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn get(&self, id: &Id) -> Option<&Arc<Value>> {
        self.objects.get(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Id, &Arc<Value>)> {
        self.objects.iter()
    }

    /// Selected objects of a kind, by namespace and name; an empty namespace means all.
    pub(crate) fn list(&self, kind: &KindKey, namespace: &str, selector: &Selector) -> Vec<(Id, Arc<Value>)> {
        let first = Id { kind: kind.clone(), namespace: namespace.to_owned(), name: String::new() };
        self.objects
            .range(first..)
            .take_while(|(id, _)| id.kind == *kind && (namespace.is_empty() || id.namespace == namespace))
            .filter(|(_, object)| selector.matches(object))
            .map(|(id, object)| (id.clone(), Arc::clone(object)))
            .collect()
    }

    /// A number that no other object has.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Writes an object, as its next version.
    pub(crate) fn put(&mut self, id: &Id, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(id.clone(), Arc::clone(&object));
        self.remember(Change {
            version: self.version,
            id: id.clone(),
            before,
            object: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    /// Forgets an object; watchers see it once more, at its last version.
    pub(crate) fn take(&mut self, id: &Id) -> Option<Arc<Value>> {
        let before = self.objects.remove(id)?;
        self.version += 1;
        let mut last = Value::clone(&before);
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(last);
        let change = Change {
            version: self.version,
            id: id.clone(),
            before: Some(before),
            object: Arc::clone(&object),
            deleted: true,
        };
        self.remember(change);
        Some(object)
    }

    /// Changes after a version, or nothing when some of them are forgotten.
    pub(crate) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        let known = version >= self.forgotten;
        let first = self.history.partition_point(|change| change.version <= version);
        known.then(|| self.history.range(first..))
    }

    /// Forgets all changes so far.
    pub(crate) fn forget(&mut self) {
        self.history.clear();
        self.forgotten = self.version;
    }

    /// Remembers so many changes from now on.
    pub(crate) fn remember_at_most(&mut self, limit: usize) {
        self.limit = limit;
        self.trim();
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        self.trim();
    }

    fn trim(&mut self) {
        while self.history.len() > self.limit {
            if let Some(change) = self.history.pop_front() {
                self.forgotten = change.version;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn history_is_bounded_and_says_when_it_does_not_reach_back() {
        let mut store = Store::new();
        let id = Id {
            kind: KindKey { group: String::new(), plural: "pods".to_owned() },
            namespace: "ns".to_owned(),
            name: "a".to_owned(),
        };
        let start = store.version();
        store.put(&id, json!({"metadata": {}}));
        store.take(&id);
        let deleted: Vec<bool> = store.since(start).unwrap().map(|change| change.deleted).collect();
        assert_eq!(deleted, [false, true]);
        store.remember_at_most(1);
        assert!(store.since(start).is_none());
        assert_eq!(store.since(start + 1).unwrap().count(), 1);
        store.forget();
        assert!(store.since(start + 1).is_none());
        assert_eq!(store.since(store.version()).unwrap().count(), 0);
    }
}
