//! Objects as their text. As a tree of JSON values an object takes about ten times as much: every map of a field or two has a table and
//! room for more, every word a place of its own. So what is only looked at now and then is kept as text, with the few words beside it by
//! which it is found, and is a tree for as long as somebody looks.

use std::borrow::Cow;
use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::{Lookup, ObjectRef};
use serde_json::Value;

use crate::Object;

/// An object as text. `T` is what a reader finds it by, beside its name.
#[derive(Clone, Debug)]
pub struct Packed<T> {
    namespace: Option<Box<str>>,
    name: Box<str>,
    uid: Option<Box<str>>,
    version: Option<Box<str>>,
    /// What was read off it.
    pub marks: T,
    text: Box<[u8]>,
}

impl<T> Packed<T> {
    /// Packs an object.
    pub fn new(object: &DynamicObject, marks: T) -> Packed<T> {
        let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
        let metadata = &object.metadata;
        // Its maps have texts for keys, so that all of it has a form in JSON.
        let text = serde_json::to_vec(object).unwrap_or_default();
        Packed {
            namespace: boxed(&metadata.namespace),
            name: metadata.name.as_deref().unwrap_or_default().into(),
            uid: boxed(&metadata.uid),
            version: boxed(&metadata.resource_version),
            marks,
            text: text.into_boxed_slice(),
        }
    }

    /// The object.
    pub fn object(&self) -> Object {
        Arc::new(serde_json::from_slice(&self.text).expect("what was written from an object is one"))
    }

    /// The object as it would be sent.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.text).expect("what was written as JSON is JSON")
    }

    /// Its namespace.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// The version in which it was seen.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Bytes of its text.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Never: an object has at least a name.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl<T> Lookup for Packed<T> {
    /// Shared, since every key has it.
    type DynamicType = Arc<ApiResource>;

    fn kind(resource: &Arc<ApiResource>) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &Arc<ApiResource>) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &Arc<ApiResource>) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &Arc<ApiResource>) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        self.namespace.as_deref().map(Cow::Borrowed)
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        self.version.as_deref().map(Cow::Borrowed)
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        self.uid.as_deref().map(Cow::Borrowed)
    }

    /// Without version and uid, which the object itself has.
    fn to_object_ref(&self, resource: Arc<ApiResource>) -> ObjectRef<Packed<T>> {
        let named = ObjectRef::new_with(&self.name, resource);
        match &self.namespace {
            Some(namespace) => named.within(namespace),
            None => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_packed_object_is_the_object_and_its_key_says_where_it_is() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}, "status": {"podIP": "10.0.0.1"},
        });
        let object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
        let packed = Packed::new(&object, 5);
        assert_eq!(*packed.object(), object);
        assert_eq!(packed.value(), value);
        assert_eq!((packed.namespace(), packed.name(), packed.uid()), (Some("n"), "p", Some("u")));
        assert_eq!((packed.version(), packed.marks), (Some("7"), 5));
        let resource = Arc::new(ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()));
        let key = packed.to_object_ref(Arc::clone(&resource));
        assert_eq!(key, ObjectRef::new_with("p", resource).within("n"));
        assert!(key.extra.uid.is_none(), "the object says it already");
    }
}
