//! Which fields of a service each engine can honour.
//!
//! A field that the chosen engine cannot honour is refused, and the complaint names the engines that can. One row each.

use crate::service::{Engine, KvCacheType};

/// What an engine can be told to do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// The engine.
    pub engine: Engine,
    /// Runs on CPUs too.
    pub cpu: bool,
    /// Reads GGUF files.
    pub gguf: bool,
    /// Reads folders of safetensors.
    pub safetensors: bool,
    /// Divides layers among ranks.
    pub tensor: bool,
    /// Divides a model into stages.
    pub pipeline: bool,
    /// Both at the same time.
    pub tensor_and_pipeline: bool,
    /// Spreads a replica over nodes.
    pub nodes: bool,
    /// Serves low-rank adapters.
    pub adapters: bool,
    /// Serves HTTPS itself.
    pub tls: bool,
    /// Takes defaults for requests.
    pub request_defaults: bool,
    /// Takes penalties among them.
    pub penalties: bool,
    /// Divides a model among GPUs.
    pub several_gpus: bool,
    /// How it can store keys and values.
    pub kv_cache: &'static [KvCacheType],
    /// How it can on a GPU.
    pub kv_cache_on_gpus: &'static [KvCacheType],
    /// Arguments that Wharf gives, and a user must not.
    pub reserved_args: &'static [&'static str],
}

/// What every engine can do.
pub const ABILITIES: &[Abilities] = &[
    Abilities {
        engine: Engine::Wharf,
        cpu: true,
        gguf: true,
        safetensors: true,
        tensor: true,
        pipeline: true,
        tensor_and_pipeline: false,
        nodes: true,
        adapters: false,
        tls: true,
        request_defaults: true,
        penalties: true,
        several_gpus: false,
        kv_cache: &[KvCacheType::F16, KvCacheType::Int8],
        kv_cache_on_gpus: &[KvCacheType::F16],
        reserved_args: &["--model", "--config", "--port", "--host", "--metrics-port", "--tensor-parallel"],
    },
    Abilities {
        engine: Engine::Vllm,
        cpu: false,
        gguf: false,
        safetensors: true,
        tensor: true,
        pipeline: true,
        tensor_and_pipeline: true,
        nodes: true,
        adapters: true,
        tls: false,
        request_defaults: true,
        penalties: false,
        several_gpus: true,
        kv_cache: &[KvCacheType::F16, KvCacheType::Fp8],
        kv_cache_on_gpus: &[KvCacheType::F16, KvCacheType::Fp8],
        reserved_args: &["--model", "--port", "--host", "--served-model-name", "--tensor-parallel-size"],
    },
    Abilities {
        engine: Engine::Sglang,
        cpu: false,
        gguf: false,
        safetensors: true,
        tensor: true,
        pipeline: true,
        tensor_and_pipeline: true,
        nodes: true,
        adapters: true,
        tls: false,
        request_defaults: false,
        penalties: false,
        several_gpus: true,
        kv_cache: &[KvCacheType::F16, KvCacheType::Fp8],
        kv_cache_on_gpus: &[KvCacheType::F16, KvCacheType::Fp8],
        reserved_args: &["--model-path", "--port", "--host", "--served-model-name", "--tp-size"],
    },
    Abilities {
        engine: Engine::LlamaCpp,
        cpu: true,
        gguf: true,
        safetensors: false,
        tensor: true,
        pipeline: false,
        tensor_and_pipeline: false,
        nodes: false,
        adapters: false,
        tls: false,
        request_defaults: true,
        penalties: true,
        several_gpus: true,
        kv_cache: &[KvCacheType::F16, KvCacheType::Int8],
        kv_cache_on_gpus: &[KvCacheType::F16, KvCacheType::Int8],
        reserved_args: &["--model", "-m", "--port", "--host", "--alias"],
    },
    Abilities {
        engine: Engine::Custom,
        cpu: true,
        gguf: true,
        safetensors: true,
        tensor: true,
        pipeline: true,
        tensor_and_pipeline: true,
        nodes: false,
        adapters: false,
        tls: false,
        request_defaults: false,
        penalties: false,
        several_gpus: true,
        kv_cache: &[],
        kv_cache_on_gpus: &[],
        reserved_args: &[],
    },
];

/// What an engine can do.
pub fn abilities(engine: Engine) -> &'static Abilities {
    ABILITIES.iter().find(|row| row.engine == engine).expect("every engine has a row; a test says so")
}

/// Names of the engines for which `can` holds, as in `wharf, vllm`.
pub fn engines_that(can: impl Fn(&Abilities) -> bool) -> String {
    let names: Vec<&str> = ABILITIES.iter().filter(|row| can(row)).map(|row| row.engine.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::ENGINES;

    #[test]
    fn every_engine_has_one_row() {
        let rows: Vec<Engine> = ABILITIES.iter().map(|row| row.engine).collect();
        assert_eq!(rows, ENGINES);
    }
}
