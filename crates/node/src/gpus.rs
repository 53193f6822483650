//! Looks at the GPUs: opens NVML, hears of XIDs, asks how each does, and publishes what it finds. A driver that comes later is found later.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};
use wharf_telemetry::log::chain;
use wharf_telemetry::metrics::node as table;

use crate::allocate::MigMinors;
use crate::board::{Board, Part, Seen};
use crate::gpu::{Gpu, Inventory, Nearness};
use crate::health::{Class, Health, Trouble, Xid};
use crate::nvml::{Events, Heard, Library};
use crate::resources::offers;

/// How often one looks for a driver or for GPUs while there are none.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the thread of events waits before it looks whether it is still wanted.
const WAIT_MS: u32 = 2000;
/// Waiting that failed is tried again after this.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Looks for as long as it is polled.
pub(crate) async fn run(board: &Arc<Board>) {
    loop {
        let opening = board.config.clone();
        let opened = blocking(move || Library::open(opening.nvml.as_deref(), &opening.paths.sysfs)).await;
        match opened {
            Ok(library) => watch(board, library).await,
            Err(error) => {
                board.say(
                    Part::Gpus,
                    false,
                    error.reason(),
                    format!("{}; looking again every {AGAIN:?}", chain(&error)),
                );
                board.publish(Seen { looked: true, ..Seen::default() });
            }
        }
        sleep(AGAIN.min(Duration::from_secs_f64(board.config.health.check))).await;
    }
}

/// Runs something that blocks. It never panics by itself; a panic is handed on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will miss the answer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Looks at the GPUs of one open NVML until it can no longer count them.
async fn watch(board: &Arc<Board>, library: Library) {
    let started = Instant::now();
    let every = Duration::from_secs_f64(board.config.health.check);
    let patience = Duration::from_secs_f64(board.config.health.patience);
    let mut health = Health::new(board.config.health.clone());
    let mut known = Inventory::default();
    let mut nearness = Nearness::default();
    let mut ears: Option<Ears> = None;
    loop {
        let looking = library.clone();
        let (before, xids) = (known.clone(), board.config.health.xids);
        let mut look = std::pin::pin!(blocking(move || look(&looking, &before)));
        let look = loop {
            if let Ok(look) = timeout(patience, &mut look).await {
                break look;
            }
            // It cannot be cut short, and asking beside it would only hang too.
            silence(&mut health, started.elapsed(), &known, patience);
            publish(board, &library, &known, &nearness, &health);
        };
        let (inventory, checks) = match look {
            Ok(found) => found,
            Err(error) => {
                board.say(Part::Gpus, false, "NvmlFailed", chain(&error));
                board.publish(Seen { looked: true, ..Seen::default() });
                return;
            }
        };
        if uuids(&inventory) != uuids(&known) {
            let (looking, of) = (library.clone(), inventory.clone());
            nearness = blocking(move || looking.nearness(&of)).await;
            // An old thread must not hear for a new list.
            ears = None;
        }
        if ears.is_none() && xids && !inventory.gpus.is_empty() {
            ears = listen(board, &library, &inventory);
        }
        known = inventory;
        health.see(&known);
        for (uuid, found) in &checks {
            let changed = health.checked(started.elapsed(), uuid, found);
            tell(&changed, &health);
        }
        publish(board, &library, &known, &nearness, &health);
        let next = health.next().map_or(every, |next| next.saturating_sub(started.elapsed()).min(every));
        // Between two looks, what is heard counts at once.
        let until = Instant::now() + next.max(Duration::from_millis(10));
        while let Ok(heard) = timeout(until - Instant::now().min(until), hear(&mut ears)).await {
            match heard {
                Heard::Nothing => {}
                Heard::Failed(why) => {
                    tracing::warn!(why, "failed to wait for events of GPUs; asking each how it does");
                    break;
                }
                Heard::Xid { gpu, xid, part } => {
                    note(board, gpu.as_deref(), xid);
                    let changed = health.xid(started.elapsed(), &Xid { xid, gpu, part });
                    tell(&changed, &health);
                    publish(board, &library, &known, &nearness, &health);
                    // When it may recover has changed.
                    if !changed.is_empty() {
                        break;
                    }
                }
            }
        }
    }
}

/// The driver does not answer, so no GPU does.
fn silence(health: &mut Health, now: Duration, known: &Inventory, patience: Duration) {
    let hangs = Trouble { why: format!("the driver has not answered for {patience:?}"), until_reset: false };
    for gpu in &known.gpus {
        let changed = health.checked(now, &gpu.uuid, &Err(hangs.clone()));
        tell(&changed, health);
    }
}

type Checks = Vec<(String, Result<(), Trouble>)>;

/// What there is, with those that were there before and do not answer, and how each does.
fn look(library: &Library, before: &Inventory) -> Result<(Inventory, Checks), crate::nvml::CallError> {
    let inventory = remember(before, library.inventory()?);
    let check = |gpu: &Gpu| {
        let found = match inventory.silent.get(&gpu.index) {
            Some(why) => Err(Trouble { why: format!("it does not answer: {why}"), until_reset: false }),
            None => library.check(&gpu.uuid).map_err(|error| Trouble {
                why: format!("it does not answer: {}", chain(&error)),
                until_reset: false,
            }),
        };
        let rows = || library.rows(&gpu.uuid).filter(|rows| rows.failed);
        let failed =
            |_| Trouble { why: "rows of its memory could not be replaced".to_owned(), until_reset: true };
        (gpu.uuid.clone(), found.and_then(|()| rows().map_or(Ok(()), |rows| Err(failed(rows)))))
    };
    let checks = inventory.gpus.iter().map(check).collect();
    Ok((inventory, checks))
}

