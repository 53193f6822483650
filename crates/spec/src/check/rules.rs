//! What fields mean together. One file a topic, one line in a list each.

mod access;
mod engine;
mod expose;
mod model;
mod names;
mod overrides;
mod resources;
mod rollout;
mod scaling;

pub use scaling::memory_target;

use super::{Document, Problem, Severity};
use crate::{LLMService, Model};

/// Collects what rules find.
struct Findings<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    /// The object cannot be used.
    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(self.document.problem(Severity::Error, path, message.into()));
    }

    /// The object can be used, and may surprise.
    fn warning(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(self.document.problem(Severity::Warning, path, message.into()));
    }

    /// An error unless `holds`.
    fn require(&mut self, holds: bool, path: &str, message: impl Into<String>) {
        if !holds {
            self.error(path, message);
        }
    }
}

type Rule<T> = fn(&T, &mut Findings<'_>);

const SERVICE_RULES: &[Rule<LLMService>] = &[
    names::service,
    model::service,
    engine::service,
    resources::service,
    scaling::service,
    rollout::service,
    expose::service,
    access::service,
    overrides::service,
];

const MODEL_RULES: &[Rule<Model>] = &[names::model, model::model];

pub(super) fn service(object: &LLMService, document: &Document) -> Vec<Problem> {
    apply(SERVICE_RULES, object, document)
}

pub(super) fn model(object: &Model, document: &Document) -> Vec<Problem> {
    apply(MODEL_RULES, object, document)
}

fn apply<T>(rules: &[Rule<T>], object: &T, document: &Document) -> Vec<Problem> {
    let mut findings = Findings { document, problems: Vec::new() };
    rules.iter().for_each(|rule| rule(object, &mut findings));
    findings.problems
}
