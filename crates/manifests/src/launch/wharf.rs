//! Wharf's own server: everything is in its configuration files.

use serde_json::{Map, Value, json};
use wharf_spec::LLMServiceSpec;
use wharf_spec::service::{KvCacheType, LogStyle};

use super::{Config, Launch};
use crate::facts::Facts;
use crate::names;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let (data, places) = (config(facts), &facts.places);
    let args: Vec<String> = ["serve", "--config", &places.config].map(str::to_owned).to_vec();
    Launch {
        command: vec!["wharf".to_owned()],
        worker_args: args.clone(),
        args,
        env: Vec::new(),
        http: places.http,
        metrics: (places.metrics, "/metrics".to_owned()),
        liveness: "/health".to_owned(),
        readiness: "/ready".to_owned(),
        api_key: Some("API_KEY"),
        config: Some(Config {
            name: names::child(facts.name, &format!("config-{}", names::digest_of(&data))),
            data,
        }),
    }
}

/// `model_config.json` and `server_config.yaml`, as the server reads them (`docs/reference/config.md`).
fn config(facts: &Facts<'_>) -> Value {
    let spec = facts.spec;
    let (server, defaults, places) = (&spec.server, &spec.server.defaults, &facts.places);
    let mut model = Fields::default();
    model.set("model_path", Some(&facts.artifact.path));
    model.set("model_name", Some(facts.served_name()));
    model.set("max_tokens", defaults.max_tokens);
    model.set("temperature", defaults.temperature);
    model.set("top_p", defaults.top_p);
    model.set("frequency_penalty", defaults.frequency_penalty);
    model.set("presence_penalty", defaults.presence_penalty);

    let mut settings = Fields::default();
    settings.set("host", Some(&places.host));
    settings.set("port", Some(places.http));
    settings.set("metrics_port", Some(places.metrics));
    if facts.serves_tls() {
        settings.set("https_port", Some(names::HTTPS));
        settings.set("tls_cert", Some(format!("{}/tls.crt", places.tls)));
        settings.set("tls_key", Some(format!("{}/tls.key", places.tls)));
    }
    settings.set("max_workers", server.max_workers);
    settings.set("max_model_len", server.max_model_len);
    settings.set("max_num_seqs", server.max_num_seqs);
    settings.set("max_num_batched_tokens", server.max_num_batched_tokens);
    settings.set("max_waiting", server.max_waiting);
    settings.set("kv_cache_bytes", server.kv_cache.size.as_ref().map(|size| size.units()));
    settings.set(
        "kv_cache_dtype",
        server.kv_cache.kind.map(|kind| match kind {
            KvCacheType::F16 => "f16",
            KvCacheType::Int8 => "int8",
            KvCacheType::Fp8 => "fp8",
        }),
    );
    settings.set("device", on_gpu(spec).then_some("cuda"));
    let parallelism = &spec.parallelism;
    settings.set("tensor_parallel", Some(parallelism.tensor).filter(|ranks| *ranks > 1));
    settings.set("pipeline_parallel", Some(parallelism.pipeline).filter(|ranks| *ranks > 1));
    settings.set("rank_port", facts.is_group().then_some(names::RANKS));
    settings.set("pack_cache", Some(format!("{}/packed", places.cache)));
    settings.set("drain_grace_seconds", Some(server.longest_answer.whole_seconds()));
    settings.set(
        "log_format",
        Some(match spec.observability.logs.format {
            LogStyle::Json => "json",
            LogStyle::Text => "text",
        }),
    );
    settings.set("log_level", Some(spec.observability.logs.level.name()));

    let model = serde_json::to_string_pretty(&model.0).expect("JSON has a form in text");
    let server = serde_saphyr::to_string(&json!({"server": settings.0})).expect("JSON has a form in YAML");
    json!({"model_config.json": model + "\n", "server_config.yaml": server})
}

/// Whether the server has to compute on the GPU that it gets. It chooses by itself otherwise, and where the GPU cannot be used it would compute on the
/// CPU, with the GPU taken and nobody told.
fn on_gpu(spec: &LLMServiceSpec) -> bool {
    spec.resources.gpu.as_ref().is_some_and(|gpu| gpu.resource.starts_with("nvidia.com/"))
}

/// Fields of a configuration; those without a value are left out.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, name: &str, value: Option<impl serde::Serialize>) {
        if let Some(value) = value {
            let value = serde_json::to_value(value).expect("plain values have a form in JSON");
            self.0.insert(name.to_owned(), value);
        }
    }
}
