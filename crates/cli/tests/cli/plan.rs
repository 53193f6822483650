//! Planning as a user meets it: exit codes, JSON, what is read of a model.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use serde_json::Value;
use wharf_testkit::TinyModel;

use crate::wharf::{self, Finished};

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"}"#;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn plan(path: &Path, args: &[&str]) -> Finished {
    wharf::run(&[&["plan", text(path)], args].concat())
}

#[test]
fn a_configuration_is_planned_for_gpus() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    let finished = plan(folder.path(), &["--gpu", "l4", "--quantize", "int4-awq", "--output", "json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(report["weights"]["parameters"], 8_030_261_248u64);
    assert_eq!(report["load"]["context"], 8192);
    let placement = &report["placements"][0];
    assert_eq!(placement["hardware"]["product"]["name"], "NVIDIA-L4");
    assert_eq!(placement["hardware"]["count"], 1);
    assert!(
        placement["forecast"]["decode"][0]["formula"].as_str().unwrap().contains("300 GB/s"),
        "{placement}"
    );
    assert!(report["products"].as_array().unwrap().len() > 20);
}

#[test]
fn what_does_not_fit_exits_with_1_and_says_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llama.json");
    fs::write(&path, CONFIG).unwrap();
    let finished = plan(&path, &["--gpu", "T4:1"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.out.contains("does not fit") && finished.out.contains("--quantize"), "{}", finished.out);
    assert!(finished.err.contains("llama.json"), "{}", finished.err);
}

#[test]
fn this_machine_is_measured_or_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    TinyModel::default().write(&path).unwrap();
    for args in [&["--threads", "1"][..], &["--memory", "1GiB", "--bandwidth", "50", "--gflops", "900"]] {
        let finished = plan(&path, &[args, &["--output", "json"]].concat());
        assert_eq!(finished.code, Some(0), "{}", finished.err);
        let report: Value = serde_json::from_str(&finished.out).unwrap();
        let placement = &report["placements"][0];
        assert!(
            placement["forecast"]["prefill"][0]["tokens_per_second"].as_f64().unwrap() > 0.0,
            "{placement}"
        );
        let total = placement["footprint"]["total"].as_u64().unwrap();
        assert!(total > 10_000_000 && total < 100_000_000, "{placement}");
    }
    // Far too little memory for any server.
    let finished = plan(&path, &["--memory", "1MB", "--bandwidth", "50", "--gflops", "900"]);
    assert_eq!(finished.code, Some(1), "{}", finished.out);
}

#[test]
fn a_cluster_is_planned_for_from_its_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, CONFIG).unwrap();
    let nodes = folder.path().join("nodes.json");
    let node = |product: &str, gpus: u64| {
        format!(
            r#"{{"metadata": {{"name": "n", "labels": {{"nvidia.com/gpu.product": "{product}"}}}},
            "status": {{"allocatable": {{"nvidia.com/gpu": "{gpus}"}}}}}}"#
        )
    };
    fs::write(&nodes, format!(r#"{{"items": [{}, {}]}}"#, node("Tesla-T4", 4), node("NVIDIA-A10", 1)))
        .unwrap();
    let finished = plan(&config, &["--nodes", text(&nodes)]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    assert!(finished.out.contains("1 × NVIDIA-A10: fits"), "{}", finished.out);
    assert!(finished.out.contains("2 × Tesla-T4, 2 tensor ranks"), "{}", finished.out);
    fs::write(&nodes, r#"{"items": []}"#).unwrap();
    let finished = plan(&config, &["--nodes", text(&nodes)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("no node"), "{}", finished.err);
}

#[test]
fn bad_input_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, CONFIG).unwrap();
    for (args, said) in [
        (&["--gpu", "abacus"][..], "NVIDIA-H200"),
        (&["--quantize", "q3"], "q4_k_m"),
        (&["--gpu", "l4:none"], "number of GPUs"),
        (&["--kv-cache", "fp8"], "int8"),
        (&["--memory", "lots"], "--memory"),
        (&["--nodes", "missing.json"], "missing.json"),
    ] {
        let finished = plan(&path, args);
        assert_eq!(finished.code, Some(2), "{args:?}: {}", finished.err);
        assert!(finished.err.contains(said), "{args:?}: {}", finished.err);
    }
    let finished = plan(&folder.path().join("nothing.gguf"), &["--gpu", "l4"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("nothing.gguf"), "{}", finished.err);
}

#[test]
fn the_kubeconfigs_cluster_is_planned_for_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, CONFIG).unwrap();
    let server = serve(|request: axum::extract::Request| async move {
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/api/v1/nodes"));
        if request.headers().get("authorization").is_none_or(|token| token != "Bearer may-list") {
            let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "nodes is forbidden"}"#;
            return Response::builder().status(403).body(Body::from(status)).unwrap();
        }
        let nodes = r#"{"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [
            {"metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "NVIDIA-A10"}},
            "status": {"allocatable": {"nvidia.com/gpu": "1"}}}]}"#;
        Response::builder().header("content-type", "application/json").body(Body::from(nodes)).unwrap()
    });
    let cluster = |token: &str| {
        let kubeconfig = folder.path().join("kubeconfig");
        let yaml = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{token: {token}}}}}]\n"
        );
        fs::write(&kubeconfig, yaml).unwrap();
        let mut command = wharf::command(&["plan", text(&config), "--cluster"]);
        Finished::from(command.env("KUBECONFIG", &kubeconfig).output().unwrap())
    };
    let finished = cluster("may-list");
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    assert!(finished.out.contains("1 × NVIDIA-A10: fits"), "{}", finished.out);
    let refused = cluster("may-not");
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("nodes is forbidden"), "{}", refused.err);
    let mut nowhere = wharf::command(&["plan", text(&config), "--cluster"]);
    let nowhere = Finished::from(nowhere.env("KUBECONFIG", folder.path().join("none")).output().unwrap());
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.err);
}

