//! What a cluster has of that which Wharf can use, and what each missing thing costs. The findings are pure functions of [`Facts`]; those are
//! read with the rights of whoever asks.

mod facts;

use serde::Serialize;

pub use facts::{Definitions, Facts, Node, StorageClass, gather};

/// Oldest minor version of Kubernetes 1 whose fields all manifests may use.
const OLDEST_MINOR: u32 = 30;
/// A Lease that was not renewed for so long is held by nobody.
const LEASE_LOST_S: i64 = 60;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is there.
    Ok,
    /// Something that not everybody needs is not there.
    Missing,
    /// Without it nothing works.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub about: &'static str,
    /// How it is.
    pub says: String,
    /// What does not work without it; empty where it is there.
    pub costs: &'static str,
    /// What to do; empty where nothing is to be done.
    pub next: &'static str,
}

fn ok(about: &'static str, says: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, about, says: says.into(), costs: "", next: "" }
}

fn missing(about: &'static str, says: impl Into<String>, costs: &'static str, next: &'static str) -> Finding {
    Finding { level: Level::Missing, about, says: says.into(), costs, next }
}

fn broken(about: &'static str, says: impl Into<String>, costs: &'static str, next: &'static str) -> Finding {
    Finding { level: Level::Broken, about, says: says.into(), costs, next }
}

/// A group of kinds of others: what it is, the group, what is lost without it, what brings it.
const GROUPS: &[(&str, &str, &str, &str)] = &[
    (
        "metrics API",
        "metrics.k8s.io",
        "scaling.mode hpa cannot scale on cpu and memory, and `kubectl top` shows nothing",
        "install metrics-server",
    ),
    (
        "custom metrics API",
        "custom.metrics.k8s.io",
        "scaling.mode hpa cannot scale on requests, queue and GPU; scaling.mode native needs none of it",
        "leave scaling.mode at native, or install an adapter",
    ),
    (
        "Prometheus operator",
        "monitoring.coreos.com",
        "observability.serviceMonitor and alerts are not applied; metrics are still there to be scraped",
        "install the Prometheus operator, or scrape the port `metrics`",
    ),
    (
        "Gateway API",
        "gateway.networking.k8s.io",
        "expose.type HTTPRoute is not applied; LoadBalancer and Ingress work",
        "install the Gateway API's definitions and an implementation",
    ),
    (
        "Gateway API inference extension",
        "inference.networking.k8s.io",
        "expose.inferencePool is not applied; Wharf's own gateway picks replicas without it",
        "install the inference extension's definitions",
    ),
    (
        "LeaderWorkerSet",
        "leaderworkerset.x-k8s.io",
        "models that are spread over several nodes (parallelism.nodes) cannot be served",
        "install LeaderWorkerSet",
    ),
    (
        "KEDA",
        "keda.sh",
        "scaling.mode keda does nothing; scaling.mode native goes to zero and back without it",
        "leave scaling.mode at native, or install KEDA",
    ),
];

/// Everything that there is to say of a cluster, the worst first.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![version(facts), definitions(facts), operator(facts), gateway(facts), gpus(facts)];
    all.extend(storage(facts));
    all.extend(GROUPS.iter().map(|(about, group, costs, next)| match facts.groups.contains(*group) {
        true => ok(about, format!("{group} is served")),
        false => missing(about, format!("{group} is not served"), costs, next),
    }));
    let unread = facts.unread.iter();
    all.extend(unread.map(|(what, why)| {
        missing(
            "your rights",
            format!("{what} could not be read: {why}"),
            "what is said of it here is a guess",
            "ask with more rights",
        )
    }));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    all
}

fn version(facts: &Facts) -> Finding {
    let about = "Kubernetes";
    match facts.minor {
        Some(minor) if minor < OLDEST_MINOR => missing(
            about,
            format!("version {}", facts.version),
            "fields that Wharf writes may be unknown to it, and dropped",
            "upgrade to 1.30 or newer",
        ),
        _ => ok(about, format!("version {}", facts.version)),
    }
}

fn definitions(facts: &Facts) -> Finding {
    let about = "Wharf's definitions";
    let next = "wharf crd | kubectl apply --server-side -f -";
    match facts.definitions {
        Definitions::Current => ok(about, "LLMService and Model are those of this version"),
        Definitions::Other => missing(
            about,
            "LLMService or Model are of another version than this wharf",
            "fields that this version knows may be refused",
            next,
        ),
        Definitions::Absent => {
            broken(about, "LLMService or Model are not defined", "nothing can be applied", next)
        }
    }
}

