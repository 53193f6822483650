//! SGLang (docs.sglang.ai, "Server Arguments", "Multi-Node Deployment").

use wharf_spec::service::KvCacheType;

use super::{Args, Launch, torch_env};
use crate::artifacts::Store;
use crate::facts::Facts;
use crate::names;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let (spec, server, places) = (facts.spec, &facts.spec.server, &facts.places);
    let store = Store(places);
    let parallelism = &spec.parallelism;
    let kv_cache = server.kv_cache.kind.and_then(|kind| match kind {
        KvCacheType::F16 => None,
        KvCacheType::Fp8 | KvCacheType::Int8 => Some("fp8_e4m3"),
    });
    let mut args = Args::default()
        .with("--model-path", &facts.artifact.path)
        .with("--served-model-name", facts.served_name())
        .with("--host", &places.host)
        .with("--port", places.http)
        .flag("--enable-metrics")
        .with("--log-level", log_level(spec.observability.logs.level.name()))
        .maybe("--context-length", server.max_model_len)
        .maybe("--max-running-requests", server.max_num_seqs)
        .maybe("--chunked-prefill-size", server.max_num_batched_tokens)
        .maybe("--max-queued-requests", server.max_waiting)
        .maybe("--kv-cache-dtype", kv_cache)
        .several("--tp-size", parallelism.tensor)
        .several("--pp-size", parallelism.pipeline);
    if !spec.model.adapters.is_empty() {
        args = args.flag("--lora-paths");
        for adapter in &spec.model.adapters {
            args = args.flag(&format!("{}={}", adapter.name, store.fetched(&adapter.source, None)));
        }
    }
    if facts.is_group() {
        args = args
            .with("--nnodes", parallelism.nodes)
            .with("--node-rank", "$(LWS_WORKER_INDEX)")
            .with("--dist-init-addr", format!("$(LWS_LEADER_ADDRESS):{}", names::RANKS));
    }
    if facts.spec.access.api_keys.is_some() && facts.is_direct() {
        args = args.with("--api-key", "$(API_KEY)");
    }
    Launch {
        command: ["python3", "-m", "sglang.launch_server"].map(str::to_owned).to_vec(),
        worker_args: args.0.clone(),
        args: args.0,
        env: torch_env(&places.cache),
        http: places.http,
        metrics: (places.http, "/metrics".to_owned()),
        liveness: "/health".to_owned(),
        readiness: "/health".to_owned(),
        api_key: Some("API_KEY"),
        config: None,
    }
}

/// Python's name of a level.
fn log_level(level: &str) -> &str {
    if level == "warn" { "warning" } else { level }
}
