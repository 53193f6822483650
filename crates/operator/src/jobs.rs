//! The Jobs that make a model: which one runs next, and how far all are. Pure.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_cluster::Object;
use wharf_rollout::Prepared;
use wharf_spec::job::{JobProgress, JobResult};

use crate::observe::{failure, has_ended as pod_has_ended, line};

/// How far a model is, and what should run now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress<'a> {
    /// The Job that should be there next; those before it are done.
    pub(crate) next: Option<&'a Value>,
    /// The command that runs, or that failed.
    pub(crate) verb: String,
    /// In words.
    pub(crate) prepared: Prepared,
    /// How much of it is done, where it says so.
    pub(crate) percent: Option<f64>,
}

/// `jobs` are in the order in which they run; `live` and `pods` are what there is of them; `said` is how far a pod's command is, as it says.
pub(crate) fn progress<'a>(
    jobs: &'a [Value],
    live: &[Object],
    pods: &[Object],
    said: impl Fn(&str) -> Option<JobProgress>,
) -> Progress<'a> {
    let mut percent = None;
    for job in jobs {
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let verb = job["spec"]["template"]["spec"]["containers"][0]["name"].as_str().unwrap_or("prepare");
        let known = live.iter().find(|known| known.metadata.name.as_deref() == Some(name));
        let tries = tries(name, pods);
        let prepared = match known.map(|known| (ended(known), known)) {
            None => Prepared::Pending(format!("`wharf {verb}` is about to start")),
            Some((Some(Ended::Well), _)) => continue,
            Some((Some(Ended::Badly(said)), _)) => {
                let said = last_words(&tries).unwrap_or(said);
                Prepared::Failed(format!(
                    "`wharf {verb}` failed: {said}; delete the Job {name} to try again, or change the object"
                ))
            }
            Some((None, _)) => match tries.last().and_then(|pod| failure(pod)) {
                Some(failure) => Prepared::Pending(format!(
                    "`wharf {verb}` in the Job {name} does not get on: {}",
                    failure.reason
                )),
                None => {
                    let said = tries.last().and_then(|pod| said(pod.metadata.uid.as_deref()?));
                    percent = said.as_ref().map(|said| said.percent.round());
                    Prepared::Pending(runs(verb, name, said))
                }
            },
        };
        return Progress { next: Some(job), verb: verb.to_owned(), prepared, percent };
    }
    Progress { next: None, verb: String::new(), prepared: Prepared::Ready, percent: None }
}

fn runs(verb: &str, job: &str, said: Option<JobProgress>) -> String {
    let mut text = format!("`wharf {verb}` runs in the Job {job}");
    if let Some(JobProgress { what, percent, message }) = said.filter(|said| !said.what.is_empty()) {
        text = format!("{text}: {what}, {percent:.0}%");
        if !message.is_empty() {
            text = format!("{text}, {message}");
        }
    }
    text
}

/// Pods of Jobs that have not ended.
pub(crate) fn running(pods: &[Object]) -> impl Iterator<Item = &Object> {
    pods.iter().filter(|pod| pod.data["status"]["phase"] == "Running")
}

/// What the commands said that have succeeded: how large the model is by the last of them, what it was before the first, and what it is now.
pub(crate) fn results(jobs: &[Value], pods: &[Object]) -> JobResult {
    let mut all = JobResult::default();
    for job in jobs {
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let succeeded =
            pods.iter().filter(|pod| is_of(pod, name) && pod.data["status"]["phase"] == "Succeeded");
        let said =
            succeeded.filter_map(|pod| last_words(&[pod])).find_map(|said| serde_json::from_str(&said).ok());
        let JobResult { bytes, before, after } = said.unwrap_or_default();
        all = JobResult {
            bytes: bytes.or(all.bytes),
            before: all.before.or(before),
            after: after.or(all.after),
        };
    }
    all
}

/// How a Job is that stands alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Nothing is there of it.
    Absent,
    /// It works, or pods of it still do.
    Works,
    /// It succeeded; what its command said.
    Done(JobResult),
    /// It failed; why.
    Failed(String),
}

