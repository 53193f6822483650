//! Scenarios: add requests, run steps, look at the plan.

use super::*;
use proptest::prelude::*;

const CONFIG: SchedulerConfig = SchedulerConfig {
    max_batch_tokens: 64,
    max_running: 8,
    prefill_tokens_while_decoding: 32,
    prefix_caching: true,
};

fn scheduler(blocks: usize, config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config, BlockPool::new(blocks), PrefixHasher::new([1; 16]))
}

fn prompt(id: u64, tokens: usize) -> Sequence {
    // Different requests have different prompts unless they share an id modulo 100.
    Sequence::new(RequestId(id), (0..tokens as u32).map(|i| i + 1000 * (id % 100) as u32).collect(), 0)
}

/// Runs one step; every sampled request gets the token 7.
fn step(scheduler: &mut Scheduler) -> Plan {
    let plan = scheduler.plan();
    for work in &plan.work {
        let chunk = scheduler.chunk(work);
        assert!(chunk.blocks.len() * BLOCK_TOKENS >= chunk.start + chunk.tokens.len());
        scheduler.complete(work);
        if work.samples {
            scheduler.push(work.id, 7);
        }
    }
    plan
}

fn work(plan: &Plan) -> Vec<(u64, usize, bool)> {
    plan.work.iter().map(|work| (work.id.0, work.tokens, work.samples)).collect()
}

#[test]
fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 150));
    assert_eq!(work(&step(&mut s)), [(1, 64, false)]);
    assert_eq!(work(&step(&mut s)), [(1, 64, false)]);
    assert_eq!(work(&step(&mut s)), [(1, 22, true)]);
    assert_eq!(work(&step(&mut s)), [(1, 1, true)]);
}

#[test]
fn a_lowered_limit_makes_chunks_smaller() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 150));
    s.limit_prefill(16);
    assert_eq!(work(&step(&mut s)), [(1, 16, false)]);
    s.limit_prefill(0);
    assert_eq!(work(&step(&mut s)), [(1, 1, false)], "a prompt always advances");
}

#[test]
fn running_streams_go_first_and_bound_the_prompt_tokens_beside_them() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 10));
    step(&mut s);
    s.add(prompt(2, 100));
    assert_eq!(work(&step(&mut s)), [(1, 1, true), (2, 32, false)]);
}

#[test]
fn a_second_request_reuses_full_blocks_but_computes_its_last_token() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 32));
    step(&mut s);
    s.remove(RequestId(1));
    s.add(prompt(101, 32));
    let plan = step(&mut s);
    assert_eq!(plan.admitted, [(RequestId(101), 16)], "the second block holds the last token");
    assert_eq!(work(&plan), [(101, 16, true)]);
}

#[test]
fn another_salt_shares_nothing() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 32));
    step(&mut s);
    s.add(Sequence { salt: 9, ..prompt(101, 32) });
    assert_eq!(step(&mut s).admitted, [(RequestId(101), 0)]);
}

#[test]
fn the_latest_arrival_gives_way_and_comes_back() {
    let mut s = scheduler(4, CONFIG);
    s.add(prompt(1, 30));
    s.add(prompt(2, 30));
    assert_eq!(work(&step(&mut s)), [(1, 30, true), (2, 30, true)]);
    step(&mut s);
    step(&mut s);
    let plan = step(&mut s);
    assert_eq!(plan.preempted, [RequestId(2)]);
    assert_eq!(work(&plan), [(1, 1, true)]);
    s.remove(RequestId(1));
    let plan = step(&mut s);
    assert_eq!(plan.admitted.len(), 1);
    assert_eq!(s.tokens(RequestId(2)).map(<[u32]>::len), Some(34), "its generated tokens were kept");
}

#[test]
fn removing_a_waiting_request_leaves_the_others() {
    let mut s = scheduler(4, SchedulerConfig { max_running: 1, ..CONFIG });
    s.add(prompt(1, 8));
    s.add(prompt(2, 8));
    step(&mut s);
    assert!(s.remove(RequestId(2)));
    assert!(!s.remove(RequestId(2)));
    assert_eq!((s.running(), s.waiting()), (1, 0));
}

proptest! {
    /// Whatever arrives, every request is finished, no step exceeds its budget, no block leaks, and tokens are computed
    /// in order.
    #[test]
    fn every_request_finishes_within_the_bounds(
        lengths in proptest::collection::vec((1usize..90, 1usize..40), 1..20),
        blocks in 9usize..30,
        prefix_caching: bool,
    ) {
        let config = SchedulerConfig { prefix_caching, ..CONFIG };
        let mut s = scheduler(blocks, config);
        let mut wanted = std::collections::BTreeMap::new();
        let mut arrivals = lengths.iter().enumerate();
        let mut finished = 0;
        for round in 0..100_000 {
            if round % 3 == 0 && let Some((index, (prompt_tokens, answer))) = arrivals.next() {
                s.add(prompt(index as u64, *prompt_tokens));
                wanted.insert(index as u64, prompt_tokens + answer);
            }
            let plan = step(&mut s);
            let total: usize = plan.work.iter().map(|work| work.tokens).sum();
            prop_assert!(total <= config.max_batch_tokens);
            prop_assert!(s.running() <= config.max_running);
            prop_assert!(plan.work.is_empty() == (s.running() + s.waiting() == 0));
            for work in &plan.work {
                if s.tokens(work.id).is_some_and(|tokens| tokens.len() >= wanted[&work.id.0]) {
                    s.remove(work.id);
                    finished += 1;
                }
            }
            if finished == lengths.len() {
                prop_assert_eq!(s.pool().used(), 0);
                return Ok(());
            }
        }
        prop_assert!(false, "requests starved");
    }
}
