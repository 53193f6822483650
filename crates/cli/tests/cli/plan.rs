//! Planning as a user meets it: exit codes, JSON, what is read of a model.

use std::fs;
use std::path::Path;

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
