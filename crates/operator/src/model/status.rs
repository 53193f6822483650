//! What the status of a model says.

use kube::api::DynamicObject;
use wharf_cluster::Object;
use wharf_rollout::Prepared;
use wharf_spec::job::REFUSED;
use wharf_spec::service::{ModelState, ModelStatus};

use super::Found;
use super::collect::{self, Decision};
use super::validate::{Wanted, before};
use crate::context::Context;
use crate::error::Error;
use crate::jobs::Progress;
use crate::service::Refusal;
use crate::status::{Says, applied, conditions, write};
use crate::{apply, events, jobs};

/// Says how far a model is, if that is news.
pub(super) async fn keep(
    context: &Context,
    found: &Found,
    wanted: &Wanted,
    progress: &Progress<'_>,
    collected: &Decision,
) -> Result<(), Error> {
    let object = &found.object;
    let results = jobs::results(&wanted.jobs, &found.pods);
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let trouble = context.memory().trouble.get(&uid).cloned();
    let mut says = says(progress);
    let ready = says[0].clone();
    says.extend(applied(trouble.as_ref()));
    says.extend(collect::says(&collected.artifacts));
    let done = progress.prepared == Prepared::Ready;
    // Pods may go before their Jobs: what they said stays, until other files are made.
    let same = wanted.before.path.as_ref() == Some(&wanted.path);
    let before = if same && !wanted.moves { wanted.before.clone() } else { ModelStatus::default() };
    // In another volume there is nothing yet.
    let served = wanted.before.path.clone().filter(|_| !wanted.moves);
    let status = ModelStatus {
        observed_generation: Some(wanted.generation),
        phase: Some(phase(progress)),
        conditions: conditions(&wanted.before.conditions, says, wanted.generation, context.now_ms()),
        path: if done { Some(wanted.path.clone()) } else { served },
        percent: progress.percent,
        bytes: results.bytes.or(before.bytes),
        before: results.before.or(before.before),
        after: results.after.or(before.after),
        artifacts: collected.artifacts.clone(),
    };
    if status == wanted.before {
        return Ok(());
    }
    put(context, object, &status).await?;
    let turned = status.phase != wanted.before.phase
        && matches!(status.phase, Some(ModelState::Ready | ModelState::Failed));
    let told = turned.then(|| events::event(!done, &ready.reason, &ready.message));
    apply::tell(context, object, told.into_iter().chain(collected.happened.clone()).collect()).await;
    Ok(())
}

/// Says that nothing can be done with an object. What was made of it before stays.
pub(super) async fn refuse(context: &Context, object: &Object, refusal: &Refusal) -> Result<(), Error> {
    let before = before(object);
    let generation = object.metadata.generation.unwrap_or(0);
    let Refusal { reason, message } = refusal;
    let says = vec![
        Says::new("Ready", false, *reason, message.clone()),
        Says::new("Stalled", true, *reason, message.clone()),
    ];
    let status = ModelStatus {
        observed_generation: Some(generation),
        phase: Some(ModelState::Failed),
        conditions: conditions(&before.conditions, says, generation, context.now_ms()),
        ..before.clone()
    };
    if status == before {
        return Ok(());
    }
    put(context, object, &status).await?;
    apply::tell(context, object, vec![events::event(true, reason, message)]).await;
    Ok(())
}

async fn put(context: &Context, object: &DynamicObject, status: &ModelStatus) -> Result<(), Error> {
    let value = serde_json::to_value(status).unwrap_or_default();
    write(context, &context.models, object, &value).await
}

fn phase(progress: &Progress<'_>) -> ModelState {
    match (&progress.prepared, progress.verb.as_str()) {
        (Prepared::Ready, _) => ModelState::Ready,
        (Prepared::Failed(_), _) => ModelState::Failed,
        (Prepared::Pending(_), "fetch" | "copy") => ModelState::Fetching,
        (Prepared::Pending(_), "distill") => ModelState::Distilling,
        (Prepared::Pending(_), "quantize") => ModelState::Quantizing,
        (Prepared::Pending(_), "eval") => ModelState::Evaluating,
        (Prepared::Pending(_), _) => ModelState::Pending,
    }
}

/// How far a model is, in sentences; the first says whether it is ready.
fn says(progress: &Progress<'_>) -> Vec<Says> {
    let word = match progress.verb.as_str() {
        "fetch" | "copy" => "Fetch",
        "distill" => "Distill",
        "quantize" => "Quantize",
        "eval" => "Gate",
        _ => "Preparation",
    };
    match &progress.prepared {
        Prepared::Ready => vec![Says::new("Ready", true, "Made", "its files are there")],
        Prepared::Pending(why) => vec![
            Says::new("Ready", false, format!("{word}Pending"), why.clone()),
            Says::new("Reconciling", true, format!("{word}Pending"), why.clone()),
        ],
        Prepared::Failed(why) => {
            let word = if why.contains(REFUSED) { "Gate" } else { word };
            vec![
                Says::new("Ready", false, format!("{word}Failed"), why.clone()),
                Says::new("Stalled", true, format!("{word}Failed"), why.clone()),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_says_which_step_it_is_at_and_why_it_failed() {
        let progress =
            |verb: &str, prepared| Progress { next: None, verb: verb.to_owned(), prepared, percent: None };
        let pending = progress("fetch", Prepared::Pending("runs".to_owned()));
        assert_eq!(phase(&pending), ModelState::Fetching);
        let failed = progress("quantize", Prepared::Failed("+3.1% is more than 2%".to_owned()));
        assert_eq!(
            (phase(&failed), says(&failed)[0].reason.as_str()),
            (ModelState::Failed, "QuantizeFailed")
        );
        assert_eq!(says(&failed)[0].message, "+3.1% is more than 2%");
        let refused = progress("quantize", Prepared::Failed(format!("m.gguf {REFUSED}: perplexity rises")));
        assert_eq!(says(&refused)[0].reason, "GateFailed");
        assert!(says(&progress("", Prepared::Ready))[0].holds);
    }
}
