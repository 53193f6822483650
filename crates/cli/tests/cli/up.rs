//! `wharf up` and those who talk to it, as processes, with a tiny model: in the background, as a unit of systemd, and refused.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use wharf_testkit::TinyModel;

use crate::wharf;

/// Longer than any step of a test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/wharf.service");

/// A folder with a service, and with the state of who runs it. Whatever runs ends with the test.
struct Place(TempDir);

impl Place {
    /// A service `assistant` of a tiny model, with more of its spec as lines of YAML.
    fn new(more: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        TinyModel::default().write(&model).unwrap();
        Place::of(folder, &format!("file://{}", model.display()), more)
    }

    /// The same of a model from elsewhere.
    fn of(folder: TempDir, source: &str, more: &str) -> Place {
        let services = folder.path().join("services");
        fs::create_dir(&services).unwrap();
        let object = format!(
            "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {{name: assistant}}\nspec:\n  \
             model: {{source: '{source}'}}\n{more}",
        );
        fs::write(services.join("llm.yaml"), object).unwrap();
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `wharf up` on free ports, with more arguments; the first port is that of the API.
    fn up(&self, more: &[&str]) -> (Command, u16) {
        let [port, metrics] = free_ports();
        let mut command = wharf::command(&["up", "-f"]);
        command.arg(self.path("services")).arg("--state").arg(self.path("state"));
        command.arg("--cache").arg(self.path("cache"));
        command.args(["--port", &port.to_string(), "--metrics-port", &metrics.to_string()]).args(more);
        (command, port)
    }

    /// A command that talks to whoever runs.
    fn ask(&self, words: &[&str]) -> wharf::Finished {
        let mut command = wharf::command(words);
        wharf::Finished::from(command.arg("--state").arg(self.path("state")).output().unwrap())
    }

    fn facts(&self) -> Value {
        let shown = self.ask(&["ps", "--output", "json"]);
        if shown.code != Some(0) {
            return Value::Null;
        }
        serde_json::from_str::<Value>(&shown.out).unwrap()["services"][0]["facts"].clone()
    }

    /// Looks until the facts are so.
    fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let facts = self.facts();
            if fits(&facts) {
                return facts;
            }
            assert!(Instant::now() < deadline, "{what} never came: {facts:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process ids of the replicas, of which one is ready.
    fn until_ready(&self) -> Vec<u64> {
        let ready = |facts: &Value| facts["replicas"][0]["state"] == "ready";
        let facts = self.until("a ready replica", ready);
        facts["replicas"].as_array().unwrap().iter().filter_map(|replica| replica["pid"].as_u64()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // An error means that nothing runs any more.
        let _ = self.ask(&["down"]);
    }
}

fn free_ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn is_gone(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// A process in the foreground, killed when the test ends however it ends.
struct Foreground(Child);

impl Foreground {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it never ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn in_the_background_it_serves_until_down_and_a_second_one_is_refused_with_its_process_id() {
    let place = Place::new("");
    let (mut up, port) = place.up(&["--detach"]);
    let started = wharf::Finished::from(up.output().unwrap());
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = started.out.split("process id ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let replicas = place.until_ready();
    let body = json!({"model": "assistant", "prompt": "once", "max_tokens": 4});
    let answer = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/v1/completions")).json(&body);
    assert_eq!(answer.send().await.unwrap().status(), 200);

    let both: [&[&str]; 2] = [&[], &["--detach"]];
    for more in both {
        let refused = wharf::Finished::from(place.up(more).0.output().unwrap());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains(&format!("process id {pid}:")), "{refused:?}");
    }

    // Without a terminal, what happens is told in lines.
    let log = fs::read_to_string(place.path("state/logs/up.log")).unwrap();
    assert!(log.contains(&format!("API      http://127.0.0.1:{port}/v1")), "{log}");
    assert!(log.contains("assistant  ReplicaReady: assistant-blue-1 answers"), "{log}");
    assert!(place.ask(&["ps"]).out.contains("assistant-blue-1"));
    let scaled = place.ask(&["scale", "assistant", "1"]);
    assert_eq!((scaled.code, scaled.out.contains("1 replicas")), (Some(0), true), "{scaled:?}");
    let logs = place.ask(&["logs", "assistant"]);
    assert_eq!(logs.code, Some(0), "{logs:?}");
    let down = place.ask(&["down"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert!(replicas.into_iter().all(is_gone) && is_gone(pid.parse().unwrap()));
    let nobody = place.ask(&["ps"]);
    assert_eq!((nobody.code, nobody.err.contains("nothing runs")), (Some(2), true), "{nobody:?}");
}

#[test]
fn what_ends_at_once_in_the_background_is_told_with_its_own_error() {
    let place = Place::new("");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fs::create_dir_all(place.path("state/logs")).unwrap();
    fs::write(place.path("state/logs/up.log"), "error: an old one\n").unwrap();
    let mut up = wharf::command(&["up", "--detach", "--port", &port, "--metrics-port", "0", "-f"]);
    up.arg(place.path("services")).arg("--state").arg(place.path("state"));
    let ended = wharf::Finished::from(up.arg("--cache").arg(place.path("cache")).output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("ended at once") && ended.err.contains("in use"), "{ended:?}");
    assert!(!ended.err.contains("an old one"), "{ended:?}");
}

#[test]
fn the_unit_of_systemd_runs_a_folder_of_services_and_its_stop_leaves_nothing() {
    let place = Place::new("");
    let unit = fs::read_to_string(UNIT).unwrap();
    let copy = place.path("wharf.service");
    fs::write(&copy, unit.replace("/usr/local/bin/wharf", env!("CARGO_BIN_EXE_wharf"))).unwrap();
    // Where systemd is at hand, it has nothing to say against it.
    if let Ok(checked) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output() {
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && !said.contains("wharf.service"), "{said}");
    }
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut words = setting("ExecStart=").split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/wharf"));
    let here =
        [("/etc/wharf/services", "services"), ("/var/lib/wharf", "state"), ("/var/cache/wharf", "cache")];
    let word = |word: &str| match here.iter().find(|(there, _)| *there == word) {
        Some((_, name)) => place.path(name).display().to_string(),
        None => word.to_owned(),
    };
    let words: Vec<String> = words.map(word).collect();
    let [port, metrics] = free_ports().map(|port| port.to_string());
    let mut command = wharf::command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    // As systemd starts it: no home, no terminal; only the ports are others.
    command.args(["--port", &port, "--metrics-port", &metrics]).env_remove("HOME").stdin(Stdio::null());
    let mut up = Foreground(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let replicas = place.until_ready();
    // systemd signals the main process alone.
    assert_eq!(setting("KillMode="), "mixed");
    up.signal("-TERM");
    assert_eq!(up.ended(), Some(0));
    assert!(replicas.into_iter().all(is_gone));
}

#[test]
fn what_does_not_fit_and_what_is_not_in_the_path_is_told_by_ps() {
    let cases: [(&str, &[&str], &str); 2] = [
        ("", &["--memory", "1M"], "a replica does not fit: it needs "),
        ("  runtime: {engine: llamacpp}\n", &[], "failed to start llama-server: it is not in the path"),
    ];
    for (more, args, expected) in cases {
        let place = Place::new(more);
        let (mut command, _) = place.up(args);
        command.env("PATH", place.path("nothing")).stderr(Stdio::null());
        let mut up = Foreground(command.spawn().unwrap());
        place.until(expected, |facts| facts["message"].as_str().is_some_and(|told| told.contains(expected)));
        assert!(place.ask(&["ps"]).out.contains(expected));
        up.signal("-TERM");
        assert_eq!(up.ended(), Some(0));
    }
}

#[test]
fn a_model_is_fetched_once_and_from_a_private_address_only_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    TinyModel::default().write(&file).unwrap();
    let model = fs::read(&file).unwrap();
    let size = model.len();
    let (hub, sent) = crate::plan::hub(model);
    let place = Place::of(folder, "hf://acme/tiny/tiny.gguf", "");
    let start = |more: &[&str]| {
        let mut command = place.up(more).0;
        command.env("HF_ENDPOINT", &hub).env_remove("HF_TOKEN").stderr(Stdio::null());
        Foreground(command.spawn().unwrap())
    };
    let end = |mut up: Foreground| {
        up.signal("-TERM");
        assert_eq!(up.ended(), Some(0));
        sent.load(Ordering::Relaxed)
    };

    let refused = start(&[]);
    place.until("the refusal", |facts| {
        let says = facts["message"].as_str().is_some_and(|why| why.contains("--allow-private"));
        says && facts["phase"] == "Failed"
    });
    assert_eq!(end(refused), 0);

    let first = start(&["--allow-private"]);
    place.until_ready();
    let after_first = end(first);
    assert!(after_first >= size, "{after_first} of {size} bytes were sent");

    let second = start(&["--allow-private"]);
    place.until_ready();
    assert_eq!(end(second), after_first);
}

#[test]
fn only_its_owner_can_enter_the_state_folder_and_open_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new("");
    let mut up = Foreground(place.up(&[]).0.stderr(Stdio::null()).spawn().unwrap());
    place.until_ready();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path("state")), 0o700);
    assert_eq!(mode(&place.path("state/control.sock")), 0o600);
    up.signal("-TERM");
    assert_eq!(up.ended(), Some(0));
}

/// The process that was started by this one.
fn child_of(pid: u64) -> u64 {
    let entries = fs::read_dir("/proc").unwrap();
    let mut pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let is_child = |child: &u64| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // After the name in parentheses: state, parent.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()) == Some(pid)
    };
    pids.find(is_child).unwrap()
}

#[tokio::test]
async fn ctrl_c_lets_a_stream_end_and_a_second_one_does_not_wait() {
    let place = Place::new("");
    let body = json!({"model": "assistant", "prompt": "once", "max_tokens": 400, "ignore_eos": true, "stream": true});
    for impatient in [false, true] {
        let (mut command, port) = place.up(&[]);
        let mut up = Foreground(command.stderr(Stdio::null()).spawn().unwrap());
        let replica = place.until_ready()[0];
        let engine = child_of(replica);
        let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let mut answer =
            reqwest::Client::new().post(url("/v1/completions")).json(&body).send().await.unwrap();
        let mut text = answer.chunk().await.unwrap().unwrap().to_vec();
        if impatient {
            // A stream that never ends.
            assert!(Command::new("kill").args(["-STOP", &engine.to_string()]).status().unwrap().success());
        }
        up.signal("-INT");
        if impatient {
            let deadline = Instant::now() + PATIENCE;
            while reqwest::get(url("/ready")).await.is_ok_and(|answer| answer.status() == 200) {
                assert!(Instant::now() < deadline, "the first one was not heard");
            }
            up.signal("-INT");
            assert_eq!(up.ended(), Some(130));
        } else {
            while let Some(piece) = answer.chunk().await.unwrap() {
                text.extend_from_slice(&piece);
            }
            let text = String::from_utf8(text).unwrap();
            assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
            assert_eq!(up.ended(), Some(0));
        }
        let deadline = Instant::now() + PATIENCE;
        while !is_gone(replica) || !is_gone(engine) {
            assert!(Instant::now() < deadline, "{replica} or {engine} is left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
