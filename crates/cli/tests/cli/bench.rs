//! `wharf bench serve` as a user meets it.

use serde_json::Value;

use crate::fake::{Fake, Manner};
use crate::wharf;

fn report(args: &[&str]) -> Value {
    let ran = wharf::run(&[&["bench", "serve", "--output", "json"], args].concat());
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn a_closed_loop_sends_exactly_the_requests_asked_for() {
    let fake = Fake::start(Manner::Streams);
    let report = report(&[&fake.url, "--concurrency", "4", "--requests", "20", "--output-tokens", "2..6"]);
    assert_eq!(report["requests"]["succeeded"], 20);
    assert_eq!(report["requests"]["failed"], 0);
    assert_eq!(report["tokens"]["output"], 80);
    assert_eq!(report["tokens"]["prompt"], 140);
    assert!(report["latency"]["first_token_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert!(
        report["latency"]["request_ms"]["p99"].as_f64()
            >= report["latency"]["first_token_ms"]["p50"].as_f64()
    );
    assert_eq!(fake.requests().len(), 21, "one more to warm up");
    assert!(fake.requests().iter().all(|r| (2..=6).contains(&r["max_tokens"].as_u64().unwrap())));
    assert!(fake.requests().iter().all(|r| r["ignore_eos"] == true));
}

#[test]
fn an_open_loop_sends_at_its_own_pace() {
    let fake = Fake::start(Manner::Streams);
    let report =
        report(&[&fake.url, "--rate", "100", "--requests", "30", "--shared-prefix", "50", "--natural-end"]);
    assert_eq!(report["requests"]["succeeded"], 30);
    assert!(report["send_delay_ms"]["max"].as_f64().is_some());
    let requests = fake.requests();
    let prefix = |r: &Value| r["messages"][0]["content"].as_str().unwrap()[..150].to_owned();
    assert!(requests.iter().all(|r| prefix(r) == prefix(&requests[0])));
    assert!(requests.iter().all(|r| r.get("ignore_eos").is_none()));
}

#[test]
fn a_duration_ends_the_load() {
    let fake = Fake::start(Manner::Streams);
    let report = report(&[&fake.url, "--concurrency", "2", "--duration", "0.3"]);
    let elapsed = report["elapsed_s"].as_f64().unwrap();
    assert!(elapsed >= 0.3, "{elapsed}");
    assert_eq!(report["requests"]["sent"].as_u64().unwrap() as usize, fake.requests().len() - 1);
}

#[test]
fn errors_are_counted_by_kind() {
    let fake = Fake::start(Manner::Overloaded);
    let ran = wharf::run(&["bench", "serve", &fake.url, "--concurrency", "1", "--requests", "8"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("4 answered, 4 failed"), "{}", ran.out);
    assert!(
        ran.out.contains("4 x http 429, first: ") && ran.out.contains("the queue is full"),
        "{}",
        ran.out
    );
}

#[test]
fn a_load_that_fails_altogether_exits_with_1() {
    for manner in [Manner::Truncates, Manner::Broken] {
        let fake = Fake::start(manner);
        let ran = wharf::run(&["bench", "serve", &fake.url, "--requests", "3", "--warmup", "0"]);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(
            ran.out.contains("0 answered, 3 failed") && ran.err.contains("none of 3 requests"),
            "{ran:?}"
        );
    }
}

#[test]
fn uncounted_tokens_are_said_to_be_uncounted() {
    let fake = Fake::start(Manner::HidesUsage);
    let ran = wharf::run(&["bench", "serve", &fake.url, "--requests", "2"]);
    assert!(ran.out.contains("6 out (pieces of text: the server reports no usage)"), "{}", ran.out);
}

#[test]
fn slow_answers_time_out() {
    let fake = Fake::start(Manner::Hangs);
    let ran =
        wharf::run(&["bench", "serve", &fake.url, "--requests", "2", "--warmup", "0", "--timeout", "0.3"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("2 x timeout"), "{}", ran.out);
}

#[test]
fn the_plot_is_a_picture() {
    let fake = Fake::start(Manner::Streams);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("load.svg");
    let ran =
        wharf::run(&["bench", "serve", &fake.url, "--requests", "10", "--plot", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in ["Time to first token", "Time between tokens", "Whole request", "p99"] {
        assert!(svg.contains(text), "{text}");
    }
}

#[test]
fn loads_that_make_no_sense_exit_with_2() {
    for args in [
        vec!["--rate", "0"],
        vec!["--rate", "NaN"],
        vec!["--rate", "1", "--concurrency", "1"],
        vec!["--concurrency", "0"],
        vec!["--requests", "0"],
        vec!["--duration", "-1"],
        vec!["--prompt-tokens", "9..3"],
        vec!["--plot", "/no/such/folder/x.svg"],
    ] {
        let ran = wharf::run(&[&["bench", "serve"], args.as_slice()].concat());
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
    }
}
