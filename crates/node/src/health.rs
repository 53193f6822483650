//! Which GPUs and parts may be given to pods. Pure: told what was heard and when.
//!
//! An XID is of one of three classes (NVIDIA's XID catalogue; the first are those that NVIDIA's device plugin leaves alone). What a GPU may
//! recover from puts it on probation: when it has answered and thrown nothing for long enough, pods may have it again, and each time that it
//! breaks anew this takes twice as long. What only a reset repairs holds until the agent is started again, which whoever resets GPUs has to do:
//! a GPU in use cannot be reset.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::config::HealthConfig;
use crate::gpu::Inventory;

/// What an XID means for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A program's own mistake, or news: nothing is wrong with the GPU.
    Program,
    /// The GPU may recover.
    Passing,
    /// Only a reset or a repair helps.
    Reset,
}

impl Class {
    /// The class of an XID. Unknown ones are passing: better a GPU idle for some minutes than pods on a broken one.
    pub fn of(xid: u64) -> Class {
        match xid {
            // Graphics engine exception, MMU fault, reset channel, preemptive cleanup, video decoder, context switch timeout.
            13 | 31 | 43 | 45 | 68 | 109 => Class::Program,
            // Rows that were or will be remapped without harm, and errors that were contained.
            63 | 92 | 94 => Class::Program,
            // Uncorrectable memory error, microcontroller halted, row remapping failed, NVLink, off the bus, uncontained error, GSP lost,
            // unrecovered memory error.
            48 | 62 | 64 | 74 | 79 | 95 | 119 | 120 | 140 => Class::Reset,
            _ => Class::Passing,
        }
    }

    /// In one word, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Program => "program",
            Class::Passing => "passing",
            Class::Reset => "reset",
        }
    }
}

/// Why something may not be given to pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// A sentence.
    pub why: String,
    /// Whether only a reset helps.
    pub until_reset: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    trouble: Option<Trouble>,
    /// When it was last in trouble.
    last: Duration,
    /// How long it must do well from then.
    probation: Duration,
    /// Whether all checks since then went well. One that does not answer cannot recover by waiting.
    answers: bool,
}

/// The health of a node's GPUs and parts, by uuid.
#[derive(Clone, Debug)]
pub struct Health {
    config: HealthConfig,
    /// The GPU that each is, or is a part of, and the instances of a part.
    units: BTreeMap<String, (String, Option<(u32, u32)>)>,
    states: BTreeMap<String, State>,
}

/// An XID that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// Which.
    pub xid: u64,
    /// Of which GPU; of none that is known, it may be of any.
    pub gpu: Option<String>,
    /// Of which instances, if it is of a part alone.
    pub part: Option<(u32, u32)>,
}

impl Health {
    /// All are well.
    pub fn new(config: HealthConfig) -> Health {
        Health { config, units: BTreeMap::new(), states: BTreeMap::new() }
    }

    /// These are there now. What is no longer there is forgotten.
    pub fn see(&mut self, inventory: &Inventory) {
        self.units.clear();
        for gpu in &inventory.gpus {
            self.units.insert(gpu.uuid.clone(), (gpu.uuid.clone(), None));
            for part in gpu.parts() {
                let instances = (part.gpu_instance, part.compute_instance);
                self.units.insert(part.uuid.clone(), (gpu.uuid.clone(), Some(instances)));
            }
        }
        self.states.retain(|unit, _| self.units.contains_key(unit));
    }

    /// An XID was thrown. Returns the uuids whose health it changes.
    pub fn xid(&mut self, now: Duration, heard: &Xid) -> Vec<String> {
        let class = Class::of(heard.xid);
        if !self.config.xids || class == Class::Program || self.config.ignore_xids.contains(&heard.xid) {
            return Vec::new();
        }
        let trouble =
            Trouble { why: format!("it threw XID {}", heard.xid), until_reset: class == Class::Reset };
        let units: Vec<String> = self.whose(heard);
        units.into_iter().filter(|unit| self.suffer(now, unit, trouble.clone())).collect()
    }

    /// The units that an XID is of: the part if it is known, else the GPU, else all.
    fn whose(&self, heard: &Xid) -> Vec<String> {
        let Some(gpu) = heard.gpu.as_ref().filter(|gpu| self.units.contains_key(*gpu)) else {
            return self
                .units
                .iter()
                .filter(|(unit, (gpu, _))| *unit == gpu)
                .map(|(unit, _)| unit.clone())
                .collect();
        };
        let part = heard.part.and_then(|part| {
            let same = |(of, instances): &(String, Option<(u32, u32)>)| of == gpu && *instances == Some(part);
            self.units.iter().find(|(_, unit)| same(unit)).map(|(unit, _)| unit.clone())
        });
        vec![part.unwrap_or_else(|| gpu.clone())]
    }

