//! Writes a command of a person on a service, and waits for the operator's answer.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, api::DynamicObject};
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
    let found =
        services.get_opt(name).await.map_err(|source| failed(&format!("read LLMService {name}"), source))?;
    let not_found = || SteerError::NotFound { namespace: namespace.to_owned(), name: name.to_owned() };
    let service = found.ok_or_else(not_found)?;
    let (annotation, sequence) = command(&service, &state(&service)?, kind);
    // With the version that was read: two people must not get one number.
    let metadata = json!({
        "annotations": {crate::service::COMMAND: annotation}, "resourceVersion": service.metadata.resource_version,
    });
    let params = PatchParams { field_manager: Some("wharf-rollout".to_owned()), ..PatchParams::default() };
    services
        .patch(name, &params, &Patch::Merge(json!({"metadata": metadata})))
        .await
        .map_err(|source| failed(&format!("annotate LLMService {name}"), source))?;
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
