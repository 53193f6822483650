//! Headers are all that is read.

use wharf_kernels::DType;
use wharf_plan::{Group, HeaderError, read};
use wharf_testkit::TinyModel;

use crate::files::Files;
use crate::models::of_config;

/// A safetensors file: its header and as many zeros as the tensors have.
fn safetensors(tensors: &[(&str, &str, &[u64], u64)]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let start = at;
            at += bytes;
            format!(
                r#""{name}": {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": [{start}, {at}]}}"#
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + at as usize, 0);
    file
}

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": true}"#;

#[test]
fn a_gguf_file_is_read_up_to_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    // Two thousand tokens of 4 kB each: much more than what is read first.
    let model = TinyModel { hidden_size: 1024, vocab_size: 2000, dtype: DType::Q8_0, ..TinyModel::default() };
    model.write(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let tensors = wharf_model::gguf::parse(&bytes).unwrap().tensors;
    let files = Files::of(&[("m.gguf", &bytes)]);
    let header = read(&files, "m").unwrap();
    let tensor_bytes: usize = tensors.iter().map(|tensor| tensor.len).sum();
    let stored: u64 = header.shape.stored.values().flatten().map(|share| share.bytes).sum();
    assert_eq!(stored, tensor_bytes as u64);
    let elements: u64 = header.shape.stored.values().flatten().map(|share| share.elements).sum();
    assert_eq!(elements, header.shape.parameters());
    assert!(files.read_to("m.gguf") <= 1 << 20, "{}", files.read_to("m.gguf"));
    assert!(header.bytes_read < bytes.len() as u64);
}

#[test]
fn shards_are_read_up_to_their_tensors() {
    let layer = "model.layers.0";
    let q = format!("{layer}.self_attn.q_proj");
    let (packed, scale) = (format!("{q}.weight_packed"), format!("{q}.weight_scale"));
    let first = safetensors(&[
        ("model.embed_tokens.weight", "BF16", &[1000, 64], 128_000),
        (&packed, "I32", &[64, 8], 2048),
        (&scale, "BF16", &[64, 1], 128),
    ]);
    let k = format!("{layer}.self_attn.k_proj.weight");
    let second = safetensors(&[(&k, "F8_E4M3", &[32, 64], 2048), ("model.norm.weight", "BF16", &[64], 128)]);
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files = Files::of(&[
        ("config.json", CONFIG.as_bytes()),
        ("model-1.safetensors", &first),
        ("model-2.safetensors", &second),
        ("other.safetensors", b"never read"),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    let header = read(&files, "m").unwrap();
    let layers = &header.shape.stored[&Group::Layers];
    let found: Vec<_> =
        layers.iter().map(|share| (share.dtype.as_str(), share.elements, share.bytes)).collect();
    assert_eq!(found, [("I4", 4096, 2048), ("scales", 0, 128), ("F8_E4M3", 2048, 2048)]);
    assert_eq!(files.read_to("model-1.safetensors"), first.len() as u64 - 128_000 - 2048 - 128);
    assert_eq!(files.read_to("other.safetensors"), 0);
    assert_eq!(header.weights.len(), 2);
}

#[test]
fn a_configuration_alone_says_what_the_weights_will_be() {
    let header = of_config(CONFIG);
    assert!(header.weights.is_empty());
    assert_eq!(header.shape.stored[&Group::Embedding][0].dtype, "BF16");
    let quantized =
        CONFIG.replace("\"hidden_size\"", r#""quantization_config": {"quant_method": "fp8"}, "hidden_size""#);
    assert_eq!(of_config(&quantized).shape.stored[&Group::Layers][0].dtype, "F8_E4M3");
}

#[test]
fn a_mixture_of_experts_is_counted_though_it_is_not_served() {
    // Mixtral 8x7B: 46.7 billion parameters, 12.9 of them for a token ("Mixtral of Experts", 2024).
    let header = of_config(
        r#"{"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 32768}"#,
    );
    assert!(!header.shape.served);
    assert_eq!(header.shape.parameters() / 100_000_000, 467);
    assert!((12.5e9..13e9).contains(&(header.shape.active_parameters() as f64)));
    assert!(header.shape.touched_share(1) < 0.26 && header.shape.touched_share(64) > 0.99);
}

#[test]
fn what_is_no_header_is_refused() {
    let error = |files: &[(&str, &[u8])]| read(&Files::of(files), "m").unwrap_err();
    assert!(matches!(error(&[("readme.md", b"a"), ("b", b"b")]), HeaderError::NoModel(_)));
    assert!(matches!(error(&[("m.gguf", b"GGUF\x03\0\0\0")]), HeaderError::Gguf { .. }));
    assert!(matches!(error(&[("m", b"PK\x03\x04")]), HeaderError::Gguf { .. }));
    let config: (&str, &[u8]) = ("config.json", CONFIG.as_bytes());
    let long = error(&[config, ("model.safetensors", &[0xff; 16])]);
    assert!(matches!(long, HeaderError::Safetensors { .. }), "{long}");
    let beyond = safetensors(&[("a", "BF16", &[4], 8)]);
    let cut = error(&[config, ("model.safetensors", &beyond[..beyond.len() - 1])]);
    assert!(cut.to_string().contains("within the file"), "{cut}");
    let huge = r#"{"architectures": ["X"], "num_hidden_layers": 4000000000, "hidden_size": 4000000000, "num_attention_heads": 1,
        "vocab_size": 4000000000}"#;
    assert!(matches!(error(&[("config.json", huge.as_bytes())]), HeaderError::Implausible));
    let small = error(&[("config.json", br#"{"architectures": ["X"], "hidden_size": 64}"#)]);
    assert!(small.to_string().contains("num_attention_heads"), "{small}");
}
