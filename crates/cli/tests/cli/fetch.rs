//! Fetching as a user meets it: whole folders, kills, Ctrl-C, a full disk, exit codes.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tempfile::TempDir;

use crate::wharf::{self, Finished};

/// Two requests' worth and a bit.
const SIZE: usize = (64 << 20) + 1000;

/// A server of one large file. While it is slow, only the first answers come to their end.
#[derive(Clone)]
struct Web {
    state: Arc<Mutex<Asked>>,
    body: Bytes,
}

#[derive(Default)]
struct Asked {
    ranges: Vec<String>,
    /// How many requests are still answered to the end.
    patience: usize,
    hanging: bool,
}

impl Web {
    fn start(patience: usize) -> (Web, String) {
        let body: Vec<u8> = (0..SIZE).map(|i| (i >> 3) as u8).collect();
        let web = Web { state: Arc::default(), body: body.into() };
        web.state.lock().unwrap().patience = patience;
        let (address, started) = mpsc::channel::<SocketAddr>();
        let shared = web.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                address.send(listener.local_addr().unwrap()).unwrap();
                let app = Router::new().route("/model.gguf", get(answer)).with_state(shared);
                axum::serve(listener, app).await.unwrap();
            });
        });
        let url = format!("http://{}/model.gguf", started.recv().unwrap());
        (web, url)
    }

    /// Waits until an answer has stopped in the middle.
    fn hung(&self) {
        let begun = Instant::now();
        while !self.state.lock().unwrap().hanging {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing was asked");
            std::thread::yield_now();
        }
    }

    /// From now on everything is answered; gives what was asked so far.
    fn recover(&self) -> Vec<String> {
        let mut state = self.state.lock().unwrap();
        state.patience = usize::MAX;
        std::mem::take(&mut state.ranges)
    }
}

