//! Writes how many replicas a workload has, and nothing else of it: its pods stay as they were made.

use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::MANAGER;
use crate::context::Context;
use crate::error::Error;
use crate::observe::Workload;
use crate::view::api;

/// Gives a workload so many replicas, through its scale subresource.
pub(crate) async fn scale(context: &Context, workload: &Workload, replicas: u32) -> Result<(), Error> {
    let object = &workload.object;
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let Some(kept) = context.view.find(&types.api_version, &types.kind).await else {
        return Err(Error::Unserved { api_version: types.api_version, kind: types.kind });
    };
    let api = api(&context.client, object.metadata.namespace.as_deref(), &kept.resource);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch_scale(name, &params, &patch)
        .await
        .map_err(|error| Error::call("scale", &types.kind, name, error))?;
    Ok(())
}
