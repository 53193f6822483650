//! Writes how many replicas a workload has, or a service asks for, and nothing else of them: pods stay as they were made.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::json;
use wharf_cluster::api;

use crate::MANAGER;
use crate::context::Context;
use crate::error::Error;
use crate::workload::Workload;

/// Gives a workload so many replicas, through its scale subresource.
pub(crate) async fn scale(context: &Context, workload: &Workload, replicas: u32) -> Result<(), Error> {
    let object = &workload.object;
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let Some(kept) = context.view.find(&types.api_version, &types.kind).await else {
        return Err(Error::Unserved { api_version: types.api_version, kind: types.kind });
    };
    write(context, object, &kept.resource, name, replicas).await
}

/// Lets a service ask for so many replicas, through its scale subresource, as HPA and KEDA do.
pub(crate) async fn service(context: &Context, object: &DynamicObject, replicas: u32) -> Result<(), Error> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    write(context, object, &context.services.resource, name, replicas).await
}

async fn write(
    context: &Context,
    object: &DynamicObject,
    resource: &ApiResource,
    name: &str,
    replicas: u32,
) -> Result<(), Error> {
    let api = api(&context.client, object.metadata.namespace.as_deref(), resource);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch_scale(name, &params, &patch)
        .await
        .map_err(|error| Error::call("scale", &resource.kind, name, error))?;
    Ok(())
}
