//! What a replica needs, from the headers of its model: the formulas and the words of `wharf plan`, for what its service asks.

use std::path::Path;
use std::sync::Arc;

use wharf_local::{Explanation, Needs, Planner, Room};
use wharf_plan::advice::{Advice, Place};
use wharf_plan::cpu::{Machine, on_cpu};
use wharf_plan::fit::SPARE;
use wharf_plan::footprint::{KvType, Load, on_gpu};
use wharf_plan::inventory::Stock;
use wharf_plan::split::Split;
use wharf_plan::{Product, Shape, Shortage, Wanted};
use wharf_spec::LLMService;
use wharf_spec::engine::abilities;
use wharf_spec::service::{Engine, KvCacheType};

use crate::plan;

/// Context and streams that are counted where the object does not say.
const CONTEXT: u64 = 4096;
const STREAMS: u64 = 1;
const BATCH_TOKENS: u64 = 512;

/// Forecasts from headers.
pub(super) struct FromHeaders;

impl Planner for FromHeaders {
    fn needs(&self, object: &LLMService, model: &Path) -> Option<Needs> {
        let header = plan::local_header(model)
            .inspect_err(|error| {
                tracing::info!(error = format!("{error:#}"), "no forecast of the model's memory")
            })
            .ok()?;
        Some(needs(header.shape, object))
    }
}

fn needs(shape: Shape, object: &LLMService) -> Needs {
    let spec = &object.spec;
    let server = &spec.server;
    let load = Load {
        context: server.max_model_len.map_or(shape.context_length.min(CONTEXT), u64::from),
        streams: STREAMS,
        batch_tokens: server.max_num_batched_tokens.map_or(BATCH_TOKENS, u64::from),
        kv_cache: server.kv_cache.kind.map_or(KvType::F16, kv_type),
    };
    // The file is what is served: whatever was to be done to it has been done.
    let wanted = Wanted { scheme: None, load };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let split = Split { tensor: spec.parallelism.tensor.into(), pipeline: spec.parallelism.pipeline.into() };
    let engine = spec.runtime.engine;
    let memory = on_cpu(&shape, &shape.stored, &load, threads).peak;
    let on_gpu = on_gpu(&shape, &shape.stored, &load, split).peak;
    let gpu_memory = match engine {
        Engine::Wharf | Engine::Vllm | Engine::Sglang | Engine::LlamaCpp => {
            (on_gpu as f64 / (1.0 - SPARE)).ceil() as u64
        }
        // How it spreads a model over its GPUs is its own affair.
        Engine::Custom => 0,
    };
    let explain = Arc::new(move |room: &Room| explain(&shape, &wanted, room, engine, (threads, split)));
    Needs { memory, gpu_memory, explain }
}

fn explain(
    shape: &Shape,
    wanted: &Wanted,
    room: &Room,
    engine: Engine,
    (threads, split): (u64, Split),
) -> Explanation {
    let (shortage, spare) = match room {
        Room::Memory(bytes) => {
            let machine = Machine { memory: *bytes, threads, rates: None, measured: false };
            (Shortage::of(shape, wanted, Place::Machine(&machine)), "")
        }
        Room::Gpu(gpu) => {
            let product = Product { name: gpu.product.clone(), memory: gpu.memory.unwrap_or(0), speed: None };
            let stock = Stock { product, per_node: split.gpus(), nodes: 1 };
            (Shortage::of(shape, wanted, Place::Fixed(&stock, split)), ", and 5% to spare,")
        }
    };
    let on_gpu = matches!(room, Room::Gpu(_));
    let changes = shortage.advice.iter().filter(|advice| can(engine, on_gpu, advice));
    Explanation {
        needs: format!("{}{spare}", shortage.needs),
        changes: changes.map(|Advice { change, fields, flags: _ }| format!("{change} ({fields})")).collect(),
    }
}

/// Whether an engine stores keys and values as is advised, if anything is.
fn can(engine: Engine, on_gpu: bool, advice: &Advice) -> bool {
    let Some(kind) = advice.fields.strip_prefix("server.kvCache.type: ") else { return true };
    let kinds = &abilities(engine).kv_cache;
    // On GPUs Wharf's own engine stores them in half precision alone.
    !(on_gpu && engine == Engine::Wharf) && kinds.iter().any(|theirs| kv_type(*theirs).name() == kind)
}

