//! Settings of GPUs: persistence mode, power limit, locked clocks. Only where a node asks for it, and never without knowing how to undo it.
//!
//! How a GPU was set is on disk before anything of it is changed, and put back when the agent ends, when the node no longer asks, or, after a
//! crash, when the agent starts again. What a GPU or its driver refuses is said and left.

mod journal;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use wharf_telemetry::log::chain;
use wharf_telemetry::metrics::node as table;

use crate::board::{Board, Part, Seen};
use crate::config::TuningConfig;
use crate::gpus::blocking;
use crate::nvml::{Library, Settings, Write};

use journal::Journal;

/// How often one looks whether the node still asks for it.
const LOOK: Duration = Duration::from_secs(60);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a GPU was set before it was changed. What was not changed is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Original {
    /// Persistence mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<bool>,
    /// Milliwatts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit: Option<u32>,
    /// What clocks are locked to now. NVML does not tell whether they were before: they are freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<(u32, u32)>,
}

/// What has to be set of a GPU. Pure.
pub fn plan(settings: &Settings, original: &Original, wanted: &TuningConfig) -> Vec<Write> {
    let mut writes = Vec::new();
    if wanted.persistence && settings.persistence == Some(false) {
        writes.push(Write::Persistence(true));
    }
    if let (Some(share), Some(default), Some((least, most))) =
        (wanted.power, settings.power_default, settings.power_bounds)
    {
        let limit = (f64::from(default) * share).round().clamp(least.into(), most.max(least).into());
        // Between two numbers of 32 bits.
        let limit = limit as u32;
        if settings.power_limit != Some(limit) {
            writes.push(Write::PowerLimit(limit));
        }
    }
    if let (Some((low, high)), Some(max)) = (wanted.clocks, settings.clock_max) {
        let of = |share: f64| (f64::from(max) * share).round() as u32;
        let clocks = (of(low), of(high));
        if original.locked != Some(clocks) {
            writes.push(Write::LockClocks(clocks.0, clocks.1));
        }
    }
    writes
}

/// What is known of how it was, once this is written too. What was noted before stays: it is how it was before us. Pure.
pub fn noted(original: &Original, settings: &Settings, writes: &[Write]) -> Original {
    let mut noted = original.clone();
    for write in writes {
        match *write {
            Write::Persistence(_) => noted.persistence = noted.persistence.or(settings.persistence),
            Write::PowerLimit(_) => noted.power_limit = noted.power_limit.or(settings.power_limit),
            Write::LockClocks(low, high) => noted.locked = Some((low, high)),
            Write::FreeClocks => noted.locked = None,
        }
    }
    noted
}

/// What puts it back. Pure.
pub fn undo(original: &Original) -> Vec<Write> {
    let Original { persistence, power_limit, locked } = original;
    let clocks = locked.map(|_| Write::FreeClocks);
    let power = power_limit.map(Write::PowerLimit);
    // Without persistence mode the driver may forget the rest, so it goes last.
    clocks.into_iter().chain(power).chain(persistence.map(Write::Persistence)).collect()
}

