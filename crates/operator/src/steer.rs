//! What people ask of releases on a cluster, with their own rights: how releases are, and commands. A command is an annotation; the operator's
//! answer to it is in the status.

mod apply;

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use wharf_api::console::{RolloutView, VersionView};
use wharf_manifests::names::{COLOUR, SERVICE};
use wharf_rollout::{CommandKind, State, describe};
use wharf_spec::service::ServiceStatus;

pub use apply::order;

/// A service's releases, as people see them.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// `namespace/name`.
    pub service: String,
    /// The release; none where nothing was released yet.
    pub rollout: Option<RolloutView>,
    /// What there is of versions.
    pub versions: Vec<VersionView>,
}

/// A cluster could not be asked, or did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// There is none of this name.
    #[error("there is no LLMService {name} in the namespace {namespace}; `kubectl get llm -A` lists all")]
    NotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The API server refused, or could not be asked.
    #[error("failed to {what}")]
    Call {
        /// What was tried.
        what: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A newer Wharf wrote the status, or somebody else did.
    #[error("failed to read the release of {service}")]
    Unreadable {
        /// `namespace/name`.
        service: String,
        /// Why not.
        #[source]
        source: wharf_rollout::ReadStateError,
    },
    /// The answer could not be waited for.
    #[error("failed to wait for the answer about LLMService {name}")]
    Watch {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::runtime::wait::Error>,
    },
    /// Nobody answered.
    #[error("no operator answered within {0:?}; `wharf doctor` says whether one runs")]
    NoAnswer(Duration),
    /// The operator said why not.
    #[error("the operator did not do it: {0}")]
    Refused(String),
}

/// How the releases of a namespace are (of all namespaces, of one service).
///
/// # Errors
/// When the cluster cannot be asked, and when the one service is not there.
pub async fn releases(
    client: &Client,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<Release>, SteerError> {
    let params = match name {
        Some(name) => ListParams::default().fields(&format!("metadata.name={name}")),
        None => ListParams::default(),
    };
    let services = services(client, namespace);
    let found = services.list(&params).await.map_err(|source| failed("list LLMServices", source))?;
    if let (Some(name), true) = (name, found.items.is_empty()) {
        let namespace = namespace.unwrap_or("(any)").to_owned();
        return Err(SteerError::NotFound { namespace, name: name.to_owned() });
    }
    let deployments: Api<Deployment> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let versions = deployments
        .list(&ListParams::default().labels(crate::view::OURS))
        .await
        .map_err(|source| failed("list Deployments", source))?;
    found.items.iter().map(|service| release(service, &versions.items)).collect()
}

fn services(client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = kube::api::ApiResource::erase::<wharf_spec::LLMService>(&());
    wharf_cluster::api(client, namespace, &resource)
}

fn failed(what: &str, source: kube::Error) -> SteerError {
    SteerError::Call { what: what.to_owned(), source: Box::new(source) }
}

fn full_name(service: &DynamicObject) -> String {
    format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
}

fn status(service: &DynamicObject) -> ServiceStatus {
    serde_json::from_value(service.data["status"].clone()).unwrap_or_default()
}

fn state(service: &DynamicObject) -> Result<State, SteerError> {
    let unreadable = |source| SteerError::Unreadable { service: full_name(service), source };
    status(service)
        .rollout
        .map_or_else(|| Ok(State::default()), |value| State::read(value).map_err(unreadable))
}

fn release(service: &DynamicObject, workloads: &[Deployment]) -> Result<Release, SteerError> {
    let (state, status) = (state(service)?, status(service));
    let rollout = status.rollout.is_some().then(|| describe(&state));
    let kept = state.kept.as_ref().map(|kept| &kept.version);
    let known = [state.active.as_ref(), state.candidate.as_ref(), kept];
    let versions = known.into_iter().flatten().map(|version| {
        let is_its = |workload: &&Deployment| {
            workload.namespace() == service.namespace()
                && workload.labels().get(SERVICE) == Some(&service.name_any())
                && workload.labels().get(COLOUR).map(String::as_str) == Some(version.colour.name())
        };
        let workload = workloads.iter().find(is_its);
        let count = |count: Option<i32>| u32::try_from(count.unwrap_or(0)).unwrap_or(0);
        let weight = status.traffic.iter().find(|share| share.colour == version.colour.into());
        VersionView {
            colour: version.colour.name().to_owned(),
            generation: version.generation,
            weight: weight.map_or(0, |share| share.weight),
            ready: count(workload.and_then(|workload| workload.status.as_ref()?.ready_replicas)),
            wanted: count(workload.and_then(|workload| workload.spec.as_ref()?.replicas)),
        }
    });
    Ok(Release { service: full_name(service), rollout, versions: versions.collect() })
}

/// The annotation that asks for something, with a number above every one before.
fn command(service: &DynamicObject, state: &State, kind: CommandKind) -> (String, u64) {
    let asked = service.annotations().get(crate::service::COMMAND);
    let asked = asked.and_then(|text| text.split_once('@')?.1.parse().ok()).unwrap_or(0_u64);
    let answered = state.answer.as_ref().map_or(0, |answer| answer.sequence);
    let sequence = asked.max(answered) + 1;
    (format!("{}@{sequence}", crate::service::word(kind)), sequence)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_has_a_number_above_those_that_were_asked_and_answered() {
        let service = |annotation: &str| -> DynamicObject {
            let metadata = json!({"name": "a", "annotations": {"wharf.dev/rollout": annotation}});
            serde_json::from_value(
                json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": metadata}),
            )
            .unwrap()
        };
        let answered = |sequence| State {
            answer: Some(wharf_rollout::Answer { sequence, done: true, message: String::new() }),
            ..State::default()
        };
        let next = |annotation: &str, state: &State| command(&service(annotation), state, CommandKind::Undo);
        assert_eq!(next("promote@3", &answered(2)), ("undo@4".to_owned(), 4));
        assert_eq!(next("promote@3", &answered(7)), ("undo@8".to_owned(), 8));
        assert_eq!(next("nonsense", &State::default()), ("undo@1".to_owned(), 1));
    }
}
