//! What a pick costs: `cargo run --release -p wharf-routing --example pick` prints nanoseconds for a pick and the end of its request.
//!
//! Prompts are conversations that share instructions, so that the index has something to find, and every engine has said what it does.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use wharf_routing::{Endpoint, Load, Outcome, Policy, PolicyName, Prompt, Request, Service};

const PICKS: usize = 200_000;
const CONVERSATIONS: usize = 500;

fn main() {
    println!("{:>12} {:>10} {:>8} {:>12}", "policy", "endpoints", "blocks", "ns a pick");
    for policy in [PolicyName::Prefix, PolicyName::LeastLoad, PolicyName::RoundRobin] {
        for endpoints in [8, 100] {
            for blocks in [20, 200] {
                let nanos = measure(policy, endpoints, blocks);
                println!("{:>12} {endpoints:>10} {blocks:>8} {nanos:>12.0}", format!("{policy:?}"));
            }
        }
    }
}

/// The best of five, since other work only ever adds.
fn measure(policy: PolicyName, endpoints: usize, blocks: usize) -> f64 {
    let mut service = Service::new(Policy { policy, ..Policy::default() });
    let all: Vec<Endpoint> =
        (0..endpoints).map(|i| Endpoint::ready(format!("10.0.0.{i}:8000"), "blue")).collect();
    service.set_endpoints(&all);
    for endpoint in &all {
        let load = Load { running: 3, kv_tokens: Some(400_000), kv_cache: 0.4, ..Load::default() };
        service.reported(&endpoint.address, load, Duration::ZERO);
    }
    let prompts: Vec<Prompt> = (0..CONVERSATIONS).map(|number| prompt(number, blocks)).collect();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        for number in 0..PICKS / 5 {
            let prompt = &prompts[number % CONVERSATIONS];
            let tokens = prompt.bytes as u64 / 4;
            let request =
                Request { prompt, tokens, answer_tokens: 100, adapter: None, session: None, tried: &[] };
            if let Ok(pick) = service.pick(black_box(&request), Duration::from_millis(1)) {
                service.finish(pick.ticket, Outcome::Answered, Duration::from_millis(1));
            }
        }
        best = best.min(began.elapsed().as_nanos() as f64 / (PICKS / 5) as f64);
    }
    best
}

/// Half of it is what everybody begins with.
fn prompt(number: usize, blocks: usize) -> Prompt {
    let mut blocks_of_it: Vec<u64> = (0..blocks as u64 / 2).map(|block| scattered(block + 1)).collect();
    blocks_of_it
        .extend((0..blocks - blocks / 2).map(|block| scattered((number * 1000 + block) as u64 + 1_000_000)));
    let mut prompt = Prompt { bytes: 0, blocks: blocks_of_it };
    prompt.bytes = prompt.covered(blocks) + 10;
    prompt
}

fn scattered(number: u64) -> u64 {
    fastrand::Rng::with_seed(number).u64(..)
}
