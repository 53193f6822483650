//! Jobs: they end as a test says. No Pods are made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Next;
use super::api::{Things, conditions, is_true, now, text};
use crate::wire::lock;

/// How a Job fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobFate {
    /// It succeeds after a while.
    Completes {
        /// Time from its start.
        after: Duration,
    },
    /// It fails for good.
    Fails {
        /// `BackoffLimitExceeded`, `DeadlineExceeded`.
        reason: String,
        /// In a sentence.
        message: String,
    },
    /// It runs and does not end.
    Runs,
    /// Nothing happens to it yet.
    Waits,
}

impl JobFate {
    /// It succeeds at once.
    pub fn completes() -> JobFate {
        JobFate::Completes { after: Duration::ZERO }
    }

    /// It fails after its retries.
    pub fn fails() -> JobFate {
        JobFate::Fails {
            reason: "BackoffLimitExceeded".to_owned(),
            message: "Job has reached the specified backoff limit".to_owned(),
        }
    }
}

pub(crate) struct Runner {
    jobs: Things,
    fate: Box<dyn Fn(&Value) -> JobFate + Send + Sync>,
    /// Since when each job runs, by uid.
    running: Mutex<HashMap<String, Instant>>,
}

impl Runner {
    pub(crate) fn new(jobs: Things, fate: Box<dyn Fn(&Value) -> JobFate + Send + Sync>) -> Runner {
        Runner { jobs, fate, running: Mutex::default() }
    }

    pub(crate) async fn round(self: Arc<Self>) -> kube::Result<Next> {
        let mut next: Option<Duration> = None;
        for job in self.jobs.list().await? {
            let over = is_true(&job, "Complete") || is_true(&job, "Failed");
            if over || job["spec"]["suspend"] == true || !job["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let fate = (self.fate)(&job);
            let uid = text(&job["metadata"]["uid"]).to_owned();
            let since = *lock(&self.running).entry(uid).or_insert_with(Instant::now);
            let wait = match &fate {
                JobFate::Waits => continue,
                JobFate::Completes { after } => after.saturating_sub(since.elapsed()),
                JobFate::Fails { .. } | JobFate::Runs => Duration::ZERO,
            };
            let shown = if wait.is_zero() { fate } else { JobFate::Runs };
            self.jobs.change_status(&job, &status(&job, &shown)).await?;
            if !wait.is_zero() {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        Ok(next.map_or(Next::Change, Next::After))
    }
}

fn status(job: &Value, fate: &JobFate) -> Value {
    let started = job["status"]["startTime"].as_str().map_or_else(now, str::to_owned);
    let mut status = json!({"startTime": started, "active": 0, "ready": 0});
    match fate {
        JobFate::Completes { .. } => {
            let reason = "CompletionsReached";
            status["succeeded"] = job["spec"]["completions"].as_u64().unwrap_or(1).into();
            status["completionTime"] = now().into();
            status["conditions"] =
                conditions(job, &[("SuccessCriteriaMet", true, reason, ""), ("Complete", true, reason, "")]);
        }
        JobFate::Fails { reason, message } => {
            status["failed"] = (job["spec"]["backoffLimit"].as_u64().unwrap_or(6) + 1).into();
            status["conditions"] = conditions(
                job,
                &[("FailureTarget", true, reason, message), ("Failed", true, reason, message)],
            );
        }
        JobFate::Runs | JobFate::Waits => {
            status["active"] = 1.into();
            status["ready"] = 1.into();
        }
    }
    status
}
