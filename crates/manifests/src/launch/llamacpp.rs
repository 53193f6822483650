//! llama.cpp's server (its README, "LLaMA.cpp HTTP Server").

use wharf_spec::service::KvCacheType;

use super::{Args, Launch};
use crate::Mode;
use crate::facts::Facts;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let (spec, server, places) = (facts.spec, &facts.spec.server, &facts.places);
    let defaults = &server.defaults;
    let kv_cache = server.kv_cache.kind.map(|kind| match kind {
        KvCacheType::F16 => "f16",
        KvCacheType::Int8 | KvCacheType::Fp8 => "q8_0",
    });
    let slots = server.max_num_seqs;
    // Its context is one for all slots.
    let context = server.max_model_len.map(|length| u64::from(length) * u64::from(slots.unwrap_or(1)));
    let gpus = spec.resources.gpu.as_ref().map_or(0, |gpu| gpu.count);
    let args = Args::default()
        .with("--model", &facts.artifact.path)
        .with("--alias", facts.served_name())
        .with("--host", &places.host)
        .with("--port", places.http)
        .flag("--metrics")
        .maybe("--ctx-size", context)
        .maybe("--parallel", slots)
        .maybe("--batch-size", server.max_num_batched_tokens)
        .maybe("--cache-type-k", kv_cache)
        .maybe("--cache-type-v", kv_cache)
        .maybe("--n-predict", defaults.max_tokens)
        .maybe("--temp", defaults.temperature)
        .maybe("--top-p", defaults.top_p)
        .maybe("--frequency-penalty", defaults.frequency_penalty)
        .maybe("--presence-penalty", defaults.presence_penalty)
        .maybe("--n-gpu-layers", (gpus > 0).then_some("999"))
        .maybe("--split-mode", (gpus > 1).then_some("row"));
    // In the image it is not in the path.
    let program = match facts.mode {
        Mode::Local => "llama-server",
        Mode::Managed | Mode::Standalone => "/app/llama-server",
    };
    Launch {
        command: vec![program.to_owned()],
        args: args.0,
        worker_args: Vec::new(),
        env: Vec::new(),
        http: places.http,
        metrics: (places.http, "/metrics".to_owned()),
        liveness: "/health".to_owned(),
        readiness: "/health".to_owned(),
        api_key: Some("LLAMA_API_KEY"),
        config: None,
    }
}
