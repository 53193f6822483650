//! Scenarios through the handle, over a backend whose next token is a hash of the whole sequence as it finds it in KV memory:
//! any mix-up of blocks, chunks or positions changes the answer.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::backend::{BackendError, BlockId, Chunk};
use crate::handle::SubmitError;
use crate::request::Request;

mod latency;
mod lost;
mod speculation;

const VOCAB: usize = 97;
const EOS: u32 = 0;

/// What a test does to the backend before a step.
type Trap = Box<dyn FnMut(&[Chunk<'_>]) -> Result<(), BackendError> + Send>;

struct HashBackend {
    kv: Vec<[u32; BLOCK_TOKENS]>,
    trap: Trap,
    /// The likeliest token after a sequence.
    next: fn(&[u32]) -> u32,
}

/// Any token but the one that ends a sequence.
fn any_token(tokens: &[u32]) -> u32 {
    1 + hash(tokens) % (VOCAB as u32 - 1)
}

fn hash(tokens: &[u32]) -> u32 {
    // The upper bits, since a remainder looks at the lower ones and those hardly mix.
    tokens.iter().fold(17u32, |hash, token| (hash ^ token).wrapping_mul(0x9e37_79b1).rotate_left(15)) >> 8
}

impl HashBackend {
    fn cell(&mut self, blocks: &[BlockId], position: usize) -> &mut u32 {
        &mut self.kv[blocks[position / BLOCK_TOKENS].0 as usize][position % BLOCK_TOKENS]
    }
}

impl Backend for HashBackend {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn kv_blocks(&self) -> usize {
        self.kv.len()
    }

    fn max_batch_tokens(&self) -> usize {
        512
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        (self.trap)(chunks)?;
        let mut rows = Vec::new();
        for chunk in chunks {
            let end = chunk.start + chunk.tokens.len();
            for (offset, token) in chunk.tokens.iter().enumerate() {
                *self.cell(chunk.blocks, chunk.start + offset) = *token;
            }
            for row in 0..chunk.logits.rows(chunk.tokens.len()) {
                let last = end - chunk.logits.rows(chunk.tokens.len()) + row;
                let tokens: Vec<u32> =
                    (0..=last).map(|position| *self.cell(chunk.blocks, position)).collect();
                let best = (self.next)(&tokens) as usize;
                rows.extend(
                    (0..VOCAB).map(|token| if token == best { 5.0 } else { (token % 7) as f32 * 0.1 }),
                );
            }
        }
        logits.reset(rows.len() / VOCAB, VOCAB).copy_from_slice(&rows);
        Ok(())
    }
}

const CONFIG: EngineConfig = EngineConfig {
    max_model_len: 200,
    max_running: 16,
    max_batch_tokens: 64,
    prefill_tokens_while_decoding: 32,
    inter_token_latency_target: None,
    max_waiting: 100,
    prefix_caching: true,
    speculation: Speculation::Off,
};

fn engine_with(blocks: usize, config: EngineConfig, trap: Trap) -> EngineHandle {
    engine_that_says(any_token, blocks, config, trap)
}

fn engine_that_says(
    next: fn(&[u32]) -> u32,
    blocks: usize,
    config: EngineConfig,
    trap: Trap,
) -> EngineHandle {
    start(Box::new(HashBackend { kv: vec![[0; BLOCK_TOKENS]; blocks], trap, next }), config).unwrap()
}

fn engine(blocks: usize) -> EngineHandle {
    engine_with(blocks, CONFIG, Box::new(|_| Ok(())))
}

fn request(prompt: &[u32], max_tokens: usize) -> (Request, Receiver<Event>) {
    let (sender, receiver) = channel();
    let request = Request {
        prompt: prompt.to_vec(),
        sampling: SamplingParams::default(),
        stop: StopConditions {
            max_tokens,
            min_tokens: 0,
            stop_tokens: vec![],
            eos_tokens: vec![EOS],
            ignore_eos: false,
        },
        logprobs: None,
        cache_salt: 0,
        logits_hook: None,
        sink: Box::new(move |event| match sender.send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }),
    };
    (request, receiver)
}

/// Waits for the end of a request: its tokens and how it ended.
fn outcome(events: &Receiver<Event>) -> (Vec<u32>, Event) {
    let mut tokens = Vec::new();
    loop {
        match events.recv().expect("every request hears how it ended") {
            Event::Token { token, .. } => tokens.push(token),
            end => return (tokens, end),
        }
    }
}

fn finish_reason(end: &Event) -> FinishReason {
    match end {
        Event::Finished { reason, .. } => *reason,
        other => panic!("did not finish: {other:?}"),
    }
}

fn run_alone(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let (request, events) = request(prompt, max_tokens);
    engine(20).submit(request).unwrap();
    outcome(&events).0
}

#[test]
fn many_requests_on_little_memory_answer_as_if_alone() {
    let engine = engine(13);
    let prompts: Vec<Vec<u32>> =
        (0..40u32).map(|i| (0..1 + (i * 7) % 90).map(|j| 1 + (j * (1 + i % 3)) % 50).collect()).collect();
    let streams: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let (request, events) = request(prompt, 1 + i % 60);
            engine.submit(request).unwrap();
            events
        })
        .collect();
    for (i, events) in streams.iter().enumerate() {
        assert_eq!(outcome(events).0, run_alone(&prompts[i], 1 + i % 60), "request {i}");
    }
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.running, snapshot.waiting, snapshot.kv_blocks_used), (0, 0, 0));
    assert!(snapshot.totals.preemptions > 0, "the memory was meant to be short: {snapshot:?}");
    assert!(snapshot.totals.prefix_cache_hits > 0);
}

