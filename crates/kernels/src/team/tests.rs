//! Every item once, panics passed on, no deadlock.

use super::*;

fn counts(team: &Team, items: usize, grain: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
    team.for_each(items, grain, &|range| {
        assert!(!range.is_empty() && range.len() <= grain.max(1));
        for i in range {
            counts[i].fetch_add(1, Ordering::Relaxed);
        }
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_item_is_run_once() {
    for threads in 1..5 {
        let team = Team::new(threads);
        assert_eq!(team.threads(), threads);
        for items in [0, 1, 2, 7, 64, 1000] {
            for grain in [0, 1, 3, 100, 5000] {
                assert_eq!(counts(&team, items, grain), vec![1; items]);
            }
        }
        let runs: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        team.run(&|thread| _ = runs[thread].fetch_add(1, Ordering::Relaxed));
        assert!(runs.into_iter().all(|runs| runs.into_inner() == 1));
    }
}

#[test]
fn shrinking_ranges_are_every_item_once_and_end_small() {
    for threads in 1..4 {
        let team = Team::new(threads);
        for (items, grains) in [(0, 1..=4), (1, 3..=9), (500, 2..=40), (500, 0..=0)] {
            let ranges = Mutex::new(Vec::new());
            team.for_each_shrinking(items, grains.clone(), &|range| ranges.lock().unwrap().push(range));
            let mut ranges = ranges.into_inner().unwrap();
            ranges.sort_by_key(|range| range.start);
            assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
            if items == 500 && grains == (2..=40) && threads > 1 {
                let lens: Vec<usize> = ranges.iter().map(Range::len).collect();
                assert_eq!((lens[0], lens.iter().max()), (40, Some(&40)), "the first are the largest");
                assert!(lens.is_sorted_by(|a, b| a >= b) && lens[lens.len() - 2] == 2, "{lens:?}");
            }
        }
    }
}

#[test]
fn many_short_loops_lose_nothing() {
    let team = Team::new(3);
    let total = AtomicUsize::new(0);
    for round in 0..20_000 {
        // Now and then long enough for workers to fall asleep.
        if round % 4000 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        team.for_each(5, 1, &|range| _ = total.fetch_add(range.len(), Ordering::Relaxed));
    }
    assert_eq!(total.into_inner(), 100_000);
}

#[test]
fn workers_take_part() {
    let team = Team::new(2);
    let meet = std::sync::Barrier::new(2);
    // Each of two items waits for the other, so one thread alone could never finish.
    team.for_each(2, 1, &|_| _ = meet.wait());
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_lives_on() {
    let team = Team::new(3);
    for guilty in 0..50 {
        let run = || team.for_each(50, 1, &|range| assert!(range.start != guilty, "item {guilty}"));
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic is passed on");
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert_eq!(*message, format!("item {guilty}"));
        assert_eq!(counts(&team, 30, 2), vec![1; 30]);
    }
}

#[test]
fn a_loop_within_a_loop_finishes() {
    let team = Team::new(2);
    let total = AtomicUsize::new(0);
    team.for_each(8, 1, &|_| {
        team.for_each(10, 1, &|range| _ = total.fetch_add(range.len(), Ordering::Relaxed));
    });
    assert_eq!(total.into_inner(), 80);
}

#[test]
fn two_callers_may_share_a_team() {
    let team = Team::new(2);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|_| assert_eq!(counts(&team, 20, 1), vec![1; 20])));
        }
    });
}

#[test]
fn chunks_are_handed_out_whole() {
    let team = Team::new(3);
    let mut a = vec![0; 103];
    team.for_each_chunk(&mut a, 10, 2, &|i, chunk| chunk.fill(i));
    assert_eq!(a, (0..103).map(|i| i / 10).collect::<Vec<_>>());
    let mut counts = [0; 3];
    team.for_each_chunk_with(&mut counts, &mut a, 10, 1, &|count, i, chunk| {
        assert_eq!(chunk.len(), if i == 10 { 3 } else { 10 });
        *count += chunk.len();
        chunk.fill(i + 1);
    });
    assert_eq!(counts.iter().sum::<usize>(), 103);
    assert_eq!(a, (0..103).map(|i| i / 10 + 1).collect::<Vec<_>>());
    team.for_each_chunk(&mut Vec::<u8>::new(), 0, 1, &|_, _| unreachable!("there are no chunks"));
}

#[test]
fn parts_of_any_length_are_handed_out_the_last_first() {
    for threads in 1..4 {
        let team = Team::new(threads);
        let mut data = vec![0; 50];
        let order = Mutex::new(Vec::new());
        let mut scratch = vec![0; threads];
        team.for_each_part_with(&mut scratch, &mut data, &[0, 3, 3, 40, 41], &|count, index, part| {
            *count += 1;
            part.fill(index + 1);
            order.lock().unwrap().push(index);
        });
        let want: Vec<usize> = [(2, 3), (4, 37), (5, 1), (0, 9)]
            .into_iter()
            .flat_map(|(index, count)| std::iter::repeat_n(index, count))
            .collect();
        assert_eq!(data, want);
        assert_eq!(scratch.iter().sum::<i32>(), 5);
        let mut order = order.into_inner().unwrap();
        if threads == 1 {
            assert_eq!(order, [4, 3, 2, 1, 0]);
        }
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        team.for_each_part_with(&mut scratch, &mut data, &[], &|_, _, _| unreachable!("there are no parts"));
    }
}

#[test]
#[should_panic(expected = "parts follow each other")]
fn parts_that_overlap_are_refused() {
    Team::new(1).for_each_part_with(&mut [0], &mut [0; 9], &[5, 4, 9], &|_, _, _| ());
}

#[test]
fn each_thread_has_a_scratch_of_its_own() {
    let team = Team::new(3);
    let mut sums = vec![0; 3];
    team.for_each_with(&mut sums, 1000, 1, &|sum, range| *sum += range.sum::<usize>());
    assert_eq!(sums.iter().sum::<usize>(), 499_500);
}
