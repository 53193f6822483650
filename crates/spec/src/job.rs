//! What a command of Wharf says to whoever runs it as a Job: how far it is, while it runs, and what it made, when it is done.

use serde::{Deserialize, Serialize};

use crate::service::Quality;

/// Where a command that runs as a Job says how far it is, under [`PROGRESS_PATH`].
pub const PROGRESS_PORT: u16 = 8082;
/// Answers with a [`JobProgress`].
pub const PROGRESS_PATH: &str = "/progress";
/// The file whose content Kubernetes keeps when a container has ended: a [`JobResult`] of one that succeeded.
pub const RESULT_FILE: &str = "/dev/termination-log";

/// What a command says of a model that its gate has refused. Whoever reads it tells a gate from a failure by these words.
pub const REFUSED: &str = "is not good enough and was not kept";

/// How far a command is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobProgress {
    /// What it does, as a word: `fetching`.
    pub what: String,
    /// How much of that is done.
    pub percent: f64,
    /// What is at hand and how fast it goes, in words.
    pub message: String,
}

/// What a command made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobResult {
    /// How large it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The model as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Quality>,
    /// The model as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Quality>,
}
