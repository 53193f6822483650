//! Guessing tokens saves steps and changes nothing that a caller sees.

use super::*;
use crate::request::Logprobs;

/// One of three tokens: what follows a pair is guessed in nearly every step, and is right in every third or so.
fn one_of_three(tokens: &[u32]) -> u32 {
    1 + hash(tokens) % 3
}

/// A loop of a dozen tokens.
fn a_loop(tokens: &[u32]) -> u32 {
    1 + tokens.last().expect("a sequence has tokens") % 12
}

/// A loop that breaks off here and there.
fn a_broken_loop(tokens: &[u32]) -> u32 {
    if hash(tokens).is_multiple_of(9) { any_token(tokens) } else { a_loop(tokens) }
}

/// Tokens with log-probabilities as bits, and how the request ended.
type Told = (Vec<(u32, Option<Bits>)>, Option<FinishReason>);
type Bits = (u32, Vec<(u32, u32)>);

fn bits(logprobs: &Logprobs) -> Bits {
    (logprobs.chosen.to_bits(), logprobs.top.iter().map(|(token, x)| (*token, x.to_bits())).collect())
}

/// What a request is told until it ends, or until its caller has read `stop` at the end of the tokens and goes away.
fn told(events: &Receiver<Event>) -> Told {
    let mut tokens = Vec::new();
    loop {
        match events.recv() {
            Ok(Event::Token { token, logprobs }) => tokens.push((token, logprobs.as_ref().map(bits))),
            Ok(Event::Finished { reason, usage }) => {
                assert_eq!(usage.generated_tokens, tokens.len());
                return (tokens, Some(reason));
            }
            Ok(Event::Failed { message } | Event::Lost { message }) => panic!("{message}"),
            // The request's sink has ended it.
            Err(_) => return (tokens, None),
        }
    }
}

