//! Checkpoints that lie, are cut short, or are of another kind: each gets an error that names what and where.

use std::error::Error;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use wharf_model::{Model, Role};
use wharf_testkit::TinyModel;
use wharf_testkit::gguf::{Builder, Value};

/// The error of opening `path` with its sources, as the command line prints it.
fn refusal(path: &Path) -> String {
    let error = Model::open(path).err().unwrap_or_else(|| panic!("{} opened", path.display()));
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn check(what: &str, path: &Path, expected: &[&str]) {
    let text = refusal(path);
    for part in expected {
        assert!(text.contains(part), "{what}: expected {part:?} in {text:?}");
    }
}

fn set(file: &mut Builder, key: &str, value: Value) {
    match file.metadata.iter_mut().find(|(other, _)| other == key) {
        Some(entry) => entry.1 = value,
        None => file.metadata.push((key.to_owned(), value)),
    }
}

fn remove_tensor(file: &mut Builder, name: &str) {
    file.tensors.retain(|tensor| tensor.name != name);
}

#[test]
fn a_gguf_that_contradicts_itself_is_refused() {
    type Change = fn(&mut Builder);
    let cases: [(&str, Change, &[&str]); 17] = [
        (
            "unknown architecture",
            |f| set(f, "general.architecture", Value::Str("mamba".into())),
            &["\"mamba\"", "not supported", "LlamaForCausalLM", "Gemma3ForCausalLM"],
        ),
        (
            "no architecture",
            |f| f.metadata.retain(|(k, _)| k != "general.architecture"),
            &["general.architecture"],
        ),
        (
            "architecture of a wrong type",
            |f| set(f, "general.architecture", Value::U32(1)),
            &["general.architecture"],
        ),
        (
            "no layers",
            |f| set(f, "llama.block_count", Value::U32(0)),
            &["number of layers is 0", "between 1"],
        ),
        (
            "4 billion layers",
            |f| set(f, "llama.block_count", Value::U32(u32::MAX)),
            &["number of layers", "4294967295"],
        ),
        (
            "more layers than tensors",
            |f| set(f, "llama.block_count", Value::U32(3)),
            &["blk.2.attn_norm.weight", "missing"],
        ),
        (
            "fewer layers than tensors",
            |f| set(f, "llama.block_count", Value::U32(1)),
            &["blk.1.", "no place"],
        ),
        (
            "no heads",
            |f| set(f, "llama.attention.head_count", Value::U32(0)),
            &["embedding_length", "0 attention heads"],
        ),
        (
            "3 key-value heads of 4",
            |f| set(f, "llama.attention.head_count_kv", Value::U32(3)),
            &["key-value heads", "divisor"],
        ),
        (
            "odd heads",
            |f| set(f, "llama.attention.key_length", Value::U32(7)),
            &["head dimension is 7", "even"],
        ),
        (
            "another hidden size",
            |f| set(f, "llama.embedding_length", Value::U32(128)),
            &["token_embd.weight", "[288, 64]", "[288, 128]"],
        ),
        (
            "a negative size",
            |f| set(f, "llama.feed_forward_length", Value::I32(-1)),
            &["feed_forward_length", "-1"],
        ),
        (
            "a size that is text",
            |f| set(f, "llama.context_length", "long".into()),
            &["context_length", "\"long\""],
        ),
        (
            "an infinite base",
            |f| set(f, "llama.rope.freq_base", Value::F32(f32::INFINITY)),
            &["rope.freq_base", "inf"],
        ),
        (
            "an unknown scaling",
            |f| set(f, "llama.rope.scaling.type", "dynamic".into()),
            &["rope.scaling.type", "\"dynamic\"", "linear"],
        ),
        (
            "a missing tensor",
            |f| remove_tensor(f, "blk.1.ffn_up.weight"),
            &["blk.1.ffn_up.weight", "up projection"],
        ),
        (
            "a bias in one layer only",
            |f| {
                f.tensor("blk.0.attn_q.bias", 1, 64, 0, vec![0; 256]);
            },
            &["blk.1.attn_q.bias", "missing"],
        ),
    ];
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    for (what, change, expected) in cases {
        let mut file = TinyModel::default().build();
        change(&mut file);
        fs::write(&path, file.bytes()).unwrap();
        check(what, &path, expected);
    }
}

#[test]
fn mixtures_of_experts_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut file = TinyModel::default().build();
    set(&mut file, "llama.expert_count", Value::U32(8));
    fs::write(&path, file.bytes()).unwrap();
    check("experts", &path, &["llama.expert_count", "mixture of experts", "dense"]);
}