#[test]
fn a_repeated_prompt_is_served_from_the_cache() {
    let engine = engine(20);
    let prompt: Vec<u32> = (1..41).collect();
    for cached in [0, 32] {
        let (request, events) = request(&prompt, 3);
        engine.submit(request).unwrap();
        let Event::Finished { usage, .. } = outcome(&events).1 else { panic!("did not finish") };
        assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens), (40, cached, 3));
    }
}

#[test]
fn an_observer_hears_the_tokens_of_every_step() {
    let engine = engine(20);
    let (sender, steps) = channel();
    let sender = Mutex::new(sender);
    engine.observe_steps(Box::new(move |tokens| sender.lock().unwrap().send(tokens).unwrap()));
    let (request, events) = request(&[1; 70], 3);
    engine.submit(request).unwrap();
    outcome(&events);
    assert_eq!(steps.iter().take(4).collect::<Vec<_>>(), [64, 6, 1, 1]);
}

#[test]
fn generation_ends_at_max_tokens_or_a_full_context() {
    let engine = engine(20);
    let (first, events) = request(&[1, 2, 3], 5);
    engine.submit(first).unwrap();
    let (tokens, end) = outcome(&events);
    assert_eq!((tokens.len(), finish_reason(&end)), (5, FinishReason::Length));
    let (second, events) = request(&[1; 195], 100);
    engine.submit(second).unwrap();
    let (tokens, end) = outcome(&events);
    assert_eq!((tokens.len(), finish_reason(&end)), (5, FinishReason::Length));
}

#[test]
fn stop_tokens_end_generation_but_not_before_min_tokens() {
    let free = run_alone(&[1, 2, 3], 30);
    let engine = engine(20);
    let (mut stopping, events) = request(&[1, 2, 3], 30);
    stopping.stop.stop_tokens = vec![free[4]];
    engine.submit(stopping).unwrap();
    let (tokens, end) = outcome(&events);
    let first = free.iter().position(|token| *token == free[4]).unwrap();
    assert_eq!((tokens.as_slice(), finish_reason(&end)), (&free[..=first], FinishReason::Stop));

    let (mut later, events) = request(&[1, 2, 3], 30);
    later.stop.stop_tokens = vec![free[first]];
    later.stop.min_tokens = first + 3;
    engine.submit(later).unwrap();
    let tokens = outcome(&events).0;
    assert!(tokens.len() > first + 3 && tokens[..first + 3].iter().all(|token| *token != free[first]));
}

#[test]
fn ignore_eos_goes_on() {
    let force_eos = |_: &[u32], logits: &mut [f32]| logits[EOS as usize] = 100.0;
    let engine = engine(20);
    for (ignore_eos, expected) in [(false, (1, FinishReason::Stop)), (true, (4, FinishReason::Length))] {
        let (mut request, events) = request(&[1, 2], 4);
        request.stop.ignore_eos = ignore_eos;
        request.logits_hook = Some(Box::new(force_eos));
        engine.submit(request).unwrap();
        let (tokens, end) = outcome(&events);
        assert_eq!((tokens.len(), finish_reason(&end)), expected);
    }
}

#[test]
fn logprobs_come_with_every_token() {
    let engine = engine(20);
    let (mut request, events) = request(&[1, 2], 3);
    request.logprobs = Some(2);
    engine.submit(request).unwrap();
    let Event::Token { token, logprobs: Some(found) } = events.recv().unwrap() else { panic!("no logprobs") };
    assert_eq!(found.top[0], (token, found.chosen));
    assert_eq!(found.top.len(), 2);
}

#[test]
fn a_sink_that_nobody_hears_frees_its_blocks() {
    let engine = engine(20);
    let (request, events) = request(&[1; 50], 100);
    engine.submit(request).unwrap();
    events.recv().unwrap();
    drop(events);
    while engine.snapshot().kv_blocks_used > 0 {
        std::thread::yield_now();
    }
    assert_eq!(engine.snapshot().running, 0);
}

/// A trap that lets the engine run a step only when the test says so.
fn gate() -> (std::sync::mpsc::Sender<()>, Trap) {
    let (open, gate) = channel::<()>();
    let trap: Trap = Box::new(move |_| {
        // A closed gate means that the test is over and the engine may run freely.
        let _ = gate.recv();
        Ok(())
    });
    (open, trap)
}

