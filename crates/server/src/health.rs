//! Whether the server is alive and whether it wants traffic: pure functions of its vital signs.

use std::time::Duration;

use crate::state::Phase;

/// What health depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vitals {
    pub(crate) phase: Phase,
    pub(crate) engine_stopped: bool,
    /// Requests that the engine has and has not finished.
    pub(crate) queued: usize,
    /// Since the engine last got on.
    pub(crate) since_progress: Duration,
    /// How long the engine may stand still with work queued.
    pub(crate) stall: Duration,
}

/// Liveness: an error means that only a restart helps, or that loading is not over.
pub(crate) fn health(vitals: &Vitals) -> Result<(), String> {
    let Vitals { phase, engine_stopped, queued, since_progress, stall } = vitals;
    match phase {
        Phase::Loading => Err("the model is loading".to_owned()),
        Phase::Ready | Phase::Draining if *engine_stopped => Err("the engine has stopped".to_owned()),
        Phase::Ready | Phase::Draining if *queued > 0 && since_progress > stall => {
            Err(format!("{queued} requests have made no progress for {} s", since_progress.as_secs()))
        }
        Phase::Ready | Phase::Draining => Ok(()),
    }
}

/// Readiness: also fails while draining, when running requests may finish and new ones should go elsewhere.
pub(crate) fn ready(vitals: &Vitals) -> Result<(), String> {
    match vitals.phase {
        Phase::Draining => Err("the server is shutting down".to_owned()),
        Phase::Loading | Phase::Ready => health(vitals),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_and_readiness_follow_phase_engine_and_progress() {
        let s = Duration::from_secs;
        // phase, engine stopped, queued, since progress; alive, ready
        let table = [
            (Phase::Loading, false, 0, s(0), false, false),
            (Phase::Ready, false, 0, s(0), true, true),
            (Phase::Ready, false, 0, s(3600), true, true),
            (Phase::Ready, false, 3, s(60), true, true),
            (Phase::Ready, false, 3, s(61), false, false),
            (Phase::Ready, true, 0, s(0), false, false),
            (Phase::Draining, false, 3, s(1), true, false),
            (Phase::Draining, false, 3, s(61), false, false),
            (Phase::Draining, true, 0, s(0), false, false),
        ];
        for (phase, engine_stopped, queued, since_progress, alive, wants_traffic) in table {
            let vitals = Vitals { phase, engine_stopped, queued, since_progress, stall: s(60) };
            assert_eq!(health(&vitals).is_ok(), alive, "{vitals:?}");
            assert_eq!(ready(&vitals).is_ok(), wants_traffic, "{vitals:?}");
        }
    }
}
