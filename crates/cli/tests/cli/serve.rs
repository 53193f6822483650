//! `wharf serve` as a process: signals, exit codes, two servers side by side.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, future};
use serde_json::{Value, json};
use wharf_testkit::TinyModel;

use crate::wharf;

/// Longer than any step of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server process, killed when the test ends however it ends.
struct Serve {
    process: Child,
    url: String,
}

impl Serve {
    async fn start(model: &Path) -> Serve {
        let [port, metrics] = free_ports();
        let mut command = wharf::command(&["serve", "--host", "127.0.0.1", "--log-level", "warn", "--model"]);
        command.arg(model).args(["--port", &port.to_string(), "--metrics-port", &metrics.to_string()]);
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        let mut serve = Serve { process, url: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + PATIENCE;
        while !reqwest::get(format!("{}/ready", serve.url)).await.is_ok_and(|answer| answer.status() == 200) {
            assert_eq!(serve.process.try_wait().unwrap(), None, "the server ended before it was ready");
            assert!(Instant::now() < deadline, "the server never became ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        serve
    }

    fn terminate(&self) {
        let kill = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    async fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server never ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Slow enough that 16 streams of hundreds of tokens take a while.
fn model(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("tiny.gguf");
    TinyModel { hidden_size: 256, ffn_size: 512, n_layers: 6, ..TinyModel::default() }.write(&path).unwrap();
    path
}

async fn complete(url: &str, more: Value) -> reqwest::Response {
    let mut body = json!({"prompt": "once", "max_tokens": 400, "ignore_eos": true, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    reqwest::Client::new().post(format!("{url}/v1/completions")).json(&body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_16_streams_finish_and_leaves_another_server_alone() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let (first, second) = future::join(Serve::start(&model), Serve::start(&model)).await;

    let streams = future::join_all((0..16).map(|i| {
        let url = first.url.clone();
        async move {
            let answer = complete(&url, json!({"prompt": format!("once {i}"), "stream": true})).await;
            assert_eq!(answer.status(), 200);
            let mut bytes = answer.bytes_stream();
            let begin = bytes.next().await.unwrap().unwrap();
            (begin, bytes)
        }
    }))
    .await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let neighbour = tokio::spawn({
        let url = second.url.clone();
        async move {
            let mut answered = 0;
            while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
                let answer: Value = complete(&url, json!({"max_tokens": 5})).await.json().await.unwrap();
                assert_eq!(answer["usage"]["completion_tokens"], 5);
                answered += 1;
            }
            answered
        }
    });

    first.terminate();
    let mut unfinished = 0;
    for (begin, rest) in streams {
        let mut text = begin.to_vec();
        let mut rest = std::pin::pin!(rest);
        let mut pieces = 0;
        while let Some(piece) = rest.next().await {
            text.extend_from_slice(&piece.expect("the stream is not cut"));
            pieces += 1;
        }
        unfinished += usize::from(pieces > 0);
        let text = String::from_utf8(text).unwrap();
        assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
        assert!(text.contains("\"finish_reason\":\"length\""), "{text}");
    }
    assert!(unfinished > 0, "the signal was meant to come while streams were running");
    assert_eq!(first.ended().await.code(), Some(0));

    stop.send(()).unwrap();
    assert!(neighbour.await.unwrap() > 0);
    assert_eq!(reqwest::get(format!("{}/ready", second.url)).await.unwrap().status(), 200);
}

#[test]
fn bad_input_exits_with_2_and_says_what_to_do() {
    let check = |args: &[&str], expected: &str| {
        let finished = wharf::run(args);
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(finished.err.contains(expected), "{args:?}: {finished:?}");
    };
    check(&["serve"], "give --model, set MODEL_PATH");
    check(&["serve", "--model", "/nowhere.gguf"], "/nowhere.gguf");
    check(&["serve", "--model", "x", "--port", "70000"], "port");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    check(&["serve", "--model", path.to_str().unwrap()], "broken.gguf");
    check(&["inspect", path.to_str().unwrap()], "broken.gguf");
}
