//! Undoes what somebody edits of a version by hand: its pods are made again as they were released. Releases go through the object.

use std::time::Duration;

use kube::ResourceExt;
use tokio::time::Instant;
use wharf_cluster::Object;

use super::dereference::Found;
use crate::apply::{apply_one, tell};
use crate::context::{Context, PutRight};
use crate::error::Error;
use crate::events::event;
use crate::made::{self, Edited};
use crate::workload::Workload;

/// Who edits again and again is told so as often as this.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Makes a workload again as it was, with so many replicas, if somebody has edited it. Says whether there was anything to do.
///
/// # Errors
/// When the API server refuses.
pub(super) async fn put_right(
    context: &Context,
    found: &Found,
    workload: &Workload,
    replicas: u32,
) -> Result<bool, Error> {
    let Some(Edited { field, remade }) = made::edited(&found.object, &workload.object, replicas) else {
        return Ok(false);
    };
    if is_held(context, &found.object) || !apply_one(context, &remade).await? {
        return Ok(true);
    }
    let now = Instant::now();
    let uid = found.object.metadata.uid.clone().unwrap_or_default();
    let told = context.memory().put_right.get(&uid).map(|before| before.told);
    let is_news = told.is_none_or(|told| now - told >= TOLD_EVERY);
    let told = told.filter(|_| !is_news).unwrap_or(now);
    context.memory().put_right.insert(uid, PutRight { when: now, told });
    if is_news {
        let kind = remade["kind"].as_str().unwrap_or_default();
        let name = workload.object.name_any();
        let note = format!(
            "{kind} {name} was edited ({field}) and is as it was released again; change the LLMService instead"
        );
        tell(context, &found.object, vec![event(true, "EditUndone", &note)]).await;
    }
    Ok(true)
}

/// Whether an edit was undone a moment ago: with whoever edits at once again nobody races.
pub(super) fn is_held(context: &Context, service: &Object) -> bool {
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let memory = context.memory();
    memory.put_right.get(uid).is_some_and(|put_right| put_right.when.elapsed() < context.beat)
}