    /// A GPU was asked how it does. Returns the uuids whose health this changes.
    pub fn checked(&mut self, now: Duration, gpu: &str, found: &Result<(), Trouble>) -> Vec<String> {
        match found {
            Err(trouble) => {
                let changed = self.suffer(now, gpu, trouble.clone());
                if let Some(state) = self.states.get_mut(gpu) {
                    state.answers = false;
                }
                if changed { vec![gpu.to_owned()] } else { Vec::new() }
            }
            Ok(()) => {
                let units = self.units.iter().filter(|(_, (of, _))| of == gpu).map(|(unit, _)| unit.clone());
                units.collect::<Vec<_>>().into_iter().filter(|unit| self.recover(now, unit)).collect()
            }
        }
    }

    fn suffer(&mut self, now: Duration, unit: &str, trouble: Trouble) -> bool {
        let (first, longest) = (self.config.probation, self.config.longest_probation);
        let (first, longest) = (Duration::from_secs_f64(first), Duration::from_secs_f64(longest));
        let state = self.states.entry(unit.to_owned()).or_default();
        state.last = now;
        let was_well = state.trouble.is_none();
        if was_well {
            state.answers = true;
            state.probation =
                if state.probation.is_zero() { first } else { (state.probation * 2).min(longest.max(first)) };
        }
        // What needs a reset is not made better by what would pass.
        let worse = state.trouble.as_ref().is_none_or(|known| trouble.until_reset && !known.until_reset);
        if worse {
            state.trouble = Some(trouble);
        }
        worse
    }

    /// It answers. Whether it may be given to pods again by that.
    fn recover(&mut self, now: Duration, unit: &str) -> bool {
        let Some(state) = self.states.get_mut(unit) else { return false };
        let Some(trouble) = &state.trouble else { return false };
        if !state.answers {
            // It came back: from here on it has to do well.
            state.answers = true;
            state.last = now;
        }
        if trouble.until_reset || now.saturating_sub(state.last) < state.probation {
            return false;
        }
        state.trouble = None;
        true
    }

    /// Why a unit may not be given to pods: for its own sake, or for its GPU's.
    pub fn trouble(&self, unit: &str) -> Option<&Trouble> {
        let own = |unit: &str| self.states.get(unit).and_then(|state| state.trouble.as_ref());
        own(unit).or_else(|| own(&self.units.get(unit)?.0))
    }

    /// All that are in trouble.
    pub fn troubles(&self) -> BTreeMap<&str, &Trouble> {
        self.states
            .iter()
            .filter_map(|(unit, state)| Some((unit.as_str(), state.trouble.as_ref()?)))
            .collect()
    }

    /// When the next recovery is possible at the earliest; never while nothing is on probation.
    pub fn next(&self) -> Option<Duration> {
        let waiting = self.states.values().filter(|state| state.answers);
        let passing =
            waiting.filter(|state| state.trouble.as_ref().is_some_and(|trouble| !trouble.until_reset));
        passing.map(|state| state.last + state.probation).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, Mig};
    use crate::testing::{gpu, part};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn health() -> Health {
        let parts = vec![part("MIG-a", "1g.10gb", 3), part("MIG-b", "1g.10gb", 4)];
        let split = Gpu { mig: Mig::On(parts), ..gpu(1) };
        let mut health = Health::new(HealthConfig { longest_probation: 1000.0, ..HealthConfig::default() });
        health.see(&Inventory { gpus: vec![gpu(0), split], ..Inventory::default() });
        health
    }

    fn of(xid: u64, gpu: &str) -> Xid {
        Xid { xid, gpu: Some(gpu.to_owned()), part: None }
    }

    fn lost() -> Result<(), Trouble> {
        Err(Trouble { why: "lost".to_owned(), until_reset: false })
    }

    #[test]
    fn mistakes_of_programs_change_nothing() {
        for xid in [13, 31, 43, 45, 68, 109, 63, 92, 94] {
            assert!(health().xid(seconds(0), &of(xid, "GPU-0")).is_empty(), "{xid}");
        }
    }