#[test]
fn an_abort_reaches_a_request_wherever_it_is() {
    let (open, trap) = gate();
    let engine = engine_with(20, EngineConfig { max_running: 1, ..CONFIG }, trap);
    let (running, running_events) = request(&[1; 50], 100);
    let (waiting, waiting_events) = request(&[2; 50], 100);
    let running = engine.submit(running).unwrap();
    let waiting = engine.submit(waiting).unwrap();
    open.send(()).unwrap();
    running_events.recv().unwrap();
    engine.abort(waiting);
    engine.abort(running);
    drop(open);
    assert_eq!(finish_reason(&outcome(&waiting_events).1), FinishReason::Aborted);
    assert_eq!(finish_reason(&outcome(&running_events).1), FinishReason::Aborted);
    assert_eq!(engine.snapshot().kv_blocks_used, 0, "blocks are free before the request hears of its end");
}

#[test]
fn the_waiting_queue_is_bounded() {
    let (open, trap) = gate();
    let engine = engine_with(20, EngineConfig { max_running: 1, max_waiting: 3, ..CONFIG }, trap);
    let (running, running_events) = request(&[1, 2], 2);
    engine.submit(running).unwrap();
    open.send(()).unwrap();
    running_events.recv().unwrap();
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let (request, events) = request(&[1, 2], 2);
            engine.submit(request).unwrap();
            events
        })
        .collect();
    assert_eq!(engine.submit(request(&[1], 1).0), Err(SubmitError::QueueFull { limit: 3 }));
    drop(open);
    streams.iter().for_each(|events| assert_eq!(outcome(events).0.len(), 2));
    let (again, events) = request(&[1, 2], 2);
    engine.submit(again).unwrap();
    outcome(&events);
}

#[test]
fn impossible_requests_are_refused_with_the_reason() {
    let engine = engine(20);
    let refused = |change: fn(&mut Request)| {
        let (mut request, _events) = request(&[1, 2], 2);
        change(&mut request);
        engine.submit(request).unwrap_err().to_string()
    };
    assert_eq!(refused(|r| r.prompt.clear()), "the prompt has no tokens");
    assert_eq!(refused(|r| r.prompt = vec![97]), "prompt token 97 is outside the vocabulary of 97");
    assert_eq!(
        refused(|r| r.prompt = vec![1; 200]),
        "the prompt has 200 tokens; prompt and answer together may have 200"
    );
    assert_eq!(refused(|r| r.stop.max_tokens = 0), "max_tokens must be at least 1");
    assert_eq!(refused(|r| r.sampling.temperature = f32::NAN), "a sampling parameter is out of range");
    assert_eq!(refused(|r| r.sampling.top_p = 1.5), "a sampling parameter is out of range");
}

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    let failures = Arc::new(Mutex::new(1));
    let trap: Trap = Box::new(move |_| {
        let mut left = failures.lock().unwrap();
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        Err(BackendError::InvalidBatch("a test asked for it".into()))
    });
    let engine = engine_with(20, CONFIG, trap);
    let (first, events) = request(&[1, 2], 2);
    engine.submit(first).unwrap();
    let expected = "the forward pass failed: invalid batch: a test asked for it";
    assert_eq!(outcome(&events).1, Event::Failed { message: expected.into() });
    let (second, events) = request(&[1, 2], 2);
    engine.submit(second).unwrap();
    assert_eq!(outcome(&events).0.len(), 2);
}

#[test]
fn a_panic_fails_every_request_and_later_ones_are_refused() {
    let engine = engine_with(20, CONFIG, Box::new(|_| panic!("a test asked for it")));
    let (first, events) = request(&[1, 2], 2);
    engine.submit(first).unwrap();
    assert!(matches!(outcome(&events).1, Event::Failed { .. }));
    assert!(engine.snapshot().stopped);
    assert_eq!(engine.submit(request(&[1], 1).0), Err(SubmitError::Stopped));
}

#[test]
fn the_thread_ends_when_the_last_handle_is_gone_and_work_is_done() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let engine = engine_with(
        20,
        CONFIG,
        Box::new(move |_| {
            let _ = &held;
            Ok(())
        }),
    );
    let (request, events) = request(&[1, 2], 50);
    engine.submit(request).unwrap();
    drop(engine.clone());
    drop(engine);
    assert_eq!(outcome(&events).0.len(), 50, "running requests finish");
    while Arc::strong_count(&alive) > 1 {
        std::thread::yield_now();
    }
}

#[test]
fn a_cache_smaller_than_one_request_is_refused_at_start() {
    let backend = HashBackend { kv: vec![[0; BLOCK_TOKENS]; 4], trap: Box::new(|_| Ok(())), next: any_token };
    let error = start(Box::new(backend), CONFIG).err().expect("64 tokens cannot hold 200");
    assert!(error.to_string().contains("holds 64 tokens, less than max_model_len 200"), "{error}");
}