fn kv_type(kind: KvCacheType) -> KvType {
    match kind {
        KvCacheType::F16 => KvType::F16,
        KvCacheType::Int8 => KvType::Int8,
        KvCacheType::Fp8 => KvType::Fp8,
    }
}

#[cfg(test)]
mod tests {
    use wharf_local::Gpu;
    use wharf_spec::{Document, Object, check};

    use super::*;

    /// Of the shape of Llama 3.1 8B, whose weights take 16.1 GB.
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16"}"#;

    fn forecast(spec: &str) -> Needs {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
        let text = format!(
            "{{apiVersion: wharf.dev/v1alpha1, kind: LLMService, metadata: {{name: a}}, spec: {{model: {{source: 'hf://o/r'}}, {spec}}}}}"
        );
        let Some(Object::Service(object)) = check(&Document::read("llm.yaml", &text).unwrap()[0]).0 else {
            panic!("not a service: {text}")
        };
        FromHeaders.needs(&object, folder.path()).unwrap()
    }

    fn gpu(memory: u64) -> Room {
        let gpu = Gpu { id: "0".into(), product: "NVIDIA T4".into(), memory: Some(memory) };
        Room::Gpu(gpu)
    }

    #[test]
    fn too_little_memory_is_explained_with_the_terms_and_the_changes_of_a_plan() {
        let needs = forecast("server: {maxModelLen: 8192}");
        assert!((17_000_000_000..18_000_000_000).contains(&needs.memory), "{}", needs.memory);
        let Explanation { needs, changes } = (needs.explain)(&Room::Memory(10_000_000_000));
        for term in [
            "weights 16.1 GB",
            "KV cache 1.07 GB for 1 stream of 8,192 tokens",
            "for program, tokenizer, threads",
        ] {
            assert!(needs.contains(term), "{term} is not in {needs}");
        }
        let [only] = &changes[..] else { panic!("{changes:?}") };
        assert!(only.starts_with("quantise to q8_0: 8.") && only.contains("instead of 16.1 GB"), "{only}");
        assert!(only.ends_with("(model.optimize.quantize: q8_0)"), "{only}");
    }

    #[test]
    fn a_context_that_fits_is_named_with_its_field() {
        let needs = forecast("server: {maxModelLen: 65536}");
        let changes = (needs.explain)(&Room::Memory(19_000_000_000)).changes;
        let context = changes.iter().find(|change| change.starts_with("a shorter context: 1 stream of "));
        assert!(context.is_some_and(|change| change.contains("(server.maxModelLen: ")), "{changes:?}");
    }

    #[test]
    fn a_gpu_that_is_too_small_is_explained_with_what_gpus_take() {
        let needs = forecast("resources: {gpu: {count: 1}}");
        assert!(needs.gpu_memory > 18_000_000_000, "{}", needs.gpu_memory);
        let Explanation { needs, changes } = (needs.explain)(&gpu(16 << 30));
        assert!(needs.contains("CUDA context") && needs.ends_with(", and 5% to spare,"), "{needs}");
        assert!(changes[0].contains("(model.optimize.quantize: q8_0)"), "{changes:?}");
        // Two GPUs hold half of it each; of an engine of the user's nothing is known.
        let two = forecast("resources: {gpu: {count: 2}}, parallelism: {tensor: 2}, runtime: {engine: vllm}");
        assert!((9_000_000_000..11_000_000_000).contains(&two.gpu_memory), "{}", two.gpu_memory);
        let custom = "resources: {gpu: {count: 2}}, runtime: {engine: custom, image: a, ports: {http: 1}}";
        assert_eq!(forecast(custom).gpu_memory, 0);
    }

    #[test]
    fn keys_and_values_are_only_advised_as_the_engine_stores_them() {
        let advised = |spec: &str, room: &Room| {
            let changes = (forecast(spec).explain)(room).changes;
            let kinds = changes.iter().filter_map(|change| change.split_once("server.kvCache.type: "));
            kinds.map(|(_, kind)| kind.trim_end_matches(')').to_owned()).collect::<Vec<_>>()
        };
        let long = "server: {maxModelLen: 65536}";
        let memory = Room::Memory(22_000_000_000);
        assert_eq!(advised(long, &memory), ["int8"]);
        let on_gpu = format!("{long}, resources: {{gpu: {{count: 1}}}}");
        assert_eq!(advised(&on_gpu, &gpu(25_000_000_000)), [""; 0]);
    }
}