/// A GPU that falls silent is still there: it is broken, not gone. Pure.
fn remember(before: &Inventory, mut now: Inventory) -> Inventory {
    let silent = before.gpus.iter().filter(|gpu| {
        now.silent.contains_key(&gpu.index) && !now.gpus.iter().any(|other| other.uuid == gpu.uuid)
    });
    now.gpus.extend(silent.cloned().collect::<Vec<_>>());
    now.gpus.sort_by_key(|gpu| gpu.index);
    now
}

fn uuids(inventory: &Inventory) -> BTreeSet<&str> {
    inventory.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect()
}

fn publish(board: &Board, library: &Library, inventory: &Inventory, nearness: &Nearness, health: &Health) {
    let minors = std::fs::read_to_string(board.config.paths.proc.join("driver/nvidia-caps/mig-minors"));
    let offers = match offers(inventory, &board.config.plugin) {
        Ok(offers) => {
            say(board, inventory, health);
            offers
        }
        Err(unfit) => {
            board.say(Part::Gpus, false, "MigUnfit", unfit.to_string());
            Vec::new()
        }
    };
    board.publish(Seen {
        looked: true,
        library: Some(library.clone()),
        inventory: inventory.clone(),
        nearness: nearness.clone(),
        offers,
        minors: MigMinors::parse(&minors.unwrap_or_default()),
        health: Some(health.clone()),
    });
}

fn say(board: &Board, inventory: &Inventory, health: &Health) {
    let troubles: Vec<String> =
        health.troubles().iter().map(|(unit, trouble)| format!("{unit}: {}", trouble.why)).collect();
    let unseen =
        inventory.silent.iter().filter(|(index, _)| !inventory.gpus.iter().any(|gpu| gpu.index == **index));
    let unseen: Vec<String> = unseen.map(|(index, why)| format!("GPU {index}: {why}")).collect();
    let count = inventory.gpus.len();
    match (count, troubles.is_empty() && unseen.is_empty()) {
        (0, true) => {
            board.say(Part::Gpus, false, "NoGpu", "the driver is loaded, but this node has no NVIDIA GPU")
        }
        (_, true) => {
            board.say(Part::Gpus, true, "Healthy", format!("{count} GPUs, driver {}", inventory.driver))
        }
        (_, false) => {
            let all = [troubles, unseen].concat().join("; ");
            board.say(
                Part::Gpus,
                count > 0,
                "Unhealthy",
                format!("{count} GPUs, of which some are in trouble: {all}"),
            );
        }
    }
}

fn tell(changed: &[String], health: &Health) {
    for unit in changed {
        match health.trouble(unit) {
            Some(trouble) => {
                tracing::error!(
                    unit,
                    why = trouble.why,
                    until_reset = trouble.until_reset,
                    "pods do not get it any more"
                );
            }
            None => tracing::info!(unit, "is well again; pods may have it"),
        }
    }
}

fn note(board: &Board, gpu: Option<&str>, xid: u64) {
    let class = Class::of(xid);
    let uuid = gpu.unwrap_or("unknown");
    tracing::warn!(gpu = uuid, xid, class = class.name(), "a GPU threw an XID");
    board.metrics.add(&table::XIDS, &[uuid, &xid.to_string(), class.name()], 1.0);
    if let Some(gpu) = gpu {
        board.last_xids().insert(gpu.to_owned(), xid);
    }
}

/// A thread that waits for events, for as long as somebody listens.
struct Ears {
    heard: UnboundedReceiver<Heard>,
    wanted: Arc<AtomicBool>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

async fn hear(ears: &mut Option<Ears>) -> Heard {
    if let Some(ears) = ears
        && let Some(heard) = ears.heard.recv().await
    {
        return heard;
    }
    // Nobody will say anything.
    std::future::pending().await
}

fn listen(board: &Board, library: &Library, inventory: &Inventory) -> Option<Ears> {
    let uuids: Vec<String> = inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    let (events, deaf) = match Events::of(library, &uuids) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "NVML tells of no events; GPUs are only asked every {} s how they do", board.config.health.check);
            return None;
        }
    };
    for (gpu, error) in deaf {
        tracing::warn!(gpu, %error, "NVML tells of no XIDs of this GPU");
    }
    let (sender, heard) = unbounded_channel();
    let wanted = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&wanted);
    // Waiting blocks, and a set of events belongs to one thread.
    let thread = std::thread::Builder::new()
        .name("nvml-events".to_owned())
        .spawn(move || wait(events, &sender, &still));
    match thread {
        Ok(_) => Some(Ears { heard, wanted }),
        Err(error) => {
            tracing::error!(%error, "failed to start the thread of events");
            None
        }
    }
}

fn wait(mut events: Events, sender: &UnboundedSender<Heard>, wanted: &AtomicBool) {
    while wanted.load(Ordering::Relaxed) {
        match events.wait(WAIT_MS) {
            Heard::Nothing => {}
            heard => {
                let failed = matches!(heard, Heard::Failed(_));
                if sender.send(heard).is_err() {
                    return;
                }
                if failed {
                    std::thread::sleep(AFTER_FAILURE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gpu;

    #[test]
    fn a_gpu_that_falls_silent_is_kept_and_one_that_is_gone_is_not() {
        let before = Inventory { gpus: vec![gpu(0), gpu(1), gpu(2)], ..Inventory::default() };
        let mut now = Inventory { gpus: vec![gpu(0)], ..Inventory::default() };
        now.silent.insert(1, "GPU is lost".to_owned());
        let names: Vec<String> = remember(&before, now).gpus.into_iter().map(|gpu| gpu.uuid).collect();
        assert_eq!(names, ["GPU-0", "GPU-1"]);
    }
}