/// How the Job of this name is.
pub(crate) fn fate(name: &str, live: &[Object], pods: &[Object]) -> Fate {
    let own = tries(name, pods);
    match live.iter().find(|job| job.metadata.name.as_deref() == Some(name)).map(|job| ended(job)) {
        Some(Some(Ended::Well)) => {
            let said = last_words(&own).and_then(|said| serde_json::from_str(&said).ok());
            Fate::Done(said.unwrap_or_default())
        }
        Some(Some(Ended::Badly(said))) => Fate::Failed(last_words(&own).unwrap_or(said)),
        Some(None) => Fate::Works,
        None if own.iter().any(|pod| !pod_has_ended(pod)) => Fate::Works,
        None => Fate::Absent,
    }
}

/// Whether a Job has succeeded, or failed for good.
pub(crate) fn has_ended(job: &DynamicObject) -> bool {
    ended(job).is_some()
}

/// The Job that a pod belongs to.
pub(crate) fn job_of(pod: &DynamicObject) -> Option<&str> {
    JOB_NAMES.iter().find_map(|key| pod.labels().get(*key)).map(String::as_str)
}

enum Ended {
    Well,
    Badly(String),
}

fn ended(job: &DynamicObject) -> Option<Ended> {
    let conditions = job.data["status"]["conditions"].as_array()?;
    let holds = |kind: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
    if holds("Complete").is_some() {
        return Some(Ended::Well);
    }
    let failed = holds("Failed")?;
    Some(Ended::Badly(line(failed["message"].as_str().unwrap_or("its Job does not say why"))))
}

/// Labels that tell a pod's Job, the one that old clusters have last.
const JOB_NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

fn is_of(pod: &Object, job: &str) -> bool {
    job_of(pod) == Some(job)
}

