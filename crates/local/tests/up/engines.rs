//! Engines of others: found in the path, called with exactly their arguments, and reached through the gateway as Wharf's own is.

use std::path::Path;

use serde_json::{Value, json};
use wharf_local::{Gpu, Machine};

use crate::support::{Host, Running, merge, stand_in};

/// A machine with a GPU, which some engines do not run without.
fn host() -> Host {
    let gpu = Gpu { id: "GPU-0".to_owned(), product: "NVIDIA H100".to_owned(), memory: None };
    let default = Host::default();
    Host { machine: Machine { gpus: vec![gpu], ..default.machine }, ..default }
}

/// A folder with a program of each of these names, and with a model file and a model folder.
fn folder(programs: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for program in programs {
        std::os::unix::fs::symlink(stand_in(), folder.path().join(program)).unwrap();
    }
    std::fs::write(folder.path().join("model.gguf"), "{}").unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    folder
}

/// A service of an engine that is looked for in this folder alone.
fn spec(folder: &Path, model: &str, runtime: Value, more: Value) -> Value {
    let mut spec = json!({
        "model": {"source": format!("file://{}/{model}", folder.display())},
        "runtime": {"env": [{"name": "PATH", "value": folder}]},
    });
    merge(&mut spec["runtime"], runtime);
    merge(&mut spec, more);
    spec
}

/// Runs it and chats; gives the words that its program was called with and its variables, with `PORT`, `MODEL` in place of what changes.
async fn run(folder: &Path, model: &str, spec: Value) -> (Vec<String>, Vec<String>) {
    let up = Running::start_on(host(), json!({}), spec).await;
    let replica = up.until_ready(1).await.replicas[0].clone();
    let (status, _, body) = up.chat().await;
    assert_eq!(status, 200, "{body}");
    let said = up.said(&replica.name).await;
    let called = said.lines().find_map(|line| line.strip_prefix("called ")).unwrap();
    let port = replica.address.rsplit(':').next().unwrap().to_owned();
    let model = folder.join(model).display().to_string();
    let known = |word: String| match word {
        word if word == port => "PORT".to_owned(),
        word => word.replace(&model, "MODEL"),
    };
    let words: Vec<String> = serde_json::from_str(called).unwrap();
    let mut told = up.told(&replica.name).await;
    told.iter_mut().for_each(|line| *line = line.replace(&port, "PORT").replace(&model, "MODEL"));
    told.sort();
    up.stop().await;
    (words.into_iter().map(known).collect(), told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_engine_in_the_path_is_called_with_its_arguments_and_answers_through_the_gateway() {
    let folder = folder(&["llama-server", "vllm", "python3", "homemade"]);
    let gpu = json!({"gpu": {"count": 1}});
    let cases = [
        (
            "model.gguf",
            json!({"engine": "llamacpp", "args": ["--threads", "2"]}),
            json!({"server": {"maxModelLen": 2048, "maxNumSeqs": 2, "defaults": {"maxTokens": 9}}}),
            "--model MODEL --alias assistant --host 127.0.0.1 --port PORT --metrics --ctx-size 4096 --parallel 2 --n-predict 9 --threads 2",
            "",
        ),
        (
            "model",
            json!({"engine": "vllm", "args": ["--enforce-eager"]}),
            json!({"resources": gpu, "server": {"maxModelLen": 2048}}),
            "serve MODEL --served-model-name assistant --host 127.0.0.1 --port PORT --max-model-len 2048 --enforce-eager",
            "HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1",
        ),
        (
            "model",
            json!({"engine": "sglang"}),
            json!({"resources": gpu, "server": {"maxNumSeqs": 4}}),
            "-m sglang.launch_server --model-path MODEL --served-model-name assistant --host 127.0.0.1 --port PORT --enable-metrics \
             --log-level info --max-running-requests 4",
            "HF_HUB_OFFLINE=1",
        ),
        (
            "model.gguf",
            json!({"engine": "custom", "image": "registry.example.com/homemade:1", "ports": {"http": 8080},
                "command": ["homemade"], "args": ["--port", "$(PORT)", "--weights=$(MODEL_PATH)", "$(NOBODY)"]}),
            json!({}),
            "--port PORT --weights=MODEL $(NOBODY)",
            "MODEL_NAME=assistant MODEL_PATH=MODEL PORT=PORT",
        ),
    ];
    for (model, runtime, more, words, variables) in cases {
        let engine = runtime["engine"].clone();
        let (called, told) = run(folder.path(), model, spec(folder.path(), model, runtime, more)).await;
        assert_eq!(called.join(" "), words, "{engine}");
        assert_eq!(told.join(" "), variables, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_not_in_the_path_is_said_at_once() {
    let folder = folder(&[]);
    let missing = spec(folder.path(), "model.gguf", json!({"engine": "llamacpp"}), json!({}));
    let up = Running::start(json!({}), missing).await;
    let facts = up.until("the failure", |facts| facts.phase == "Failed").await;
    assert!(
        facts.message.contains("failed to start llama-server: it is not in the path"),
        "{}",
        facts.message
    );
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_engine_without_a_command_is_asked_for_one() {
    let folder = folder(&["homemade"]);
    let runtime =
        json!({"engine": "custom", "image": "registry.example.com/homemade:1", "ports": {"http": 8080}});
    let up = Running::start(json!({}), spec(folder.path(), "model.gguf", runtime, json!({}))).await;
    let facts = up.until("the refusal", |facts| facts.phase == "Failed").await;
    assert!(facts.message.contains("spec.runtime.command"), "{}", facts.message);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_not_taken_for_whoever_listens_on_the_port_that_it_names() {
    let folder = folder(&["homemade"]);
    let stranger = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = stranger.local_addr().unwrap().port();
    let runtime = json!({"engine": "custom", "image": "registry.example.com/homemade:1", "ports": {"http": port},
        "command": ["homemade"], "args": ["--port", port.to_string()]});
    let up = Running::start(json!({}), spec(folder.path(), "model.gguf", runtime, json!({}))).await;
    let said = format!("port {port}, which is in use");
    let waits = |facts: &wharf_api::console::ServiceFacts| {
        facts.replicas.iter().any(|replica| replica.state == "waiting" && replica.reason.contains(&said))
    };
    let facts = up.until("the refusal", waits).await;
    assert!(facts.message.contains("$(PORT)"), "{}", facts.message);
    // It starts by itself when the port is free.
    drop(stranger);
    let facts = up.until_ready(1).await;
    assert_eq!(facts.replicas[0].address, format!("127.0.0.1:{port}"));
    assert_eq!(up.chat().await.0, 200);
    up.stop().await;
}
