//! The Jobs that make a model: which one runs next, and how far all are. Pure.

use kube::ResourceExt;
use serde_json::Value;
use wharf_rollout::Prepared;

use crate::observe::{failure, line};
use crate::view::Object;

/// How far a model is, and what should run now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress<'a> {
    /// The Job that should be there next; those before it are done.
    pub(crate) next: Option<&'a Value>,
    /// The command that runs, or that failed.
    pub(crate) verb: String,
    /// In words.
    pub(crate) prepared: Prepared,
}

/// `jobs` are in the order in which they run; `live` and `pods` are what there is of them.
pub(crate) fn progress<'a>(jobs: &'a [Value], live: &[Object], pods: &[Object]) -> Progress<'a> {
    for job in jobs {
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let verb = job["spec"]["template"]["spec"]["containers"][0]["name"].as_str().unwrap_or("prepare");
        let known = live.iter().find(|known| known.metadata.name.as_deref() == Some(name));
        let pods: Vec<&Object> = pods.iter().filter(|pod| is_of(pod, name)).collect();
        let prepared = match known.map(|known| (ended(known), known)) {
            None => Prepared::Pending(format!("`wharf {verb}` is about to start")),
            Some((Some(Ended::Well), _)) => continue,
            Some((Some(Ended::Badly(said)), _)) => {
                let said = last_words(&pods).unwrap_or(said);
                Prepared::Failed(format!(
                    "`wharf {verb}` failed: {said}; delete the Job {name} to try again, or change the object"
                ))
            }
            Some((None, _)) => match pods.iter().find_map(|pod| failure(pod)) {
                Some(failure) => Prepared::Pending(format!(
                    "`wharf {verb}` in the Job {name} does not get on: {}",
                    failure.reason
                )),
                None => Prepared::Pending(format!("`wharf {verb}` runs in the Job {name}")),
            },
        };
        return Progress { next: Some(job), verb: verb.to_owned(), prepared };
    }
    Progress { next: None, verb: String::new(), prepared: Prepared::Ready }
}

enum Ended {
    Well,
    Badly(String),
}

fn ended(job: &Object) -> Option<Ended> {
    let conditions = job.data["status"]["conditions"].as_array()?;
    let holds = |kind: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
    if holds("Complete").is_some() {
        return Some(Ended::Well);
    }
    let failed = holds("Failed")?;
    Some(Ended::Badly(line(failed["message"].as_str().unwrap_or("its Job does not say why"))))
}

fn is_of(pod: &Object, job: &str) -> bool {
    let labels = pod.labels();
    ["batch.kubernetes.io/job-name", "job-name"]
        .iter()
        .any(|key| labels.get(*key).is_some_and(|name| name == job))
}

/// What the process said before it ended: that tells more than its Job, which only counts.
fn last_words(pods: &[&Object]) -> Option<String> {
    let of_pod = |pod: &&Object| {
        let statuses = pod.data["status"]["containerStatuses"].as_array()?;
        statuses.iter().find_map(|status| {
            let ended = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
            let said = ended.iter().find_map(|ended| ended["message"].as_str())?;
            Some(line(said)).filter(|said| !said.is_empty())
        })
    };
    pods.iter().rev().find_map(of_pod)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn job(name: &str, verb: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": [{"name": verb}]}}}})
    }

    fn live(value: Value) -> Object {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn with(name: &str, condition: &str) -> Object {
        let conditions = json!([{"type": condition, "status": "True", "message": "Job has reached the specified backoff limit"}]);
        live(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "status": {"conditions": conditions}}),
        )
    }

    #[test]
    fn a_job_starts_when_the_one_before_it_is_done() {
        let jobs = [job("a-fetch", "fetch"), job("a-quantize", "quantize")];
        assert_eq!(progress(&jobs, &[], &[]).next, Some(&jobs[0]));
        let running = live(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-fetch"}}));
        let progress_now = progress(&jobs, &[running], &[]);
        assert_eq!(
            progress_now.prepared,
            Prepared::Pending("`wharf fetch` runs in the Job a-fetch".to_owned())
        );
        let done = with("a-fetch", "Complete");
        assert_eq!(progress(&jobs, &[Object::clone(&done)], &[]).next, Some(&jobs[1]));
        let both = [done, with("a-quantize", "Complete")];
        assert_eq!(progress(&jobs, &both, &[]).prepared, Prepared::Ready);
    }

    #[test]
    fn a_job_that_failed_tells_what_its_process_said_last() {
        let jobs = [job("a-quantize", "quantize")];
        let failed = [with("a-quantize", "Failed")];
        let Prepared::Failed(why) = progress(&jobs, &failed, &[]).prepared else { panic!("it failed") };
        assert!(
            why.starts_with("`wharf quantize` failed: Job has reached the specified backoff limit; delete"),
            "{why}"
        );
        let pod = live(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"job-name": "a-quantize"}},
            "status": {"containerStatuses": [{"state": {"terminated": {"exitCode": 1, "message": "perplexity +3.1% is more than 2%\n"}}}]},
        }));
        let Prepared::Failed(why) = progress(&jobs, &failed, &[pod]).prepared else { panic!("it failed") };
        assert!(
            why.starts_with("`wharf quantize` failed: perplexity +3.1% is more than 2%; delete"),
            "{why}"
        );
    }
}
