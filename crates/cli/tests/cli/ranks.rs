//! `wharf serve` over several processes: what they answer, and that none outlives another.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_testkit::TinyModel;

use crate::wharf;

/// Longer than any step of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process whose standard error is kept, killed when the test ends however it ends.
struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Process {
    fn start(mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, keep) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                keep.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Process { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn signal(&self, signal: &str) {
        send(signal, self.child.id());
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn free_ports<const N: usize>(ip: Ipv4Addr) -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind((ip, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// A leader with its URL.
struct Serve {
    process: Process,
    url: String,
}

impl Serve {
    async fn start(model: &Path, more: &[&str], env: &[(&str, &str)], host: Ipv4Addr) -> Serve {
        let [port, metrics] = free_ports(host);
        let mut command =
            wharf::command(&["serve", "--log-level", "info", "--log-format", "text", "--threads", "1"]);
        command.arg("--host").arg(host.to_string()).arg("--model").arg(model).args(more);
        command.args(["--port", &port.to_string(), "--metrics-port", &metrics.to_string()]);
        command.envs(env.iter().copied());
        Serve { process: Process::start(command), url: format!("http://{}", SocketAddr::from((host, port))) }
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !reqwest::get(format!("{}/ready", self.url)).await.is_ok_and(|answer| answer.status() == 200) {
            let ended = self.process.child.try_wait().unwrap();
            assert_eq!(ended, None, "it ended before it was ready: {}", self.process.said());
            assert!(Instant::now() < deadline, "it never became ready: {}", self.process.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn post(&self, body: Value) -> (u16, String) {
        let sent = reqwest::Client::new().post(format!("{}/v1/completions", self.url)).json(&body).send();
        let answer = sent.await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap_or_else(|error| format!("cut off: {error}")))
    }

    async fn answer(&self) -> String {
        let (status, text) =
            self.post(json!({"prompt": "once upon", "max_tokens": 40, "temperature": 0})).await;
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Its ranks, by process id.
    fn children(&self) -> Vec<u32> {
        let pid = self.process.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut found: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        if found.is_empty() {
            // Not every kernel tells, and threads other than the first start processes too.
            for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
                let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
                let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
                if parent == Some(&pid.to_string()) {
                    found.push(child);
                }
            }
        }
        found
    }
}

fn running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; who inherited it has not looked yet.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn model(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    let tiny = TinyModel {
        hidden_size: 288,
        ffn_size: 320,
        n_layers: 4,
        n_heads: 9,
        n_kv_heads: 3,
        context_length: 100_000,
        ..TinyModel::default()
    };
    tiny.write(&path).unwrap();
    path
}

/// Far more tokens than a test waits for.
fn long(stream: bool) -> Value {
    json!({"prompt": "once", "max_tokens": 90_000, "ignore_eos": true, "temperature": 0, "stream": stream})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_of_one_host_answer_as_one_process_and_end_together_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut alone = Serve::start(&model, &[], &[], LOCAL).await;
    alone.ready().await;
    let expected = alone.answer().await;
    for spread in ["--tensor-parallel=2", "--tensor-parallel=3", "--pipeline-parallel=2"] {
        let mut serve = Serve::start(&model, &[spread], &[], LOCAL).await;
        serve.ready().await;
        assert_eq!(serve.answer().await, expected, "{spread}");
        let children = serve.children();
        assert_eq!(children.len(), if spread.ends_with('3') { 2 } else { 1 });
        serve.process.signal("-TERM");
        assert_eq!(serve.process.ended().await.code(), Some(0), "{spread}: {}", serve.process.said());
        assert!(!children.into_iter().any(running), "{spread}: ranks end before their leader");
        let said = serve.process.said();
        assert!(said.contains("the leader has ended the group") && !said.contains("ERROR"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_or_hung_rank_is_503_for_requests_and_1_for_whoever_started_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    for (spread, signal, why) in [
        ("--tensor-parallel=2", "-KILL", "rank 1"),
        ("--tensor-parallel=2", "-STOP", "rank 1 is lost: it has not been heard of for 2 s"),
        ("--pipeline-parallel=2", "-KILL", "rank 1"),
    ] {
        let mut serve = Serve::start(&model, &[spread, "--rank-timeout-seconds", "2"], &[], LOCAL).await;
        serve.ready().await;
        let rank = serve.children()[0];
        let (whole, streamed) = tokio::join!(serve.post(long(false)), async {
            let body = long(true);
            let sent =
                reqwest::Client::new().post(format!("{}/v1/completions", serve.url)).json(&body).send();
            let mut answer = sent.await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut text = String::from_utf8(answer.chunk().await.unwrap().unwrap().to_vec()).unwrap();
            send(signal, rank);
            while let Some(piece) = answer.chunk().await.unwrap() {
                text.push_str(std::str::from_utf8(&piece).unwrap());
            }
            text
        });
        assert_eq!(whole.0, 503, "{spread} {signal}: {}", whole.1);
        assert!(whole.1.contains("rank 1"), "{}", whole.1);
        let last = streamed.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.contains("\"error\"") && last.contains("rank 1"), "{last}");
        assert_eq!(serve.process.ended().await.code(), Some(1), "{spread} {signal}");
        let said = serve.process.said();
        assert!(said.contains("error: the server cannot go on") && said.contains(why), "{said}");
        until("the rank is gone", || !running(rank)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_ends_when_a_rank_does_and_ranks_end_with_a_killed_leader() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut serve = Serve::start(&model, &["--tensor-parallel=2"], &[], LOCAL).await;
    serve.ready().await;
    send("-KILL", serve.children()[0]);
    assert_eq!(serve.process.ended().await.code(), Some(1), "{}", serve.process.said());

    let mut serve = Serve::start(&model, &["--tensor-parallel=3"], &[], LOCAL).await;
    serve.ready().await;
    let ranks = serve.children();
    assert_eq!(ranks.len(), 2);
    serve.process.signal("-KILL");
    until("all ranks end", || !ranks.iter().any(|rank| running(*rank))).await;
}

/// As a LeaderWorkerSet starts them: the same command everywhere, and what differs in the environment. Ranks meet on an
/// address that is not the host's first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_with_a_leader_worker_sets_variables_serve_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut alone = Serve::start(&model, &[], &[], LOCAL).await;
    alone.ready().await;
    let expected = alone.answer().await;
    let other = Ipv4Addr::new(127, 0, 0, 2);
    for spread in ["--tensor-parallel=2", "--pipeline-parallel=2"] {
        let [port] = free_ports(other);
        let (port, leader) = (port.to_string(), format!("{other}:{port}"));
        let env = |rank| {
            [
                ("LWS_LEADER_ADDRESS", leader.as_str()),
                ("LWS_GROUP_SIZE", "2"),
                ("LWS_WORKER_INDEX", rank),
                ("WHARF_GROUP_KEY", "open sesame"),
            ]
        };
        let mut command = wharf::command(&["serve", "--log-format", "text", "--threads", "1", spread]);
        command.arg("--model").arg(&model).envs(env("1"));
        let mut worker = Process::start(command);
        let mut serve = Serve::start(&model, &[spread, "--rank-port", &port], &env("0"), other).await;
        serve.ready().await;
        assert_eq!(serve.answer().await, expected, "{spread}");
        assert!(serve.children().is_empty(), "ranks are started by others");
        serve.process.signal("-TERM");
        assert_eq!(serve.process.ended().await.code(), Some(0), "{}", serve.process.said());
        assert_eq!(worker.ended().await.code(), Some(0), "{}", worker.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_with_another_model_is_bad_input_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let other = folder.path().join("other.gguf");
    TinyModel { seed: 7, ..TinyModel::default() }.write(&other).unwrap();
    let [port] = free_ports(LOCAL);
    let (port, leader) = (port.to_string(), format!("{LOCAL}:{port}"));
    let flags = ["--tensor-parallel=2", "--leader-address", &leader, "--group-size", "2"];
    let mut command = wharf::command(&["serve", "--log-format", "text", "--rank", "1"]);
    command.args(flags).arg("--model").arg(&other);
    let mut worker = Process::start(command);
    let more = [&flags[..], &["--rank", "0", "--rank-port", &port]].concat();
    let mut serve = Serve::start(&model, &more, &[], LOCAL).await;
    assert_eq!(serve.process.ended().await.code(), Some(2), "{}", serve.process.said());
    assert_eq!(worker.ended().await.code(), Some(2), "{}", worker.said());
    for said in [serve.process.said(), worker.said()] {
        assert!(said.contains("rank 1 has another model"), "{said}");
    }
}

#[test]
fn what_cannot_be_spread_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let check = |args: &[&str], expected: &str| {
        let finished = wharf::run(&[&["serve", "--model", model.to_str().unwrap()], args].concat());
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
        assert!(finished.err.contains(expected), "{args:?}: {finished:?}");
    };
    check(&["--tensor-parallel", "10"], "the query heads cannot be cut into 10 parts, at most into 9");
    check(&["--pipeline-parallel", "5"], "the layers cannot be cut into 5 parts, at most into 4");
    check(&["--tensor-parallel", "2", "--pipeline-parallel", "2"], "cannot be combined");
    check(&["--tensor-parallel", "2", "--rank", "1"], "leader_address: is needed for rank 1");
    check(&["--tensor-parallel", "2", "--group-size", "3"], "3 ranks are started, but tensor_parallel is 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_model_is_served_from_the_parts_and_only_by_as_many_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut alone = Serve::start(&model, &[], &[], LOCAL).await;
    alone.ready().await;
    let cut = folder.path().join("cut");
    let shard = |out: &Path| {
        wharf::run(&[
            "shard",
            model.to_str().unwrap(),
            "--tensor=2",
            "-o",
            out.to_str().unwrap(),
            "--output=json",
        ])
    };
    let finished = shard(&cut);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(report["ranks"][1]["share"]["kv_heads"], json!({"start": 2, "end": 3}));
    let finished = shard(&cut);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains("exists; give another folder"), "{finished:?}");

    let mut serve = Serve::start(&cut, &["--tensor-parallel=2"], &[], LOCAL).await;
    serve.ready().await;
    assert_eq!(serve.answer().await, alone.answer().await);
    for ranks in ["1", "3"] {
        let finished = wharf::run(&["serve", "--model", cut.to_str().unwrap(), "--tensor-parallel", ranks]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.err.contains("was cut for 2 tensor-parallel ranks, not for"), "{finished:?}");
    }
}