async fn answer(State(web): State<Web>, headers: HeaderMap) -> Response {
    let range = headers[header::RANGE].to_str().unwrap().to_owned();
    let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (start, end) = (start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap().min(SIZE - 1));
    let mut state = web.state.lock().unwrap();
    state.ranges.push(range.clone());
    let body = web.body.slice(start..=end);
    let response = Response::builder()
        .status(206)
        .header(header::ETAG, "\"one\"")
        .header(header::CONTENT_LENGTH, body.len())
        .header(header::CONTENT_RANGE, format!("bytes {start}-{end}/{SIZE}"));
    if state.patience > 0 {
        state.patience -= 1;
        return response.body(Body::from(body)).unwrap();
    }
    state.hanging = true;
    let begun = stream::iter([Ok::<_, std::io::Error>(body.slice(..10))]);
    response.body(Body::from_stream(begun.chain(stream::pending()))).unwrap()
}

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Case {
        Case { folder: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> String {
        self.folder.path().join("model").to_str().unwrap().to_owned()
    }

    fn command(&self, url: &str, args: &[&str]) -> Command {
        let out = self.out();
        let fixed = ["fetch", url, "-o", &out, "--allow-private", "--allow-scheme", "http,file"];
        let mut command = wharf::command(&[&fixed[..], args].concat());
        for name in ["HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, url: &str, args: &[&str]) -> Finished {
        Finished::from(self.command(url, args).output().unwrap())
    }

    /// Starts with one connection, and is stopped by `signal` when two ranges are there and the third hangs.
    fn stopped(&self, web: &Web, url: &str, signal: &str) -> Finished {
        let mut command = self.command(url, &["--connections", "1"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        web.hung();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        Finished::from(child.wait_with_output().unwrap())
    }
}

#[test]
fn a_killed_fetch_goes_on_with_the_rest() {
    // The look and two ranges are answered.
    let (case, (web, url)) = (Case::new(), Web::start(3));
    let killed = case.stopped(&web, &url, "-KILL");
    assert_eq!(killed.code, None);
    assert!(!Path::new(&case.out()).exists());
    web.recover();
    let finished = case.run(&url, &["--output", "json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(report["downloaded"], 1000);
    assert_eq!(web.recover(), ["bytes=0-0", &format!("bytes={}-{}", 64 << 20, SIZE - 1)]);
    assert!(std::fs::read(Path::new(&case.out()).join("model.gguf")).unwrap() == web.body);
    let again = case.run(&url, &[]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("is there already; nothing was done"), "{}", again.out);
}

#[test]
fn ctrl_c_ends_with_130_and_says_that_it_goes_on() {
    let (case, (web, url)) = (Case::new(), Web::start(3));
    let stopped = case.stopped(&web, &url, "-INT");
    assert_eq!(stopped.code, Some(130), "{}", stopped.err);
    assert!(stopped.err.contains("goes on from here"), "{}", stopped.err);
    web.recover();
    let finished = case.run(&url, &[]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    assert!(finished.out.contains("1.0 kB were read"), "{}", finished.out);
}

#[test]
fn a_full_disk_is_told_and_gone_on_with() {
    let (case, (_, url)) = (Case::new(), Web::start(usize::MAX));
    let command = case.command(&url, &["--connections", "1"]);
    // No file may be larger than 40 MB, as if no more were free.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 80000; exec \"$0\" \"$@\""]).arg(command.get_program());
    let full = Finished::from(limited.args(command.get_args()).output().unwrap());
    assert_eq!(full.code, Some(1), "{}", full.err);
    assert!(
        full.err.contains("no space is left") && full.err.contains("it goes on from here"),
        "{}",
        full.err
    );
    let finished = case.run(&url, &["--output", "json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    let rest = report["downloaded"].as_u64().unwrap();
    assert!(rest > 0 && rest <= (SIZE - (32 << 20)) as u64, "{rest}");
}

#[test]
fn bad_input_is_told_before_anything_is_written() {
    let case = Case::new();
    let (_, url) = Web::start(0);
    for (source, args, said) in [
        ("Qwen/Qwen2.5-7B", &[][..], "did you mean hf://Qwen/Qwen2.5-7B?"),
        ("s3://bucket/x", &[], "s3:// is not allowed here"),
        ("file:///nowhere/at/all", &[], "does not exist"),
        (&url, &["--digest", "sha256:12"], "64 hexadecimal digits"),
        (&url, &["--max-bytes", "many"], "expected a number of bytes"),
        (&url, &["--token-file", "/nowhere"], "--token-file"),
        (&url, &["--ca", "/nowhere"], "--ca"),
    ] {
        let finished = case.run(source, args);
        assert_eq!(finished.code, Some(2), "{source}: {}", finished.err);
        assert!(finished.err.contains(said), "{source}: {}", finished.err);
    }
    let out = case.out();
    let refused = wharf::run(&["fetch", &url, "-o", &out, "--allow-scheme", "http"]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("--allow-private"), "{}", refused.err);
    assert_eq!(std::fs::read_dir(case.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_model_that_others_make_is_awaited() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    let mut waiting =
        wharf::command(&["fetch", "--await", path.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 11];
    waiting.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!((&said, waiting.try_wait().unwrap()), (b"waiting for", None));
    std::fs::create_dir(&path).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert_eq!(wharf::run(&["fetch"]).code, Some(2));
}

#[test]
fn what_was_fetched_is_removed_again_and_what_others_made_is_not() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("model.gguf");
    std::fs::write(&source, [7; 100]).unwrap();
    let (model, result) = (folder.path().join("source-0123456789"), folder.path().join("result"));
    let (model, result) = (model.to_str().unwrap(), result.to_str().unwrap());
    let url = format!("file://{}", source.display());
    assert_eq!(wharf::run(&["fetch", &url, "-o", model]).code, Some(0));
    let removed = wharf::run(&["fetch", "--remove", model, "--result", result]);
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    assert!(!Path::new(model).exists());
    let result: Value = serde_json::from_str(&std::fs::read_to_string(result).unwrap()).unwrap();
    assert!(result["bytes"].as_u64().unwrap() > 100, "{result}");
    assert_eq!(
        wharf::run(&["fetch", "--remove", model]).code,
        Some(0),
        "removing it once more is no failure"
    );
    let refused = wharf::run(&["fetch", "--remove", source.to_str().unwrap()]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(source.exists());
}