    #[test]
    fn a_gpu_recovers_after_probation_and_not_before() {
        let mut health = health();
        assert_eq!(health.xid(seconds(10), &of(69, "GPU-0")), ["GPU-0"]);
        assert!(health.trouble("GPU-0").unwrap().why.contains("XID 69"));
        assert_eq!(health.next(), Some(seconds(310)));
        assert!(health.checked(seconds(309), "GPU-0", &Ok(())).is_empty());
        assert_eq!(health.checked(seconds(310), "GPU-0", &Ok(())), ["GPU-0"]);
        assert_eq!(health.trouble("GPU-0"), None);
    }

    #[test]
    fn another_xid_starts_probation_anew() {
        let mut health = health();
        health.xid(seconds(0), &of(69, "GPU-0"));
        assert!(health.xid(seconds(200), &of(69, "GPU-0")).is_empty());
        assert!(health.checked(seconds(499), "GPU-0", &Ok(())).is_empty());
        assert_eq!(health.checked(seconds(500), "GPU-0", &Ok(())), ["GPU-0"]);
    }

    #[test]
    fn probation_doubles_to_a_limit_when_a_gpu_breaks_again_and_again() {
        let mut health = health();
        let mut now = seconds(0);
        for expected in [300, 600, 1000, 1000] {
            health.xid(now, &of(69, "GPU-0"));
            assert!(health.checked(now + seconds(expected - 1), "GPU-0", &Ok(())).is_empty(), "{expected}");
            now += seconds(expected);
            assert_eq!(health.checked(now, "GPU-0", &Ok(())), ["GPU-0"]);
        }
    }

    #[test]
    fn what_needs_a_reset_does_not_recover() {
        let mut health = health();
        health.xid(seconds(0), &of(69, "GPU-0"));
        assert_eq!(health.xid(seconds(1), &of(79, "GPU-0")), ["GPU-0"]);
        health.xid(seconds(2), &of(69, "GPU-0"));
        assert!(health.checked(seconds(1_000_000), "GPU-0", &Ok(())).is_empty());
        assert!(health.trouble("GPU-0").unwrap().until_reset);
        assert_eq!(health.next(), None);
    }

    #[test]
    fn a_gpu_that_does_not_answer_recovers_when_it_has_answered_long_enough() {
        let mut health = health();
        assert_eq!(health.checked(seconds(0), "GPU-0", &lost()), ["GPU-0"]);
        assert!(health.checked(seconds(900), "GPU-0", &lost()).is_empty());
        assert!(health.checked(seconds(1000), "GPU-0", &Ok(())).is_empty());
        assert_eq!(health.checked(seconds(1300), "GPU-0", &Ok(())), ["GPU-0"]);
    }

    #[test]
    fn an_xid_of_a_part_is_of_that_part_and_one_of_a_gpu_is_of_all_its_parts() {
        let mut health = health();
        let heard = Xid { part: Some((3, 0)), ..of(69, "GPU-1") };
        assert_eq!(health.xid(seconds(0), &heard), ["MIG-a"]);
        assert!(health.trouble("MIG-b").is_none() && health.trouble("GPU-1").is_none());
        assert_eq!(health.xid(seconds(0), &of(69, "GPU-1")), ["GPU-1"]);
        assert!(health.trouble("MIG-b").is_some());
        assert_eq!(health.checked(seconds(300), "GPU-1", &Ok(())), ["GPU-1", "MIG-a"]);
    }

    #[test]
    fn what_is_no_longer_there_is_in_no_trouble() {
        let mut health = health();
        health.xid(seconds(0), &of(79, "GPU-1"));
        health.see(&Inventory { gpus: vec![gpu(0)], ..Inventory::default() });
        assert!(health.troubles().is_empty());
    }

    #[test]
    fn an_xid_of_nobody_known_is_of_every_gpu() {
        let unknown = Xid { gpu: None, ..of(69, "") };
        assert_eq!(health().xid(seconds(0), &unknown), ["GPU-0", "GPU-1"]);
    }

    #[test]
    fn xids_can_be_left_alone() {
        let config = HealthConfig { ignore_xids: vec![69], ..HealthConfig::default() };
        assert!(Health { config, ..health() }.xid(seconds(0), &of(69, "GPU-0")).is_empty());
        let config = HealthConfig { xids: false, ..HealthConfig::default() };
        assert!(Health { config, ..health() }.xid(seconds(0), &of(79, "GPU-0")).is_empty());
    }
}
