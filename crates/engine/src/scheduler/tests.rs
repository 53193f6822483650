//! Scenarios: add requests, run steps, look at the plan.

use super::*;
use crate::prefill::{Load, StepCosts};
use proptest::prelude::*;
use std::time::Duration;

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
fn prompts_beside_streams_take_whole_tiles_of_the_time_they_are_allowed() {
    // A token takes a millisecond, and as much again where 4096 positions come before it.
    let mut costs = StepCosts::new(Some(Duration::from_millis(50)));
    costs.observe(&Load { streams: 1, ..Load::default() }, 0.010);
    costs.observe(&Load { streams: 0, tokens: 100, pairs: 0.0 }, 0.100);
    let config = SchedulerConfig { prefill_tokens_while_decoding: 64, max_batch_tokens: 128, ..CONFIG };
    let mut s = scheduler(400, config);
    s.allow_prefill(costs.allowance(s.decoding()));
    s.add(prompt(1, 10));
    step(&mut s);
    s.allow_prefill(costs.allowance(s.decoding()));
    s.add(prompt(2, 50));
    s.add(prompt(3, 100));
    assert_eq!(work(&step(&mut s)), [(1, 1, true), (2, 32, false)], "40 ms, of which the third gets no tile");
    assert_eq!((s.running(), s.waiting()), (2, 1));
    assert_eq!(work(&step(&mut s)), [(1, 1, true), (2, 18, true), (3, 16, false)]);
    s.remove(RequestId(2));
    s.limit_prefill(5);
    assert_eq!(work(&step(&mut s)), [(1, 1, true), (3, 5, false)], "bounds on tokens hold as well");
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

/// Runs one step in which every decoding request guesses `guessed` sevens, of which `right` are right.
fn speculative_step(scheduler: &mut Scheduler, guessed: usize, right: usize) -> Plan {
    let mut plan = scheduler.plan();
    scheduler.speculate(&mut plan, |_, _, _, room| vec![7; guessed.min(room)]);
    for work in &plan.work {
        let chunk = scheduler.chunk(work);
        assert_eq!(chunk.tokens.len(), work.tokens);
        assert_eq!(chunk.logits.rows(work.tokens), work.rows());
        assert!(chunk.blocks.len() * BLOCK_TOKENS >= chunk.start + chunk.tokens.len());
        scheduler.complete(work);
        let mut drawn = std::iter::repeat_n(7, right).chain([8]);
        if work.samples {
            while scheduler.push(work.id, drawn.next().unwrap_or(8)) {}
        }
    }
    plan
}

#[test]
fn right_guesses_stay_and_the_first_wrong_one_is_replaced() {
    let mut s = scheduler(100, CONFIG);
    s.add(prompt(1, 10));
    speculative_step(&mut s, 5, 0);
    assert_eq!(work(&speculative_step(&mut s, 5, 2)), [(1, 6, true)]);
    let tokens = s.tokens(RequestId(1)).unwrap();
    assert_eq!(tokens[10..], [8, 7, 7, 8]);
    let plan = speculative_step(&mut s, 5, 5);
    assert_eq!(work(&plan), [(1, 6, true)], "what was wrong is computed again, what was right is not");
    assert_eq!(s.tokens(RequestId(1)).unwrap()[13..], [8, 7, 7, 7, 7, 7, 8]);
}

#[test]
fn prompts_are_not_guessed_and_guesses_take_what_budget_is_left() {
    let config = SchedulerConfig { max_batch_tokens: 20, prefill_tokens_while_decoding: 12, ..CONFIG };
    let mut s = scheduler(100, config);
    s.add(prompt(1, 10));
    s.add(prompt(2, 10));
    speculative_step(&mut s, 5, 0);
    s.add(prompt(3, 100));
    assert_eq!(work(&speculative_step(&mut s, 5, 5)), [(1, 6, true), (2, 2, true), (3, 12, false)]);
}

#[test]
fn blocks_of_wrong_guesses_are_free_again() {
    let mut s = scheduler(3, CONFIG);
    s.add(prompt(1, 14));
    speculative_step(&mut s, 0, 0);
    assert_eq!(s.pool().used(), 1);
    let plan = speculative_step(&mut s, 20, 0);
    assert_eq!(work(&plan), [(1, 21, true)]);
    assert_eq!(s.pool().used(), 1, "15 tokens are computed and the next is the block's last");
}

#[test]
fn guesses_take_free_blocks_and_nobody_elses() {
    let mut s = scheduler(3, CONFIG);
    s.add(prompt(1, 12));
    s.add(prompt(2, 12));
    speculative_step(&mut s, 0, 0);
    let plan = speculative_step(&mut s, 30, 1);
    assert_eq!(plan.preempted, []);
    assert_eq!(work(&plan), [(1, 20, true), (2, 4, true)], "up to the end of two blocks and of one");
    assert_eq!(s.pool().used(), 2);
}

#[test]
fn blocks_are_findable_up_to_the_last_right_guess() {
    for (right, cached) in [(2, 0), (3, 16), (9, 16), (18, 16), (19, 32)] {
        let mut s = scheduler(10, CONFIG);
        s.add(prompt(1, 12));
        speculative_step(&mut s, 0, 0);
        speculative_step(&mut s, 30, right);
        let said = s.tokens(RequestId(1)).unwrap().to_vec();
        // Somebody else with the same tokens, and somebody with what was guessed wrongly.
        let mut guessed = said[..13 + right].to_vec();
        guessed.resize(60, 7);
        s.remove(RequestId(1));
        s.add(Sequence::new(RequestId(2), guessed, 0));
        assert_eq!(s.plan().admitted, [(RequestId(2), cached)], "{right} right guesses");
    }
}

proptest! {
    /// Whatever arrives, every request is finished, no step exceeds its budget, no block leaks, and tokens are computed
    /// in order.
    #[test]
    fn every_request_finishes_within_the_bounds(
        lengths in proptest::collection::vec((1usize..90, 1usize..40), 1..20),
        blocks in 9usize..30,
        prefix_caching: bool,
        guesses in proptest::collection::vec((0usize..20, 0usize..20), 1..10),
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
            let (guessed, right) = guesses[round % guesses.len()];
            let plan = speculative_step(&mut s, guessed, right);
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
