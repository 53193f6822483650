//! Who calls, once a key or a token has said so: what limits, allow-lists and usage records go by.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::denied::Denied;
use crate::limits::Limits;

/// A caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// Never changes and tells nothing secret: `key:<id>`, `token:<issuer>:<subject>`, or empty where everybody may call.
    pub id: Arc<str>,
    /// What people call it.
    pub name: Arc<str>,
    /// What it may ask for.
    pub models: Models,
    /// Its own limits, each of which stands in for the service's.
    pub limits: Limits,
    /// Who goes first when not everybody can.
    pub priority: Priority,
}

impl Principal {
    /// Everybody together, where no keys are asked for.
    pub fn anonymous() -> Principal {
        Principal {
            id: "".into(),
            name: "anonymous".into(),
            models: Models::All,
            limits: Limits::default(),
            priority: Priority::Default,
        }
    }

    /// Whether it may use the model.
    ///
    /// # Errors
    /// [`Denied::Model`].
    pub fn may_use(&self, model: &str) -> Result<(), Denied> {
        if self.models.contain(model) { Ok(()) } else { Err(Denied::Model { model: model.to_owned() }) }
    }
}

/// Which models somebody may use, by the names that requests have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub enum Models {
    /// All of them.
    #[default]
    All,
    /// These; none at all if empty.
    Only(Arc<[String]>),
}

impl Models {
    /// Whether the model is one of them.
    pub fn contain(&self, model: &str) -> bool {
        match self {
            Models::All => true,
            Models::Only(names) => names.iter().any(|name| name == model),
        }
    }

    /// Whether all are allowed: what a document leaves out.
    pub(crate) fn are_all(&self) -> bool {
        *self == Models::All
    }
}

impl From<Vec<String>> for Models {
    /// `*` stands for all; other names are taken as they are.
    fn from(names: Vec<String>) -> Models {
        if names.iter().any(|name| name == "*") { Models::All } else { Models::Only(names.into()) }
    }
}

impl From<Models> for Vec<String> {
    fn from(models: Models) -> Vec<String> {
        match models {
            Models::All => vec!["*".to_owned()],
            Models::Only(names) => names.to_vec(),
        }
    }
}

/// Who goes first when not everybody can, highest first. A caller's own headers never raise it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// What keeps the system alive: probes, operators.
    System,
    /// A person waits for the answer.
    Interactive,
    /// Everything that says nothing else.
    #[default]
    Default,
    /// Whatever may wait: batches, evaluations.
    Bulk,
}

impl Priority {
    /// As documents and claims have it.
    pub fn name(self) -> &'static str {
        match self {
            Priority::System => "system",
            Priority::Interactive => "interactive",
            Priority::Default => "default",
            Priority::Bulk => "bulk",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Priority> {
        [Priority::System, Priority::Interactive, Priority::Default, Priority::Bulk]
            .into_iter()
            .find(|priority| priority.name() == name)
    }

    /// The lower of both: what a request asks for, held down to what its caller has.
    #[must_use]
    pub fn at_most(self, highest: Priority) -> Priority {
        self.max(highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_allows_every_model_and_an_empty_list_none() {
        assert!(Models::from(vec!["a".to_owned(), "*".to_owned()]).contain("b"));
        assert!(!Models::from(vec![]).contain("a"));
        let only = Principal { models: vec!["a".to_owned()].into(), ..Principal::anonymous() };
        assert!(only.may_use("a").is_ok());
        assert_eq!(only.may_use("A").unwrap_err(), Denied::Model { model: "A".into() });
    }

    #[test]
    fn nobody_raises_their_own_priority() {
        assert_eq!(Priority::System.at_most(Priority::Bulk), Priority::Bulk);
        assert_eq!(Priority::Bulk.at_most(Priority::Interactive), Priority::Bulk);
        assert_eq!(Priority::parse("urgent"), None);
    }
}