/// Tunes for as long as it is polled. [`restore`] has to follow.
pub(crate) async fn run(board: &Arc<Board>, client: Option<&Client>) {
    let mut seen = board.follow();
    loop {
        if seen.wait_for(|seen| seen.looked).await.is_err() {
            return;
        }
        let now = Arc::clone(&seen.borrow_and_update());
        match wanted(board, client).await {
            Ok(true) => tune(board, &now).await,
            Ok(false) => {
                restore(board).await;
                let label = &board.config.tuning.node_label;
                board.say(
                    Part::Tuning,
                    true,
                    "NotAsked",
                    format!("the node has no label {label}; its GPUs are left as they are"),
                );
            }
            Err(error) => board.say(Part::Tuning, false, "ClusterUnavailable", error),
        }
        let uuids = |seen: &Seen| seen.inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>();
        let before = uuids(&now);
        tokio::select! {
            _ = seen.wait_for(|seen| uuids(seen) != before) => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Whether the node asks for it.
async fn wanted(board: &Board, client: Option<&Client>) -> Result<bool, String> {
    let label = &board.config.tuning.node_label;
    let Some((key, value)) = label.split_once('=') else { return Ok(true) };
    let Some(client) = client else {
        return Err(format!("tuning needs the node's label {label}, but no cluster is configured"));
    };
    let nodes: Api<Node> = Api::all(client.clone());
    let node = match timeout(PATIENCE, nodes.get(&board.node)).await {
        Ok(node) => node.map_err(|error| format!("failed to read node {}: {}", board.node, chain(&error)))?,
        Err(_) => return Err(format!("the API server did not answer about node {}", board.node)),
    };
    Ok(node.metadata.labels.is_some_and(|labels| labels.get(key).map(String::as_str) == Some(value)))
}

async fn tune(board: &Arc<Board>, seen: &Arc<Seen>) {
    let Some(library) = seen.library.clone() else {
        board.say(Part::Tuning, false, "NoGpu", "there are no GPUs to tune");
        return;
    };
    let (board, seen) = (Arc::clone(board), Arc::clone(seen));
    blocking(move || {
        // A look that is under way when the agent ends goes on in its thread.
        let closed = board.tuning();
        if *closed {
            return;
        }
        let mut journal = Journal::open(&board.config.paths);
        let mut said = Vec::new();
        let mut refused = false;
        for gpu in &seen.inventory.gpus {
            match tune_one(&board, &library, &mut journal, &gpu.uuid) {
                Ok(lines) => said.extend(lines),
                Err(why) => {
                    refused = true;
                    said.push(why);
                }
            }
        }
        let dry = board.config.tuning.dry_run;
        let (ready, reason) = match (refused, dry) {
            (true, _) => (false, "Refused"),
            (false, true) => (true, "DryRun"),
            (false, false) => (true, "Tuned"),
        };
        // A look that finds everything set says nothing new.
        if !said.is_empty() || refused {
            board.say(Part::Tuning, ready, reason, said.join("; "));
        }
    })
    .await;
}

/// Sets one GPU. Returns what was done, or would be.
fn tune_one(
    board: &Board,
    library: &Library,
    journal: &mut Journal,
    uuid: &str,
) -> Result<Vec<String>, String> {
    let settings = library.settings(uuid).map_err(|error| chain(&error))?;
    let original = journal.of(uuid);
    let writes = plan(&settings, &original, &board.config.tuning);
    let said = |write: &Write| format!("{uuid}: {write:?}");
    if board.config.tuning.dry_run {
        return Ok(writes.iter().map(said).collect());
    }
    let mut done = Vec::new();
    for write in writes {
        // Noted before it is done: a crash in between undoes what was not done, which changes nothing.
        let original = journal.of(uuid);
        let after = noted(&original, &settings, &[write]);
        journal
            .note(uuid, after)
            .map_err(|error| format!("failed to note how {uuid} was set, so it is left: {error}"))?;
        match set(board, library, uuid, write) {
            Ok(()) => done.push(said(&write)),
            Err(why) => {
                let _ = journal.note(uuid, original);
                return Err(why);
            }
        }
    }
    Ok(done)
}

fn set(board: &Board, library: &Library, uuid: &str, write: Write) -> Result<(), String> {
    let setting = match write {
        Write::Persistence(_) => "persistence",
        Write::PowerLimit(_) => "power",
        Write::LockClocks(..) | Write::FreeClocks => "clocks",
    };
    let result = library.set(uuid, write);
    let counted = if result.is_ok() { "ok" } else { "refused" };
    board.metrics.add(&table::TUNED, &[setting, counted], 1.0);
    match &result {
        Ok(()) => tracing::info!(gpu = uuid, ?write, "set a GPU"),
        Err(error) => tracing::warn!(gpu = uuid, ?write, error = chain(error), "failed to set a GPU"),
    }
    result.map_err(|error| chain(&error))
}

/// Puts back all that was changed. What cannot be put back stays noted.
pub(crate) async fn restore(board: &Arc<Board>) {
    let board = Arc::clone(board);
    blocking(move || put_back(&board, &board.tuning())).await;
}

/// As [`restore`], for good: nothing is set after it.
pub(crate) async fn close(board: &Arc<Board>) {
    let board = Arc::clone(board);
    blocking(move || {
        let mut closed = board.tuning();
        *closed = true;
        put_back(&board, &closed);
    })
    .await;
}

/// `_alone`: nobody else sets GPUs meanwhile.
fn put_back(board: &Board, _alone: &bool) {
    let seen = board.seen();
    let mut journal = Journal::open(&board.config.paths);
    if journal.is_empty() {
        return;
    }
    let Some(library) = &seen.library else { return };
    for (uuid, original) in journal.all() {
        // One that is refused does not hold up the others.
        let refused =
            undo(&original).into_iter().filter(|write| set(board, library, &uuid, *write).is_err()).count();
        if refused == 0
            && let Err(error) = journal.note(&uuid, Original::default())
        {
            tracing::warn!(gpu = uuid, %error, "failed to note that a GPU is as it was");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            persistence: Some(false),
            power_limit: Some(700_000),
            power_default: Some(700_000),
            power_bounds: Some((200_000, 700_000)),
            clock_max: Some(1980),
        }
    }

    fn wanted() -> TuningConfig {
        TuningConfig { power: Some(0.8), clocks: Some((0.5, 0.75)), ..TuningConfig::default() }
    }

    #[test]
    fn only_what_differs_is_set() {
        let all = [Write::Persistence(true), Write::PowerLimit(560_000), Write::LockClocks(990, 1485)];
        assert_eq!(plan(&settings(), &Original::default(), &wanted()), all);
        let set = Settings { persistence: Some(true), power_limit: Some(560_000), ..settings() };
        let original = Original { locked: Some((990, 1485)), ..Original::default() };
        assert_eq!(plan(&set, &original, &wanted()), []);
        let quiet = TuningConfig { persistence: false, ..TuningConfig::default() };
        assert_eq!(plan(&settings(), &Original::default(), &quiet), []);
    }

    #[test]
    fn power_stays_within_what_the_gpu_allows() {
        let low = TuningConfig { persistence: false, power: Some(0.1), ..TuningConfig::default() };
        assert_eq!(plan(&settings(), &Original::default(), &low), [Write::PowerLimit(200_000)]);
        let high = TuningConfig { power: Some(1.5), ..low };
        let capped = Settings { power_limit: Some(300_000), ..settings() };
        assert_eq!(plan(&capped, &Original::default(), &high), [Write::PowerLimit(700_000)]);
    }

    #[test]
    fn what_a_gpu_does_not_have_is_not_set() {
        assert_eq!(plan(&Settings::default(), &Original::default(), &wanted()), []);
    }

    #[test]
    fn it_is_put_back_as_it_was_before_the_first_change() {
        let original =
            noted(&Original::default(), &settings(), &plan(&settings(), &Original::default(), &wanted()));
        let later = Settings { persistence: Some(true), power_limit: Some(560_000), ..settings() };
        let original = noted(&original, &later, &[Write::PowerLimit(400_000)]);
        assert_eq!(
            undo(&original),
            [Write::FreeClocks, Write::PowerLimit(700_000), Write::Persistence(false)]
        );
        assert_eq!(undo(&Original::default()), []);
    }
}
