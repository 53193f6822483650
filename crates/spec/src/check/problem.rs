//! One thing that is wrong, and where.

use std::fmt;

use serde::Serialize;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object cannot be used.
    Error,
    /// It can, and may surprise.
    Warning,
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// File, or `-`.
    pub file: String,
    /// Line, from 1; that of the nearest thing that is there, where something is missing.
    pub line: u64,
    /// Kind and name of the object, as far as they are known.
    pub object: String,
    /// Path of the field, as `spec.scaling.max`; empty for the object itself.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { severity, file, line, object: _, path, message } = self;
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{file}:{line}: {severity}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(message)
    }
}

/// Adds what rules have found, except what follows only from a field that was wrong before, and so was not seen by them.
pub(super) fn add(problems: &mut Vec<Problem>, found: Vec<Problem>) {
    let wrong: Vec<String> = problems.iter().map(|problem| problem.path.clone()).collect();
    let follows = |problem: &Problem| {
        wrong.iter().any(|path| {
            path.strip_prefix(problem.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    problems.extend(found.into_iter().filter(|problem| !follows(problem)));
}

/// In the order of the file, each once.
pub(super) fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (a.line, &a.path, a.severity).cmp(&(b.line, &b.path, b.severity)));
    problems.dedup();
    problems
}