fn operator(facts: &Facts) -> Finding {
    let about = "operator";
    let next = "install the chart, or run `wharf operator`; see its log";
    match facts.lease_age_s {
        Some(age) if age <= LEASE_LOST_S => ok(about, "one works"),
        Some(age) => broken(
            about,
            format!("its Lease was renewed {age} s ago for the last time"),
            "objects are not acted upon; what serves goes on serving",
            next,
        ),
        None => broken(about, "none has ever asked for the Lease", "objects are not acted upon", next),
    }
}

fn gateway(facts: &Facts) -> Finding {
    match facts.gateways {
        0 => broken(
            "gateway",
            "no ready pod has app.kubernetes.io/component=gateway",
            "services are not reached, but for those with expose.direct; nothing wakes from zero",
            "install the chart, or run `wharf gateway --cluster`",
        ),
        1 => ok("gateway", "one replica is ready; two survive the loss of a node"),
        count => ok("gateway", format!("{count} replicas are ready")),
    }
}

fn gpus(facts: &Facts) -> Finding {
    let about = "GPUs";
    let offered: u64 = facts.nodes.iter().map(|node| node.gpus).sum();
    let with = facts.nodes.iter().filter(|node| node.gpus > 0).count();
    if offered > 0 {
        return ok(about, format!("{offered} nvidia.com/gpu on {with} of {} nodes", facts.nodes.len()));
    }
    let labelled = facts.nodes.iter().filter(|node| node.gpu_labels).count();
    let (says, next) = match labelled {
        0 => ("no node offers nvidia.com/gpu", "for GPUs, install a device plugin on nodes that have them"),
        _ => (
            "nodes are labelled as having GPUs, but none offers nvidia.com/gpu",
            "look at the device plugin's pods on them",
        ),
    };
    missing(about, says, "services that ask for resources.gpu stay pending; others run on CPUs", next)
}

fn storage(facts: &Facts) -> Vec<Finding> {
    let about = "storage";
    let default = facts.storage.iter().find(|class| class.default);
    let found = match default {
        Some(class) => ok(about, format!("the default class is {}", class.name)),
        None if facts.storage.is_empty() => missing(
            about,
            "there is no StorageClass",
            "models that are fetched into a volume wait for it for ever",
            "install a provisioner, or use model.cache.type emptyDir or pvc:// sources",
        ),
        None => missing(
            about,
            "no StorageClass is the default",
            "model.cache needs storageClass in every object",
            "annotate one with storageclass.kubernetes.io/is-default-class=true",
        ),
    };
    vec![found]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: "v1.36.2".to_owned(),
            minor: Some(36),
            groups: GROUPS.iter().map(|(_, group, _, _)| (*group).to_owned()).collect(),
            definitions: Definitions::Current,
            lease_age_s: Some(3),
            gateways: 2,
            nodes: vec![Node { gpus: 4, gpu_labels: true }, Node::default()],
            storage: vec![StorageClass { name: "fast".to_owned(), default: true }],
            unread: Vec::new(),
        }
    }

    fn of<'a>(findings: &'a [Finding], about: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.about == about).unwrap()
    }

    #[test]
    fn a_cluster_that_has_everything_has_nothing_to_complain_of() {
        let findings = findings(&good());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert_eq!(of(&findings, "GPUs").says, "4 nvidia.com/gpu on 1 of 2 nodes");
    }

    #[test]
    fn everything_that_is_missing_says_what_it_costs_and_what_to_do() {
        let findings =
            findings(&Facts { version: "v1.29.0".to_owned(), minor: Some(29), ..Facts::default() });
        assert!(findings.iter().all(|finding| finding.level != Level::Ok));
        assert!(findings.iter().all(|finding| !finding.costs.is_empty() && !finding.next.is_empty()));
        assert_eq!(findings[0].level, Level::Broken, "the worst comes first");
        let broken: Vec<&str> =
            findings.iter().filter(|f| f.level == Level::Broken).map(|f| f.about).collect();
        assert_eq!(broken, ["Wharf's definitions", "operator", "gateway"]);
    }

    #[test]
    fn an_operator_whose_lease_ran_out_is_told_from_one_that_was_never_there() {
        let old = findings(&Facts { lease_age_s: Some(90), ..good() });
        assert!(of(&old, "operator").says.contains("90 s ago"));
        let stale = findings(&Facts { definitions: Definitions::Other, ..good() });
        assert_eq!(of(&stale, "Wharf's definitions").level, Level::Missing);
    }

    #[test]
    fn gpus_that_are_labelled_but_not_offered_are_a_matter_of_the_device_plugin() {
        let facts = Facts { nodes: vec![Node { gpus: 0, gpu_labels: true }], ..good() };
        assert!(of(&findings(&facts), "GPUs").next.contains("device plugin's pods"));
    }
}
