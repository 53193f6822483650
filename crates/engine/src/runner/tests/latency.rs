//! Streams keep getting tokens in time while a long prompt arrives, on a machine whose time is computed and not measured.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const LONG_PROMPT: usize = 4000;
const STREAMS: usize = 3;
const TARGET: Duration = Duration::from_millis(50);

const BUSY: EngineConfig = EngineConfig {
    max_model_len: 4500,
    max_batch_tokens: 512,
    prefill_tokens_while_decoding: 256,
    inter_token_latency_target: Some(TARGET),
    ..CONFIG
};

/// Nanoseconds since the start; forward passes let them go by.
type Time = Arc<AtomicU64>;

fn milliseconds(time: &Time) -> f64 {
    time.load(Ordering::Relaxed) as f64 / 1e6
}

/// A pass takes 8 ms, 0.3 for each token, and 0.15 for a thousand positions that its tokens look at.
fn passing(time: &Time) -> Trap {
    let time = Arc::clone(time);
    Box::new(move |chunks| {
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let pairs: usize =
            chunks.iter().map(|chunk| chunk.tokens.len() * (chunk.start + chunk.tokens.len() / 2)).sum();
        let nanoseconds = 8_000_000 + 300_000 * rows + 150 * pairs;
        time.fetch_add(nanoseconds as u64, Ordering::Relaxed);
        Ok(())
    })
}

fn timed_engine(config: EngineConfig) -> (EngineHandle, Time) {
    let time = Time::default();
    let (began, told) = (Instant::now(), Arc::clone(&time));
    let clock = move || began + Duration::from_nanos(told.load(Ordering::Relaxed));
    let backend = HashBackend {
        kv: vec![[0; BLOCK_TOKENS]; 2 * BUSY.max_model_len / BLOCK_TOKENS],
        trap: passing(&time),
        next: any_token,
    };
    (start_with_clock(Box::new(backend), config, Box::new(clock)).unwrap(), time)
}

/// What happened while the long prompt was computed.
#[derive(Debug, Default)]
struct Seen {
    /// Longest time between two tokens of a stream, in milliseconds.
    longest_gap: f64,
    /// When the prompt came, and when its first token did.
    arrived: f64,
    answered: Option<f64>,
    answer: Vec<u32>,
}

/// A request whose sink hears its tokens one by one.
fn heard(prompt: &[u32], max_tokens: usize, mut token: impl FnMut(usize, u32) + Send + 'static) -> Request {
    let (mut request, _) = request(prompt, max_tokens);
    let mut count = 0;
    request.sink = Box::new(move |event| {
        if let Event::Token { token: told, .. } = event {
            token(count, told);
            count += 1;
        }
        ControlFlow::Continue(())
    });
    request
}

/// Streams run; after some tokens of the first, a long prompt arrives.
fn long_prompt_among_streams(config: EngineConfig) -> Seen {
    let (engine, time) = timed_engine(config);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (done, ended) = channel::<()>();

    let streams: Vec<Request> = (0..STREAMS as u32)
        .map(|stream| {
            let (time, seen, done) = (Arc::clone(&time), Arc::clone(&seen), done.clone());
            let (handle, shared) = (engine.clone(), Arc::clone(&seen));
            let mut last = None;
            heard(&[1 + stream; 40], 400, move |count, _| {
                let now = milliseconds(&time);
                let mut seen = seen.lock().unwrap();
                if let Some(last) = last.replace(now)
                    && seen.arrived > 0.0
                    && seen.answered.is_none()
                {
                    seen.longest_gap = seen.longest_gap.max(now - last);
                }
                if (stream, count) == (0, 30) {
                    seen.arrived = now;
                    drop(seen);
                    let (time, seen, done) = (Arc::clone(&time), Arc::clone(&shared), done.clone());
                    let prompt: Vec<u32> = (0..LONG_PROMPT as u32).map(|i| 1 + i * i % 90).collect();
                    let long = heard(&prompt, 5, move |_, token| {
                        let _ = &done;
                        let mut seen = seen.lock().unwrap();
                        seen.answered.get_or_insert(milliseconds(&time));
                        seen.answer.push(token);
                    });
                    handle.submit(long).unwrap();
                }
            })
        })
        .collect();
    // The test ends when the last sink has dropped its sender.
    drop(done);
    for stream in streams {
        engine.submit(stream).unwrap();
    }
    assert!(ended.recv().is_err(), "nothing is sent");
    std::mem::take(&mut *seen.lock().unwrap())
}

#[test]
fn streams_get_tokens_in_time_while_a_long_prompt_arrives() {
    let bounded = long_prompt_among_streams(BUSY);
    assert!(bounded.longest_gap < 1.1 * 50.0, "{bounded:?}");
    let free = long_prompt_among_streams(EngineConfig { inter_token_latency_target: None, ..BUSY });
    assert!(free.longest_gap > 4.0 * 50.0, "the bound on tokens alone was meant to be too loose: {free:?}");
    assert_eq!(bounded.answer, free.answer);
    // Short steps repeat what every step costs, and little more than that.
    let (prompt, seconds) =
        (bounded.answered.unwrap() - bounded.arrived, free.answered.unwrap() - free.arrived);
    assert!(prompt < 1.25 * seconds, "{prompt} ms, {seconds} without the target");
}

#[test]
fn a_prompt_without_streams_is_computed_as_fast_as_can_be() {
    let (engine, time) = timed_engine(BUSY);
    let (long, events) = request(&[5; LONG_PROMPT], 1);
    engine.submit(long).unwrap();
    outcome(&events);
    // Eight full steps.
    let expected = 8.0 * 8.0 + 0.3 * 4000.0 + 0.15 * 4000.0 * 4000.0 / 2.0 / 1000.0;
    assert!((milliseconds(&time) - expected).abs() < 5.0, "{} ms, not {expected}", milliseconds(&time));
}