/// Pods of a Job, the last try at the end.
fn tries<'a>(job: &str, pods: &'a [Object]) -> Vec<&'a Object> {
    let mut tries: Vec<&Object> = pods.iter().filter(|pod| is_of(pod, job)).collect();
    tries.sort_by_key(|pod| pod.creation_timestamp().map(|made| made.0));
    tries
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

    fn silent(_: &str) -> Option<JobProgress> {
        None
    }

    fn pod(job: &str, phase: &str, said: &str) -> Object {
        let status = json!({"phase": phase, "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "message": said}}}]});
        let metadata = json!({"name": "p", "uid": "u", "labels": {"job-name": job}});
        live(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}))
    }

    #[test]
    fn a_job_that_runs_says_how_far_it_is() {
        let jobs = [job("a-fetch", "fetch")];
        let running = live(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-fetch"}}));
        let said = |uid: &str| {
            let message = "1 GB of 2 GB".to_owned();
            (uid == "u").then(|| JobProgress { what: "fetching".to_owned(), percent: 50.4, message })
        };
        let found = progress(&jobs, &[running], &[pod("a-fetch", "Running", "")], said);
        assert_eq!(found.percent, Some(50.0));
        let expected = "`wharf fetch` runs in the Job a-fetch: fetching, 50%, 1 GB of 2 GB";
        assert_eq!(found.prepared, Prepared::Pending(expected.to_owned()));
    }

    #[test]
    fn of_several_tries_the_last_one_counts() {
        let jobs = [job("a-fetch", "fetch")];
        let running = live(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-fetch"}}));
        let at = |minute: u32, pod: Object| {
            let mut pod = DynamicObject::clone(&pod);
            let made = format!("2026-11-27T10:{minute:02}:00Z").parse().unwrap();
            pod.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(made));
            Arc::new(pod)
        };
        let failed = |said: &str| {
            let ended = json!({"exitCode": 1, "message": said});
            let status = json!({"phase": "Failed", "containerStatuses": [{"restartCount": 0, "state": {"terminated": ended}}]});
            let metadata = json!({"name": "p", "labels": {"job-name": "a-fetch"}});
            live(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}))
        };
        let tells = |job: &Object, pods: &[Object]| match progress(&jobs, &[Object::clone(job)], pods, silent)
            .prepared
        {
            Prepared::Pending(why) | Prepared::Failed(why) => why,
            Prepared::Ready => panic!("it is not done"),
        };
        let tries = [at(2, failed("no space left")), at(1, failed("connection reset"))];
        assert_eq!(
            tells(&running, &tries),
            "`wharf fetch` in the Job a-fetch does not get on: exits with code 1: no space left"
        );
        let third = live(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"job-name": "a-fetch"}}, "status": {"phase": "Running"}}),
        );
        let [second, first] = tries;
        let tries = [at(3, third), second, first];
        assert_eq!(tells(&running, &tries), "`wharf fetch` runs in the Job a-fetch");
        let given_up = with("a-fetch", "Failed");
        assert!(tells(&given_up, &tries[1..]).starts_with("`wharf fetch` failed: no space left; delete"));
    }

    #[test]
    fn what_was_made_is_what_the_last_command_made_and_was_what_the_first_found() {
        let jobs = [job("a-fetch", "fetch"), job("a-distill", "distill"), job("a-quantize", "quantize")];
        let pods = [
            pod("a-fetch", "Succeeded", r#"{"bytes":300}"#),
            pod(
                "a-distill",
                "Succeeded",
                r#"{"before":{"perplexity":9.0},"after":{"perplexity":10.0,"klDivergence":0.3}}"#,
            ),
            pod(
                "a-quantize",
                "Succeeded",
                r#"{"bytes":100,"before":{"perplexity":10.0},"after":{"perplexity":10.5,"klDivergence":0.1}}"#,
            ),
            pod("a-quantize", "Failed", "no space left"),
        ];
        let found = results(&jobs, &pods);
        assert_eq!(found.bytes, Some(100));
        assert_eq!(found.before.map(|quality| quality.perplexity), Some(9.0));
        assert_eq!(found.after.and_then(|quality| quality.kl_divergence), Some(0.1));
        assert_eq!(results(&jobs, &[]), JobResult::default());
    }

    #[test]
    fn a_job_starts_when_the_one_before_it_is_done() {
        let jobs = [job("a-fetch", "fetch"), job("a-quantize", "quantize")];
        assert_eq!(progress(&jobs, &[], &[], silent).next, Some(&jobs[0]));
        let running = live(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a-fetch"}}));
        let progress_now = progress(&jobs, &[running], &[], silent);
        assert_eq!(
            progress_now.prepared,
            Prepared::Pending("`wharf fetch` runs in the Job a-fetch".to_owned())
        );
        let done = with("a-fetch", "Complete");
        assert_eq!(progress(&jobs, &[Object::clone(&done)], &[], silent).next, Some(&jobs[1]));
        let both = [done, with("a-quantize", "Complete")];
        assert_eq!(progress(&jobs, &both, &[], silent).prepared, Prepared::Ready);
    }

    #[test]
    fn a_job_works_until_its_last_pod_has_ended_though_it_is_gone() {
        let runs = [pod("a-remove", "Running", "")];
        assert_eq!(fate("a-remove", &[], &runs), Fate::Works);
        assert_eq!(fate("a-remove", &[], &[pod("a-remove", "Failed", "")]), Fate::Absent);
        assert_eq!(fate("a-remove", &[], &[pod("another", "Running", "")]), Fate::Absent);
        let said = [pod("a-remove", "Succeeded", r#"{"bytes":7}"#)];
        let done = JobResult { bytes: Some(7), ..JobResult::default() };
        assert_eq!(fate("a-remove", &[with("a-remove", "Complete")], &said), Fate::Done(done));
        let busy = [pod("a-remove", "Failed", "Device or resource busy\n")];
        let failed = fate("a-remove", &[with("a-remove", "Failed")], &busy);
        assert_eq!(failed, Fate::Failed("Device or resource busy".to_owned()));
    }

    #[test]
    fn a_job_that_failed_tells_what_its_process_said_last() {
        let jobs = [job("a-quantize", "quantize")];
        let failed = [with("a-quantize", "Failed")];
        let Prepared::Failed(why) = progress(&jobs, &failed, &[], silent).prepared else {
            panic!("it failed")
        };
        assert!(
            why.starts_with("`wharf quantize` failed: Job has reached the specified backoff limit; delete"),
            "{why}"
        );
        let pod = live(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"job-name": "a-quantize"}},
            "status": {"containerStatuses": [{"state": {"terminated": {"exitCode": 1, "message": "perplexity +3.1% is more than 2%\n"}}}]},
        }));
        let Prepared::Failed(why) = progress(&jobs, &failed, &[pod], silent).prepared else {
            panic!("it failed")
        };
        assert!(
            why.starts_with("`wharf quantize` failed: perplexity +3.1% is more than 2%; delete"),
            "{why}"
        );
    }
}
