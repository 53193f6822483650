//! Models of published shapes, and what is asked of them.

use wharf_plan::footprint::{KvType, Load};
use wharf_plan::{Header, Wanted, read};

use crate::files::Files;

/// Hyper-parameters of Llama 3.1 as its model card and "The Llama 3 Herd of Models" (table 3) give them.
pub(crate) fn llama_8b() -> Header {
    llama(32, 4096, 14336, 32)
}

pub(crate) fn llama_70b() -> Header {
    llama(80, 8192, 28672, 64)
}

fn llama(layers: u64, hidden: u64, ffn: u64, heads: u64) -> Header {
    of_config(&format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": {layers}, "hidden_size": {hidden},
        "intermediate_size": {ffn}, "num_attention_heads": {heads}, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16"}}"#
    ))
}

pub(crate) fn of_config(json: &str) -> Header {
    read(&Files::of(&[("config.json", json.as_bytes())]), "model").unwrap()
}

pub(crate) fn wanted(scheme: &str, context: u64, streams: u64) -> Wanted {
    let load = Load { context, streams, batch_tokens: 2048, kv_cache: KvType::F16 };
    Wanted { scheme: Some(scheme.parse().unwrap()), load }
}