/// Sixteen requests that differ in everything that bears on a token. The last two are two choices for one prompt.
fn mixed() -> Vec<(Request, Receiver<Event>)> {
    (0..16u32)
        .map(|i| {
            let i = if i == 15 { 14 } else { i };
            let length = 2 + i * 5;
            let prompt: Vec<u32> = (0..length).map(|j| 1 + (j * j + i % 4) % 7).collect();
            let (mut request, events) = request(&prompt, 20 + i as usize * 7);
            request.sampling.temperature = [0.0, 1.0, 0.7][i as usize % 3];
            request.sampling.seed = u64::from(i);
            (request, events)
        })
        .enumerate()
        .map(|(i, (mut request, events))| {
            let Request { sampling, stop, logprobs, sink, .. } = &mut request;
            match i {
                1 => sampling.top_p = 0.6,
                2 => sampling.frequency_penalty = 0.8,
                3 => (sampling.presence_penalty, *logprobs) = (0.9, Some(3)),
                4 => (sampling.repetition_penalty, sampling.top_k) = (1.3, 40),
                5 => sampling.logit_bias = vec![(2, 3.0), (3, -100.0)],
                6 => stop.stop_tokens = vec![3],
                7 => (stop.eos_tokens, stop.min_tokens) = (vec![2], 30),
                8 => *logprobs = Some(0),
                9 => {
                    // A stop string: its reader goes away in the middle of what may be a run of right guesses.
                    let (sender, receiver) = channel();
                    let mut last = [0; 3];
                    *sink = Box::new(move |event| {
                        if let Event::Token { token, .. } = event {
                            last = [last[1], last[2], token];
                        }
                        // The receiver is gone only when the test has failed already.
                        let _ = sender.send(event);
                        if last == [1, 2, 3] { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    return (request, receiver);
                }
                10 => (sampling.min_p, *logprobs) = (0.02, Some(5)),
                11 => {
                    request.logits_hook = Some(Box::new(|generated, logits| {
                        logits[1 + generated.len() % 3] += 4.0;
                    }));
                }
                15 => sampling.seed = 99,
                _ => {}
            }
            (request, events)
        })
        .collect()
}

fn run(
    next: fn(&[u32]) -> u32,
    blocks: usize,
    speculation: Speculation,
    requests: Vec<(Request, Receiver<Event>)>,
) -> (Vec<Told>, Totals) {
    let config = EngineConfig { speculation, ..CONFIG };
    let engine = engine_that_says(next, blocks, config, Box::new(|_| Ok(())));
    let streams: Vec<_> = requests
        .into_iter()
        .map(|(request, events)| {
            engine.submit(request).unwrap();
            events
        })
        .collect();
    let told = streams.iter().map(told).collect();
    while engine.snapshot().running > 0 {
        std::thread::yield_now();
    }
    assert_eq!(engine.snapshot().kv_blocks_used, 0);
    (told, engine.snapshot().totals)
}

#[test]
fn a_mixed_load_is_told_the_same_with_and_without_guesses() {
    // With 13 blocks requests lose theirs to one another; the cache is on throughout.
    for (next, blocks) in [one_of_three, a_loop, a_broken_loop].into_iter().zip([200, 13, 13]) {
        let (expected, totals) = run(next, blocks, Speculation::Off, mixed());
        assert_eq!(totals.drafts, 0);
        assert_eq!(totals.preemptions > 0, blocks == 13);
        for speculation in [1, 2, 3, 8, 16].map(Speculation::UpTo).into_iter().chain([Speculation::Auto]) {
            let (told, totals) = run(next, blocks, speculation, mixed());
            for (i, (told, expected)) in told.iter().zip(&expected).enumerate() {
                assert_eq!(told, expected, "request {i} with {speculation:?} on {blocks} blocks");
            }
            let Totals { drafts, draft_tokens, accepted_draft_tokens: right, .. } = totals;
            assert!(
                0 < right && right < draft_tokens && drafts <= draft_tokens,
                "{speculation:?}: {totals:?}"
            );
        }
    }
}

#[test]
fn later_requests_find_nothing_wrong_in_the_cache() {
    // The second request's prompt is what the first one said, wrong guesses on the way: blocks that held one must not be
    // taken for the tokens that came instead.
    for speculation in [Speculation::Off, Speculation::UpTo(5)] {
        let config = EngineConfig { speculation, ..CONFIG };
        let engine = engine_that_says(one_of_three, 30, config, Box::new(|_| Ok(())));
        let (first, events) = request(&[1, 2, 3, 1, 2], 150);
        engine.submit(first).unwrap();
        let said = outcome(&events).0;
        for cut in [40, 75, 130] {
            let mut prompt = vec![1, 2, 3, 1, 2];
            prompt.extend(&said[..cut]);
            let (again, events) = request(&prompt, 150 - cut);
            engine.submit(again).unwrap();
            let (tokens, end) = outcome(&events);
            assert_eq!(tokens, said[cut..], "cut at {cut} with {speculation:?}");
            let Event::Finished { usage, .. } = end else { panic!("did not finish") };
            assert_eq!(usage.cached_tokens, (prompt.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS);
        }
    }
}

/// Steps that one request takes, and its tokens.
fn steps(next: fn(&[u32]) -> u32, speculation: Speculation, max_tokens: usize) -> (usize, Vec<u32>) {
    let steps = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&steps);
    let trap: Trap = Box::new(move |_| {
        *counted.lock().unwrap() += 1;
        // A machine on which many rows take as long as one: guesses cost nothing.
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let engine = engine_that_says(next, 20, EngineConfig { speculation, ..CONFIG }, trap);
    let (request, events) = request(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3], max_tokens);
    engine.submit(request).unwrap();
    let tokens = outcome(&events).0;
    let steps = *steps.lock().unwrap();
    (steps, tokens)
}

#[test]
fn a_loop_takes_a_fraction_of_the_steps() {
    let (without, expected) = steps(a_loop, Speculation::Off, 100);
    assert_eq!(without, 100);
    // A prompt's step yields one token, every other one nine.
    assert_eq!(steps(a_loop, Speculation::UpTo(8), 100), (1 + 99 / 9, expected.clone()));
    let (auto, told) = steps(a_loop, Speculation::Auto, 100);
    assert_eq!(told, expected);
    assert!(auto < 25, "{auto} steps");
}

#[test]
fn text_without_repetition_takes_the_steps_it_always_took() {
    let (without, expected) = steps(any_token, Speculation::Off, 150);
    assert_eq!(steps(any_token, Speculation::Auto, 150), (without, expected));
}

#[test]
fn a_crowd_is_computed_without_guesses() {
    let (open, trap) = gate();
    let config = EngineConfig { speculation: Speculation::Auto, ..CONFIG };
    let engine = engine_that_says(a_loop, 60, config, trap);
    let streams: Vec<_> = (0..8)
        .map(|i| {
            let (request, events) = request(&[1 + i, 2, 3, 1 + i, 2, 3], 60);
            engine.submit(request).unwrap();
            events
        })
        .collect();
    drop(open);
    streams.iter().for_each(|events| assert_eq!(outcome(events).0.len(), 60));
    // Some decode in company of less than eight at first, before all prompts are computed, and at last.
    let totals = engine.snapshot().totals;
    assert!(totals.draft_tokens < totals.generation_tokens / 10, "{totals:?}");
}

#[test]
fn nothing_is_guessed_beyond_the_end_of_an_answer_or_of_the_context() {
    for (max_tokens, last) in [(20, 15 + 20), (1000, CONFIG.max_model_len)] {
        let trap: Trap = Box::new(move |chunks| {
            for chunk in chunks {
                // The last token of all is never computed.
                assert!(chunk.start + chunk.tokens.len() < last, "{chunk:?}");
            }
            Ok(())
        });
        let config = EngineConfig { speculation: Speculation::UpTo(16), ..CONFIG };
        let engine = engine_that_says(a_loop, 20, config, trap);
        let (request, events) = request(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3], max_tokens);
        engine.submit(request).unwrap();
        let (tokens, end) = outcome(&events);
        assert_eq!((tokens.len(), finish_reason(&end)), (last - 15, FinishReason::Length));
    }
}
