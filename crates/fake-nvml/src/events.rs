//! Sets of events: which GPUs a program wants to hear of, and what it has heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::machine::{Event, Machine};

/// What a program wants to hear of.
#[derive(Debug, Default)]
struct Set {
    gpus: BTreeSet<String>,
    heard: u64,
}

#[derive(Debug)]
struct Sets {
    by_handle: BTreeMap<usize, Set>,
    made: usize,
}

static SETS: Mutex<Sets> = Mutex::new(Sets { by_handle: BTreeMap::new(), made: 0 });

fn sets() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new set, which hears of what happens from now on.
pub(crate) fn create(machine: &Machine) -> usize {
    let mut sets = sets();
    sets.made += 1;
    let handle = sets.made;
    let heard = machine.events.last().map_or(0, |last| last.sequence);
    sets.by_handle.insert(handle, Set { gpus: BTreeSet::new(), heard });
    handle
}

/// Whether there was such a set.
pub(crate) fn free(handle: usize) -> bool {
    sets().by_handle.remove(&handle).is_some()
}

/// Whether there is such a set.
pub(crate) fn register(handle: usize, gpu: &str) -> bool {
    sets().by_handle.get_mut(&handle).map(|set| set.gpus.insert(gpu.to_owned())).is_some()
}

/// What has happened, if anything has; none of both if there is no such set.
pub(crate) fn next(handle: usize, machine: &Machine) -> Option<Option<Event>> {
    let mut sets = sets();
    let set = sets.by_handle.get_mut(&handle)?;
    let next =
        machine.events.iter().find(|event| event.sequence > set.heard && set.gpus.contains(&event.gpu));
    if let Some(event) = next {
        set.heard = event.sequence;
    }
    Some(next.cloned())
}
