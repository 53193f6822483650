//! Writes a command of a person on a service, and waits for the operator's answer.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::timeout;
use wharf_rollout::CommandKind;

use super::{SteerError, command, failed, services, state};

/// Asks for something, and returns what the operator answered.
///
/// # Errors
/// When there is no such service, the cluster refuses, nobody answers within `patience`, or the operator says that it cannot be done.
pub async fn order(
    client: &Client,
    namespace: &str,
    name: &str,
    kind: CommandKind,
    patience: Duration,
) -> Result<String, SteerError> {
    let services = services(client, Some(namespace));
    let not_found = || SteerError::NotFound { namespace: namespace.to_owned(), name: name.to_owned() };
    let asking = async {
        loop {
            let found = services.get_opt(name).await;
            let found = found.map_err(|source| failed(&format!("read LLMService {name}"), source))?;
            if let Some(sequence) = annotate(&services, &found.ok_or_else(not_found)?, kind).await? {
                return Ok(sequence);
            }
        }
    };
    let sequence = timeout(patience, asking).await.unwrap_or(Err(SteerError::NoAnswer(patience)))?;
    let answered = |service: Option<&DynamicObject>| {
        let answer = service.and_then(|service| state(service).ok()).and_then(|state| state.answer);
        answer.is_some_and(|answer| answer.sequence >= sequence)
    };
    let waited = timeout(patience, await_condition(services, name, answered)).await;
    let service = match waited {
        Err(_) => return Err(SteerError::NoAnswer(patience)),
        Ok(Ok(service)) => service.ok_or_else(not_found)?,
        Ok(Err(error)) => return Err(SteerError::Watch { name: name.to_owned(), source: Box::new(error) }),
    };
    let answer = state(&service)?.answer.ok_or(SteerError::NoAnswer(patience))?;
    if answer.done { Ok(answer.message) } else { Err(SteerError::Refused(answer.message)) }
}

/// Writes the command and returns its number; nothing when somebody else has written in between, as an operator does many times in a release.
async fn annotate(
    services: &Api<DynamicObject>,
    service: &DynamicObject,
    kind: CommandKind,
) -> Result<Option<u64>, SteerError> {
    let name = service.name_any();
    let (annotation, sequence) = command(service, &state(service)?, kind);
    // With the version that was read: two people must not get one number.
    let metadata = json!({
        "annotations": {crate::service::COMMAND: annotation}, "resourceVersion": service.metadata.resource_version,
    });
    let params = PatchParams { field_manager: Some("wharf-rollout".to_owned()), ..PatchParams::default() };
    match services.patch(&name, &params, &Patch::Merge(json!({"metadata": metadata}))).await {
        Ok(_) => Ok(Some(sequence)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(source) => Err(failed(&format!("annotate LLMService {name}"), source)),
    }
}