/// A Hub with one repository of two files; counts the bytes that it has handed out.
pub(crate) fn hub(model: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let answer = move |request: axum::extract::Request| {
        let (model, counted) = (model.clone(), counted.clone());
        async move {
            let path = request.uri().path().to_owned();
            if path.contains("/revision/") {
                return Response::new(Body::from(r#"{"sha": "0123456789012345678901234567890123456789"}"#));
            }
            if path.contains("/tree/") {
                let list = format!(
                    r#"[{{"type": "file", "path": "tiny.gguf", "size": {}, "oid": "0"}}]"#,
                    model.len()
                );
                return Response::new(Body::from(list));
            }
            let range =
                request.headers().get("range").and_then(|range| range.to_str().ok()).unwrap_or("bytes=0-");
            let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let start: usize = start.parse().unwrap();
            let end = end.parse::<usize>().unwrap_or(usize::MAX).min(model.len() - 1);
            counted.fetch_add(end + 1 - start, Ordering::Relaxed);
            Response::builder()
                .status(206)
                .header("content-range", format!("bytes {start}-{end}/{}", model.len()))
                .body(Body::from(model[start..=end].to_vec()))
                .unwrap()
        }
    };
    (serve(answer), sent)
}

/// A server that answers every request in one way, until the tests end; gets its URL.
fn serve<A, F>(answer: A) -> String
where
    A: Fn(axum::extract::Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send,
{
    let (address, started) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, Router::new().fallback(answer)).await.unwrap();
        });
    });
    format!("http://{}", started.recv().unwrap())
}

#[test]
fn a_model_elsewhere_is_planned_for_from_its_front_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    // Large enough that its tensors are not read by chance.
    TinyModel { hidden_size: 512, ffn_size: 2048, n_layers: 8, ..TinyModel::default() }.write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    let (endpoint, sent) = hub(bytes);
    let run = |args: &[&str]| {
        let mut command = wharf::command(&[&["plan", "--gpu", "L4", "--output", "json"], args].concat());
        Finished::from(command.env("HF_ENDPOINT", &endpoint).output().unwrap())
    };
    let there = run(&["hf://acme/tiny/tiny.gguf", "--allow-private"]);
    assert_eq!(there.code, Some(0), "{there:?}");
    assert!(sent.load(Ordering::Relaxed) * 3 < length, "{} of {length} bytes", sent.load(Ordering::Relaxed));
    let here = plan(&path, &["--gpu", "L4", "--output", "json"]);
    let weights =
        |finished: &Finished| serde_json::from_str::<Value>(&finished.out).unwrap()["weights"].clone();
    assert_eq!(weights(&there), weights(&here));

    let service = folder.path().join("llm.yaml");
    let yaml = "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {name: a}\n\
                spec: {model: {source: hf://acme/tiny/tiny.gguf}, resources: {gpu: {count: 1, product: NVIDIA-L4}}}\n";
    fs::write(&service, yaml).unwrap();
    let asked = run(&["-f", text(&service), "--allow-private"]);
    assert_eq!((asked.code, weights(&asked)), (Some(0), weights(&here)), "{asked:?}");

    let refused = run(&["hf://acme/tiny/tiny.gguf"]);
    assert!(refused.code == Some(2) && refused.err.contains("allow-private"), "{refused:?}");
}
