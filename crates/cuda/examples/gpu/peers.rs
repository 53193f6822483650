//! Asks PyTorch with Transformers for the same, where Python has them: in the same run, on the same GPU, on shapes in bfloat16.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::shapes::Shape;

const SCRIPT: &str = include_str!("peers.py");

/// What it tells until it ends or the time is over, or why it tells nothing.
pub(crate) fn run(
    shapes: &[Shape],
    gpu: usize,
    within: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Value>, String> {
    if within.is_zero() {
        return Err("nothing of the budget is left".to_owned());
    }
    let shapes: Vec<Value> = shapes.iter().map(Shape::json).collect();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &json!(shapes).to_string(), &gpu.to_string()]);
    python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().map_err(|error| format!("python3 cannot be started: {error}"))?;
    let out = child.stdout.take().expect("its output is a pipe");
    let mut errors = child.stderr.take().expect("its errors are a pipe");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // Whoever listens may have gone when the time was over.
        BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (deadline, mut rows) = (Instant::now() + within, Vec::new());
    let over = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                say(&format!("PyTorch: {line}"));
                rows.extend(serde_json::from_str::<Value>(&line));
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    if over {
        // It may have ended by itself meanwhile.
        let _ = child.kill();
        rows.push(json!({"cut": "the budget was over"}));
    }
    let status = child.wait().map_err(|error| format!("python3 cannot be waited for: {error}"))?;
    // Both end with their pipes.
    let _ = reader.join();
    let complaints = complaints.join().unwrap_or_default();
    let last = complaints.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    match rows.is_empty() {
        true => Err(format!("python3 told nothing: {last}")),
        false => {
            if !over && !status.success() {
                rows.push(json!({ "failed": last }));
            }
            Ok(rows)
        }
    }
}
