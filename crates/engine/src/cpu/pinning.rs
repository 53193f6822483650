//! Decides what is done about threads that should be pinned and cannot be, or should better not be: they compute, and the log says why.

use wharf_kernels::Team;
use wharf_kernels::cpus::{self, Placement};

/// Where the threads of a backend run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// The system places them.
    Off,
    /// Each has a CPU of its own. The first thread that calls for a pass stays pinned for good.
    On,
}

/// CPUs that this process may use: those of its affinity mask, and no more than the limits of its control groups (versions 1
/// and 2) give it time for. The standard library counts both.
pub(crate) fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins the workers; returns the CPU that is left for the caller of loops, when they are pinned.
pub(crate) fn pin_workers(team: &Team) -> Option<usize> {
    match team.pin() {
        Ok(placement) => {
            tracing::info!(cpus = ?placement.cpus, "compute threads are pinned");
            if let Some(advice) = quota_advice(&placement, available_cpus()) {
                tracing::warn!("{advice}");
            }
            placement.cpus.first().copied()
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "compute threads are not pinned and run where the system puts them"
            );
            None
        }
    }
}

/// Pins the calling thread.
pub(crate) fn pin_caller(cpu: usize) {
    if let Err(error) = cpus::pin_caller(cpu) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the engine's thread is not pinned and runs where the system puts it"
        );
    }
}

/// A quota of time, unlike a set of CPUs, keeps nobody else off the CPUs that we choose.
fn quota_advice(placement: &Placement, available: usize) -> Option<String> {
    let Placement { cpus, allowed } = placement;
    (available < *allowed).then(|| {
        format!(
            "threads are pinned to CPUs {cpus:?}, but a quota gives this process the time of {available} of the {allowed} \
             CPUs that it may use: others may be placed on the same CPUs while the rest is idle. Give the process whole \
             CPUs (a cpuset; in Kubernetes the static CPU manager policy), or set cpu_pinning to off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_below_the_mask_is_explained() {
        let placement = Placement { cpus: vec![0, 2], allowed: 64 };
        assert_eq!(quota_advice(&placement, 64), None);
        let advice = quota_advice(&placement, 2).expect("two of 64");
        assert!(advice.contains("[0, 2]") && advice.contains("time of 2 of the 64 CPUs"), "{advice}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_are_as_many_as_a_narrowed_mask_has_cpus() {
        let narrowed = std::thread::spawn(|| {
            let cpu = cpus::allowed().unwrap()[0];
            pin_caller(cpu);
            (cpus::allowed().unwrap() == [cpu], super::super::CpuOptions::default().threads)
        });
        assert_eq!(narrowed.join().unwrap(), (true, 1));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn threads_that_cannot_be_pinned_compute_all_the_same() {
        let computed = std::thread::spawn(|| {
            pin_caller(cpus::allowed().unwrap()[0]);
            let team = Team::new(2);
            let sum = std::sync::atomic::AtomicUsize::new(0);
            let pinned = pin_workers(&team);
            team.for_each(100, 1, &|range| {
                sum.fetch_add(range.sum::<usize>(), std::sync::atomic::Ordering::Relaxed);
            });
            (pinned, sum.into_inner())
        });
        assert_eq!(computed.join().unwrap(), (None, 4950));
    }
}
