//! What is wrong with the objects in a text: everything at once, each with its line, its path and what to do.
//!
//! Three looks, each at what the one before let through: `document` reads YAML and remembers lines, `shape` compares with the
//! kind's schema, `rules` knows what fields mean together. A field that one look refuses is taken out before the next, so that
//! one mistake does not hide another.

mod document;
mod problem;
mod rules;
mod shape;

use serde_json::Value;

pub use document::{Document, ReadError};
pub use problem::{Problem, Severity};
pub use rules::memory_target;

use crate::crd::{KINDS, Kind};
use crate::{GROUP, LLMService, Model};

/// An object that a document holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A service.
    Service(Box<LLMService>),
    /// A model.
    Model(Box<Model>),
    /// Something that is not ours, by `apiVersion` and kind.
    Foreign(String, String),
}

/// The object in a document, and everything that is wrong with it. There is no object when it is not known what it should be.
pub fn check(document: &Document) -> (Option<Object>, Vec<Problem>) {
    let value = document.value();
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let place = |path: &str, message: String| (None, vec![document.problem(Severity::Error, path, message)]);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return place("", format!("needs apiVersion: {} and a kind", crate::API_VERSION));
    };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if group != GROUP {
        // A slip in our own group is no other object: nobody else's group is so near.
        if strsim::damerau_levenshtein(group, GROUP) <= 2 {
            return place("apiVersion", format!("must be {}, not {api_version:?}", crate::API_VERSION));
        }
        return (Some(Object::Foreign(api_version.to_owned(), kind.to_owned())), Vec::new());
    }
    if api_version != crate::API_VERSION {
        return place("apiVersion", format!("must be {}, not {api_version:?}", crate::API_VERSION));
    }
    let Some((_, known)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        return place("kind", shape::unknown("kind", kind, &names));
    };
    match known {
        Kind::LLMService => {
            let (object, mut problems) = shape::read::<LLMService>(document, Kind::LLMService);
            let found = object.as_ref().map(|object| rules::service(object, document)).unwrap_or_default();
            problem::add(&mut problems, found);
            (object.map(|object| Object::Service(Box::new(object))), problem::sorted(problems))
        }
        Kind::Model => {
            let (object, mut problems) = shape::read::<Model>(document, Kind::Model);
            let found = object.as_ref().map(|object| rules::model(object, document)).unwrap_or_default();
            problem::add(&mut problems, found);
            (object.map(|object| Object::Model(Box::new(object))), problem::sorted(problems))
        }
    }
}

#[cfg(test)]
mod tests;
