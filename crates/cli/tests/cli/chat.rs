//! `wharf chat` as a user meets it.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::{Fake, Manner};
use crate::wharf::{self, Finished};

#[test]
fn one_prompt_gives_one_answer_on_standard_output() {
    let fake = Fake::start(Manner::Streams);
    let ran = wharf::run(&[
        "chat",
        &fake.url,
        "--system",
        "Be brief.",
        "--prompt",
        "Capital of France?",
        "--max-tokens",
        "9",
        "--temperature",
        "0.7",
        "--seed",
        "5",
    ]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "Paris 🗼\n"), "{}", ran.err);
    assert!(ran.err.contains("4 tokens") && ran.err.contains("first token after"), "{}", ran.err);
    let expected = json!({
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Capital of France?"},
        ],
        "max_tokens": 9, "temperature": 0.7, "seed": 5,
        "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(fake.requests(), [expected]);
}

#[test]
fn json_output_is_one_document_with_measurements() {
    let fake = Fake::start(Manner::Streams);
    let ran = wharf::run(&["chat", &fake.url, "--prompt", "x", "--output", "json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["answer"], "Paris 🗼");
    assert_eq!(document["finish_reason"], "stop");
    assert_eq!(document["completion_tokens"], 4);
    assert!(document["time_to_first_token_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_conversation_keeps_its_history_until_reset() {
    let fake = Fake::start(Manner::Streams);
    let ran = converse(&fake.url, "one\ntwo\n/reset\nthree\n/exit\nnever sent\n");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "Paris 🗼\nParis 🗼\nParis 🗼\n"));
    let sizes: Vec<usize> = fake.requests().iter().map(|r| r["messages"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 3, 1]);
}

#[test]
fn the_key_comes_from_a_file_or_the_environment() {
    let fake = Fake::start(Manner::WantsKey);
    let args = ["chat", &fake.url, "--prompt", "x"];
    let refused = wharf::run(&args);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("401") && refused.err.contains("that key is not known"), "{}", refused.err);

    let by_env = Finished::from(wharf::command(&args).env("OPENAI_API_KEY", "secret").output().unwrap());
    assert_eq!(by_env.code, Some(0), "{}", by_env.err);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "\n  secret \n").unwrap();
    let by_file = wharf::run(&["chat", &fake.url, "--prompt", "x", "--api-key-file", file.to_str().unwrap()]);
    assert_eq!(by_file.code, Some(0), "{}", by_file.err);
}

#[test]
fn answers_that_break_off_fail() {
    for (manner, message) in [
        (Manner::Truncates, "ended before the server said that it was complete"),
        (Manner::ErrorEvent, "out of memory"),
        (Manner::Broken, "the engine has stopped"),
    ] {
        let fake = Fake::start(manner);
        let ran = wharf::run(&["chat", &fake.url, "--prompt", "x"]);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(message), "{}", ran.err);
    }
}

#[test]
fn bad_usage_exits_with_2_and_says_what_to_do() {
    let several = Fake::with_models(Manner::Streams, &["small", "large"]);
    for (args, message) in [
        (vec!["chat", "ftp://x", "--prompt", "x"], "not an http:// or https:// address"),
        (vec!["chat", "--output", "json"], "--output json needs --prompt"),
        (vec!["chat", "--prompt", "x", "--api-key-file", "/no/such/file"], "/no/such/file"),
        (vec!["chat", "--max-tokens", "-1"], "invalid value '-1' for '--max-tokens <N>'"),
        (vec!["chat", "--max-tokens", "0"], "invalid value '0' for '--max-tokens <N>'"),
        (vec!["chat", "--temperature", "-1"], "expected a number from 0 to 100"),
        (vec!["chat", "--temperature", "NaN"], "expected a number from 0 to 100"),
        (vec!["chat", "--top-p", "0"], "expected a number above 0 and at most 1"),
        (vec!["chat", "--top-p", "1.5"], "expected a number above 0 and at most 1"),
        (vec!["chat", "--model", "x", "--threads", "0"], "invalid value '0' for '--threads <N>'"),
    ] {
        let ran = wharf::run(&args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(message), "{args:?}: {}", ran.err);
    }
    let ran = wharf::run(&["chat", &several.url, "--prompt", "x"]);
    assert!(ran.err.contains("--model-name: small, large"), "{}", ran.err);
    let ran = wharf::run(&["chat", &several.url, "--prompt", "x", "--model-name", "large"]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(several.requests()[0]["model"], "large");
}

#[test]
fn an_unreachable_server_is_a_failure_that_names_it() {
    let ran = wharf::run(&["chat", "http://127.0.0.1:1", "--prompt", "x"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("failed to reach http://127.0.0.1:1/v1/models"), "{}", ran.err);
}

#[test]
fn an_interrupt_ends_a_single_answer_with_130() {
    let fake = Fake::start(Manner::Hangs);
    let mut child = spawn(&["chat", &fake.url, "--prompt", "x"]);
    let mut printed = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"Paris");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn an_interrupt_ends_waiting_for_a_prompt_on_standard_input() {
    let fake = Fake::start(Manner::Streams);
    let mut child = spawn(&["chat", &fake.url, "--prompt", "-"]);
    let _held_open = child.stdin.take().unwrap();
    // The program says nothing before it reads. An interrupt that comes before it listens may be lost where its parent ignores them.
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(500));
        interrupt(&child);
    }
    assert!(fake.requests().is_empty());
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let fake = Fake::start(Manner::Streams);
    let mut child = spawn(&["chat", &fake.url, "--prompt", "-"]);
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    let ran = child.wait_with_output().unwrap();
    let errors = String::from_utf8(ran.stderr).unwrap();
    assert_eq!((ran.status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn in_a_conversation_one_interrupt_stops_the_answer_and_two_leave() {
    let fake = Fake::start(Manner::Hangs);
    let mut child = spawn(&["chat", &fake.url]);
    // Taken, because waiting for the child closes what it still holds, and that ends a conversation too.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut printed = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    interrupt(&child);
    // The line end after the answer shows that it was stopped and the conversation goes on.
    let mut line_end = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut line_end).unwrap();
    stdin.write_all(b"again\n").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    interrupt(&child);
    child.stdout.as_mut().unwrap().read_exact(&mut line_end).unwrap();
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn converse(url: &str, input: &str) -> Finished {
    let mut child = spawn(&["chat", url]);
    // The program may leave before it has read all of its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Finished::from(child.wait_with_output().unwrap())
}

fn spawn(args: &[&str]) -> Child {
    wharf::command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child) {
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
