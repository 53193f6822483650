//! vLLM (docs.vllm.ai, "Engine Arguments", "Parallelism and Scaling").

use serde_json::{Map, Value};
use wharf_spec::service::KvCacheType;

use super::{Args, Launch, torch_env, variable};
use crate::artifacts::Store;
use crate::facts::Facts;
use crate::names;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let (spec, server, places) = (facts.spec, &facts.spec.server, &facts.places);
    let store = Store(places);
    let parallelism = &spec.parallelism;
    let kv_cache = server.kv_cache.kind.and_then(|kind| match kind {
        KvCacheType::F16 => None,
        KvCacheType::Fp8 | KvCacheType::Int8 => Some("fp8"),
    });
    let mut args = Args::default()
        .flag(&facts.artifact.path)
        .with("--served-model-name", facts.served_name())
        .with("--host", &places.host)
        .with("--port", places.http)
        .maybe("--max-model-len", server.max_model_len)
        .maybe("--max-num-seqs", server.max_num_seqs)
        .maybe("--max-num-batched-tokens", server.max_num_batched_tokens)
        .maybe("--kv-cache-dtype", kv_cache)
        .maybe("--kv-cache-memory-bytes", server.kv_cache.size.as_ref().map(|size| size.units()))
        .maybe("--override-generation-config", defaults(facts))
        .several("--tensor-parallel-size", parallelism.tensor)
        .several("--pipeline-parallel-size", parallelism.pipeline);
    if !spec.model.adapters.is_empty() {
        args = args.flag("--enable-lora").flag("--lora-modules");
        for adapter in &spec.model.adapters {
            args = args.flag(&format!("{}={}", adapter.name, store.fetched(&adapter.source, None)));
        }
    }
    if facts.is_group() {
        args = args
            .with("--nnodes", parallelism.nodes)
            .with("--node-rank", "$(LWS_WORKER_INDEX)")
            .with("--master-addr", "$(LWS_LEADER_ADDRESS)")
            .with("--master-port", names::RANKS);
    }
    let worker_args = [args.0.clone(), vec!["--headless".to_owned()]].concat();
    let mut env = torch_env(&places.cache);
    env.push(variable("VLLM_CACHE_ROOT", format!("{}/vllm", places.cache)));
    env.push(variable("VLLM_NO_USAGE_STATS", 1));
    env.push(variable("VLLM_LOGGING_LEVEL", spec.observability.logs.level.name().to_uppercase()));
    Launch {
        command: ["vllm", "serve"].map(str::to_owned).to_vec(),
        args: args.0,
        worker_args,
        env,
        http: places.http,
        metrics: (places.http, "/metrics".to_owned()),
        liveness: "/health".to_owned(),
        readiness: "/health".to_owned(),
        api_key: Some("VLLM_API_KEY"),
        config: None,
    }
}

/// Defaults of requests, as JSON.
fn defaults(facts: &Facts<'_>) -> Option<Value> {
    let defaults = &facts.spec.server.defaults;
    let fields = [
        ("max_new_tokens", defaults.max_tokens.map(Value::from)),
        ("temperature", defaults.temperature.map(Value::from)),
        ("top_p", defaults.top_p.map(Value::from)),
    ];
    let given: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!given.is_empty()).then_some(Value::Object(given))
}
