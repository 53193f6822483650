//! Machines as lists of CPUs; what the kernel writes, and what it never should.

use super::*;

/// CPUs of a process, and the lists of siblings on its machine.
fn placed(threads: usize, allowed: &[usize], cores: &[&str]) -> Result<Vec<usize>, String> {
    let cores: Vec<Vec<usize>> = cores.iter().map(|core| parse_list(core).unwrap()).collect();
    let cpu = |number: &usize| Cpu {
        number: *number,
        siblings: cores.iter().find(|core| core.contains(number)).unwrap().clone(),
    };
    place(threads, allowed.iter().map(cpu).collect())
        .map(|placement| {
            assert_eq!(placement.allowed, allowed.len());
            placement.cpus
        })
        .map_err(|error| error.to_string())
}

#[test]
fn every_core_gets_a_thread_before_any_gets_two() {
    let neighbours: &[&str] = &["0-1", "2-3", "4-5"];
    let halves: &[&str] = &["0,4", "1,5", "2,6", "3,7"];
    let hybrid: &[&str] = &["0-1", "2-3", "4", "5"];
    for (threads, allowed, cores, expected) in [
        (3, &[0, 1, 2, 3, 4, 5][..], neighbours, &[0, 2, 4][..]),
        (5, &[0, 1, 2, 3, 4, 5], neighbours, &[0, 2, 4, 1, 3]),
        (1, &[0, 1, 2, 3, 4, 5], neighbours, &[0]),
        (6, &[0, 1, 2, 3, 4, 5, 6, 7], halves, &[0, 1, 2, 3, 4, 5]),
        (6, &[0, 1, 2, 3, 4, 5], hybrid, &[0, 2, 4, 5, 1, 3]),
        // A narrowed mask: the upper thread of a core counts as its first where the lower one is not ours.
        (3, &[1, 2, 3], neighbours, &[1, 2, 3]),
        (2, &[1, 2, 3], neighbours, &[1, 2]),
        (2, &[5, 6], halves, &[5, 6]),
        (3, &[2, 3, 6], halves, &[2, 3, 6]),
        // Four threads of a core, as on some POWER and ARM processors.
        (4, &[0, 1, 2, 3, 4, 5, 6, 7], &["0-3", "4-7"], &[0, 4, 1, 5]),
    ] {
        assert_eq!(placed(threads, allowed, cores).as_deref(), Ok(expected), "{threads} of {allowed:?}");
    }
}

#[test]
fn threads_that_would_share_a_cpu_are_not_pinned() {
    let expected = "each of 3 threads needs a CPU of its own, but this process may use 2";
    assert_eq!(placed(3, &[0, 2], &["0-1", "2-3"]), Err(expected.into()));
}

#[test]
fn lists_are_read_as_the_kernel_writes_them_and_nothing_else_is() {
    for (text, expected) in [
        ("0\n", Some(vec![0])),
        ("0-1\n", Some(vec![0, 1])),
        ("3,67\n", Some(vec![3, 67])),
        ("0-2,8,10-11", Some(vec![0, 1, 2, 8, 10, 11])),
        ("", None),
        ("0-", None),
        ("2-1", None),
        ("0-99999999999", None),
        ("0,,1", None),
        ("all", None),
    ] {
        assert_eq!(parse_list(text), expected, "{text:?}");
    }
}

#[cfg(target_os = "linux")]
mod on_this_machine {
    use std::sync::{Barrier, Mutex};

    use super::super::*;
    use crate::Team;

    /// The CPUs that each thread of the team may use, the caller's first.
    fn masks(team: &Team) -> Vec<Vec<usize>> {
        let threads = team.threads();
        let (meet, masks) = (Barrier::new(threads), Mutex::new(vec![Vec::new(); threads]));
        // Each item waits for all others, so every thread has one; which thread it is, scratch tells.
        let mut numbers: Vec<usize> = (0..threads).collect();
        team.for_each_with(&mut numbers, threads, 1, &|thread, _| {
            meet.wait();
            masks.lock().unwrap()[*thread] = allowed().unwrap();
        });
        masks.into_inner().unwrap()
    }

    /// Runs on a thread of its own: what is pinned stays pinned.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn each_thread_of_a_pinned_team_keeps_to_its_cpu() {
        on_a_thread(|| {
            let all = allowed().unwrap();
            let team = Team::new(all.len());
            assert_eq!(
                masks(&team),
                vec![all.clone(); all.len()],
                "nobody is pinned who was not asked to be"
            );
            let placement = team.pin().unwrap();
            assert_eq!(placement, place(all.len(), with_siblings(&all).unwrap()).unwrap());
            pin_caller(placement.cpus[0]).unwrap();
            let expected: Vec<Vec<usize>> = placement.cpus.iter().map(|cpu| vec![*cpu]).collect();
            assert_eq!(masks(&team), expected);
        });
    }

    #[test]
    fn only_cpus_of_a_narrowed_mask_are_used() {
        for cpu in allowed().unwrap() {
            on_a_thread(move || {
                pin_caller(cpu).unwrap();
                assert_eq!(Team::new(1).pin().unwrap(), Placement { cpus: vec![cpu], allowed: 1 });
                let team = Team::new(2);
                let refused = team.pin().unwrap_err();
                assert!(matches!(refused, PinError::TooFew { threads: 2, allowed: 1 }), "{refused}");
                assert_eq!(masks(&team), vec![vec![cpu]; 2], "both go on where they may");
            });
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused_with_its_number() {
        on_a_thread(|| {
            for cpu in [MOST_CPUS - 1, MOST_CPUS] {
                let error = pin_caller(cpu).unwrap_err();
                assert_eq!(error.to_string(), format!("failed to pin thread 0 to CPU {cpu}"));
            }
            let error = with_siblings(&[MOST_CPUS]).unwrap_err().to_string();
            assert!(error.contains("cpu8192/topology/thread_siblings_list"), "{error}");
        });
    }
}