/// Every key of `object`, nested ones as a path.
fn keys_of(object: &serde_json::Map<String, serde_json::Value>) -> Vec<Vec<String>> {
    let nested = |(key, value): (&String, &serde_json::Value)| match value.as_object() {
        Some(inner) => {
            let inner = keys_of(inner).into_iter().map(|rest| [vec![key.clone()], rest].concat());
            inner.chain([vec![key.clone()]]).collect::<Vec<_>>()
        }
        None => vec![vec![key.clone()]],
    };
    object.iter().flat_map(nested).collect()
}

/// Whatever a number in config.json is, opening gives a model or an error, and numbers to compute with.
#[test]
fn no_value_of_any_config_key_panics() {
    let values = [
        "null",
        "true",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "1e-320",
        "1e308",
        "-1e308",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
        "\"x\"",
        "[]",
        "[0]",
        "{}",
        "{\"rope_type\": 3}",
    ];
    for name in ["llama-llama3", "llama-yarn", "gemma3", "phi3-longrope-short", "qwen2-window"] {
        let folder = copy_of(name);
        let path = folder.path().join("config.json");
        let original: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for keys in keys_of(original.as_object().unwrap()) {
            for value in values {
                let mut config = original.clone();
                let place = keys.iter().fold(&mut config, |at, key| &mut at[key]);
                *place = serde_json::from_str(value).unwrap();
                fs::write(&path, config.to_string()).unwrap();
                let Ok(model) = Model::open(folder.path()) else { continue };
                let config = model.config;
                let numbers =
                    [config.norm_eps, config.attn_scale, config.embedding_scale, config.logit_scale];
                let caps = [config.attn_softcap, config.logit_softcap].into_iter().flatten();
                let amplitudes = config.ropes.iter().map(|rope| rope.amplitude);
                for x in numbers.into_iter().chain(caps).chain(amplitudes) {
                    assert!(x.is_finite(), "{name} with {keys:?} {value}: {x}");
                }
                let mut frequencies = config.ropes.iter().flat_map(|rope| &rope.inv_freq);
                assert!(frequencies.all(|f| f.is_finite()), "{name} with {keys:?} {value}");
                assert!(config.context_length > 0, "{name} with {keys:?} {value}");
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn damaged_gguf_models_never_panic(
        flips in proptest::collection::vec((0usize..2048, proptest::num::u8::ANY), 1..4)
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.gguf");
        let mut bytes = TinyModel { n_layers: 1, ..TinyModel::default() }.build().bytes();
        for (at, value) in flips {
            bytes[at] = value;
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(model) = Model::open(&path) {
            for tensor in model.weights.tensors() {
                proptest::prop_assert!(tensor.len > 0);
            }
        }
    }
}

#[test]
fn every_truncation_of_a_gguf_is_refused() {
    let whole = TinyModel { n_layers: 1, ..TinyModel::default() }.build().bytes();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let cuts = (0..64).chain((64..whole.len()).step_by(997)).chain([whole.len() - 1]);
    for cut in cuts {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(Model::open(&path).is_err(), "opened when cut to {cut} bytes");
    }
}

#[test]
fn pickle_checkpoints_are_refused_with_the_conversion_to_run() {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in [
        ("pytorch_model.bin", &b"PK\x03\x04rest"[..]),
        ("model.pth", b"\x80\x02}q"),
        ("old.ckpt", b"anything"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        check(name, &path, &[name, "pickle", "save_pretrained"]);
        check("its folder", folder.path(), &[name, "pickle", "save_pretrained"]);
        fs::remove_file(&path).unwrap();
    }
    // The name says nothing; the first bytes do.
    let path = folder.path().join("0f3a");
    fs::write(&path, b"PK\x03\x04rest").unwrap();
    check("an archive without a name", &path, &["pickle"]);
}

#[test]
fn folders_without_a_model_say_what_was_expected() {
    let folder = TempDir::new().unwrap();
    check("empty", folder.path(), &["holds no model", "config.json", ".gguf"]);
    check("absent", &folder.path().join("nowhere"), &["failed to read", "nowhere"]);
    fs::write(folder.path().join("model.safetensors"), b"").unwrap();
    check("no config", folder.path(), &["no config.json"]);
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    for name in ["a.gguf", "b.gguf"] {
        TinyModel::default().write(&folder.path().join(name)).unwrap();
    }
    check("two models", folder.path(), &["several GGUF files", "a.gguf, b.gguf"]);
    fs::remove_file(folder.path().join("b.gguf")).unwrap();
    assert!(Model::open(folder.path()).is_ok());
}

/// A copy of fixture `name` to change.
fn copy_of(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(wharf_testkit::fixtures::models().join(name)).unwrap() {
        let from = entry.unwrap().path();
        if from.extension().is_none_or(|e| e != "gguf") {
            fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// Sets `key` in the config.json of a folder; the value is JSON.
fn configure(folder: &TempDir, key: &str, value: &str) {
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = serde_json::from_str(value).unwrap();
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_config_that_contradicts_the_weights_is_refused() {
    let cases: [(&str, &str, &str, &[&str]); 16] = [
        (
            "llama-bias",
            "architectures",
            r#"["MambaForCausalLM"]"#,
            &["MambaForCausalLM", "supported", "Qwen3ForCausalLM"],
        ),
        ("llama-bias", "num_hidden_layers", "1000000000", &["number of layers", "1000000000"]),
        ("llama-bias", "num_hidden_layers", "3", &["model.layers.2.", "missing"]),
        ("llama-bias", "num_hidden_layers", "-2", &["num_hidden_layers", "-2"]),
        ("llama-bias", "hidden_size", "64", &["model.embed_tokens.weight", "[128, 32]", "[128, 64]"]),
        ("llama-bias", "hidden_size", "18446744073709551615", &["hidden size"]),
        ("llama-bias", "mlp_bias", "true", &["mlp_bias"]),
        ("llama-bias", "hidden_act", "\"relu\"", &["relu", "silu"]),
        ("llama-bias", "rope_parameters", r#"{"rope_type": "dynamic", "factor": 2}"#, &["dynamic", "yarn"]),
        ("llama-bias", "rope_parameters", r#"{"rope_type": "linear", "factor": 0}"#, &["factor", "positive"]),
        ("llama-bias", "rope_parameters", "[]", &["rope_parameters", "an object"]),
        ("llama-bias", "quantization_config", r#"{"quant_method": "gptq"}"#, &["gptq", "compressed-tensors"]),
        (
            "phi3-longrope-short",
            "rope_parameters",
            r#"{"rope_type": "longrope", "short_factor": [1]}"#,
            &["short_factor", "4"],
        ),
        ("gemma2", "layer_types", r#"["full_attention"]"#, &["layer_types", "4 layers"]),
        ("gemma2", "use_bidirectional_attention", "true", &["use_bidirectional_attention"]),
        ("mistral", "sliding_window", "0", &["sliding_window", "at least 1"]),
    ];
    for (name, key, value, expected) in cases {
        let folder = copy_of(name);
        configure(&folder, key, value);
        check(&format!("{name} with {key} {value}"), folder.path(), expected);
    }
}

#[test]
fn damaged_files_of_a_folder_are_named() {
    let folder = copy_of("llama-linear-f16-sharded");
    let file = |name: &str| folder.path().join(name);
    let index = fs::read(file("model.safetensors.index.json")).unwrap();
    let text = String::from_utf8(index.clone()).unwrap();

    let escaping = text.replace("model-00001-of-00003.safetensors", "../../etc/passwd");
    fs::write(file("model.safetensors.index.json"), escaping).unwrap();
    check("an index that points elsewhere", folder.path(), &["index", "../../etc/passwd"]);

    let swapped = text.replacen("model-00001-of", "model-00002-of", 1);
    fs::write(file("model.safetensors.index.json"), swapped).unwrap();
    check("an index that lies", folder.path(), &["index.json", "but it is not"]);
    fs::write(file("model.safetensors.index.json"), index).unwrap();

    let shard = fs::read(file("model-00002-of-00003.safetensors")).unwrap();
    fs::write(file("model-00002-of-00003.safetensors"), &shard[..shard.len() - 1]).unwrap();
    check("a cut shard", folder.path(), &["model-00002-of-00003.safetensors", "download it again"]);
    fs::remove_file(file("model-00002-of-00003.safetensors")).unwrap();
    check("a lost shard", folder.path(), &["failed to read", "model-00002-of-00003.safetensors"]);

    let folder = copy_of("qwen3");
    fs::write(folder.path().join("config.json"), "{\"architectures\": [").unwrap();
    check("half a config", folder.path(), &["config.json", "EOF"]);
    let folder = copy_of("qwen3");
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": -2}"#).unwrap();
    check("a bad token id", folder.path(), &["generation_config.json", "eos_token_id", "-2"]);
}

#[test]
fn a_split_model_is_read_from_any_of_its_parts() {
    let folder = TempDir::new().unwrap();
    let part = |n: usize| folder.path().join(format!("tiny-{n:05}-of-00002.gguf"));
    let whole = TinyModel::default().build();
    let mut first = whole.clone();
    let rest = first.tensors.split_off(7);
    let n_tensors = whole.tensors.len() as i32;
    let mut second = Builder { tensors: rest, ..Builder::default() };
    for (no, file) in [&mut first, &mut second].into_iter().enumerate() {
        set(file, "split.no", Value::U16(no as u16));
        set(file, "split.count", Value::U16(2));
        set(file, "split.tensors.count", Value::I32(n_tensors));
        fs::write(part(no + 1), file.bytes()).unwrap();
    }
    let single = folder.path().join("whole");
    fs::write(&single, whole.bytes()).unwrap();
    let expected = Model::open(&single).unwrap();
    fs::remove_file(&single).unwrap();
    for path in [part(1), part(2), folder.path().to_owned()] {
        let model = Model::open(&path).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        assert_eq!(model.config, expected.config);
        let down = |model: &Model| model.weights.matrix(Some(1), Role::Down).unwrap().data.to_vec();
        assert_eq!(down(&model), down(&expected));
        assert_eq!(model.info.files, [part(1), part(2)]);
    }

    set(&mut second, "split.no", Value::U16(0));
    fs::write(part(2), second.bytes()).unwrap();
    check("a part with another's number", &part(1), &["tiny-00002-of-00002.gguf", "split.no must be 1"]);
    fs::remove_file(part(2)).unwrap();
    check("a lost part", &part(1), &["failed to read", "tiny-00002-of-00002.gguf"]);
    let renamed = folder.path().join("renamed.gguf");
    fs::rename(part(1), &renamed).unwrap();
    check("a renamed part", &renamed, &["renamed.gguf", "-00001-of-0000N.gguf"]);
}
