//! Ranges of single fields and agreements between fields, on a configuration whose types are right.

use std::path::Path;

use super::fields::ServeConfig;
use super::types::{Device, KvCacheDtype};

/// Field and complaint, for each thing that is wrong.
pub(super) fn check(config: &ServeConfig) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let mut require = |ok: bool, field: &'static str, message: &dyn Fn() -> String| {
        if !ok {
            wrong.push((field, message()));
        }
    };
    let c = config;
    require(c.version == 1, "version", &|| format!("this program reads version 1, not {}", c.version));
    require(!c.host.is_empty(), "host", &|| "must not be empty".to_owned());
    for (field, value) in [
        ("max_workers", c.max_workers),
        ("max_num_seqs", c.max_num_seqs),
        ("max_num_batched_tokens", c.max_num_batched_tokens),
        ("max_waiting", c.max_waiting),
        ("max_connections", c.max_connections),
        ("max_model_len", c.max_model_len.unwrap_or(1)),
        ("tensor_parallel", c.tensor_parallel),
        ("pipeline_parallel", c.pipeline_parallel),
        ("threads", c.threads.unwrap_or(1)),
        ("max_tokens", c.max_tokens.unwrap_or(1) as usize),
    ] {
        require(value >= 1, field, &|| "must be at least 1".to_owned());
    }
    for (field, value) in [("max_workers", c.max_workers), ("threads", c.threads.unwrap_or(1))] {
        require(value <= 4096, field, &|| format!("must be at most 4096, got {value}"));
    }
    let fraction = c.gpu_memory_fraction;
    require(fraction > 0.0 && fraction <= 1.0, "gpu_memory_fraction", &|| {
        format!("must be above 0 and at most 1, got {fraction}")
    });
    let on_gpu = matches!(c.device, Device::Cuda(_));
    require(!on_gpu || c.ranks() == 1, "device", &|| {
        "cuda is for a server without ranks: tensor_parallel and pipeline_parallel compute on CPUs".to_owned()
    });
    require(!on_gpu || c.kv_cache_dtype == KvCacheDtype::F16, "kv_cache_dtype", &|| {
        "must be f16 with the device cuda".to_owned()
    });
    require(c.inter_token_latency_target_ms <= 60_000, "inter_token_latency_target_ms", &|| {
        format!("must be at most 60000 milliseconds, got {}", c.inter_token_latency_target_ms)
    });
    require(c.max_body_bytes.0 >= 1024, "max_body_bytes", &|| "must be at least 1024".to_owned());
    for (field, value) in [
        ("drain_grace_seconds", c.drain_grace_seconds),
        ("header_timeout_seconds", c.header_timeout_seconds),
        ("body_timeout_seconds", c.body_timeout_seconds),
        ("stall_seconds", c.stall_seconds),
        ("rank_join_seconds", c.rank_join_seconds),
        ("rank_timeout_seconds", c.rank_timeout_seconds),
    ] {
        let lowest = if field == "drain_grace_seconds" { 0.0 } else { 0.001 };
        require((lowest..=86400.0).contains(&value), field, &|| {
            format!("must be between {lowest} and 86400 seconds, got {value}")
        });
    }
    let penalties = [("frequency_penalty", c.frequency_penalty), ("presence_penalty", c.presence_penalty)];
    for (field, value) in penalties {
        require((-2.0..=2.0).contains(&value), field, &|| format!("must be between -2 and 2, got {value}"));
    }
    let temperature = c.temperature.unwrap_or(1.0);
    require((0.0..=100.0).contains(&temperature), "temperature", &|| {
        format!("must be between 0 and 100, got {temperature}")
    });
    let top_p = c.top_p.unwrap_or(1.0);
    require(top_p > 0.0 && top_p <= 1.0, "top_p", &|| format!("must be above 0 and at most 1, got {top_p}"));
    require(c.model_name.as_deref() != Some(""), "model_name", &|| "must not be empty".to_owned());
    require(c.tls_cert.is_none() || c.tls_key.is_some(), "tls_key", &|| "is needed with tls_cert".to_owned());
    require(c.tls_key.is_none() || c.tls_cert.is_some(), "tls_cert", &|| "is needed with tls_key".to_owned());
    require(c.pack_cache.as_deref() != Some(Path::new("")), "pack_cache", &|| "must not be empty".to_owned());
    require(!c.verify_pack_cache || c.pack_cache.is_some(), "pack_cache", &|| {
        "is needed with verify_pack_cache (--verify)".to_owned()
    });
    for (field, key) in [("api_key", &c.api_key), ("group_key", &c.group_key)] {
        let empty = key.as_ref().is_some_and(|key| key.reveal().trim().is_empty());
        require(!empty, field, &|| "must not be empty".to_owned());
    }
    check_ranks(c, &mut require);
    // A filter takes a lone word for a target, and would then show nothing else.
    let directives = c.log_level.split(',').map(str::trim);
    for word in directives.filter(|directive| !directive.contains('=') && !is_level(directive)) {
        require(false, "log_level", &|| {
            format!(
                "{word:?} is not a level; write error, warn, info, debug, trace or off, and other targets as \
                 wharf_engine=debug"
            )
        });
    }
    let mut ports = vec![("port", c.port), ("metrics_port", c.metrics_port)];
    if c.ranks() > 1 && c.leader_address.is_some() {
        ports.push(("rank_port", c.rank_port));
    }
    if c.tls_cert.is_some() {
        ports.push(("https_port", c.https_port));
    }
    for (i, (field, port)) in ports.iter().enumerate() {
        let taken = ports[..i].iter().find(|(_, other)| other == port && *port != 0);
        if let Some((other, _)) = taken {
            require(false, field, &|| format!("{port} is also the value of {other}"));
        }
    }
    wrong
}

/// Notes a complaint about a field unless something holds.
type Require<'a> = dyn FnMut(bool, &'static str, &dyn Fn() -> String) + 'a;

/// Whether the fields about ranks agree.
fn check_ranks(c: &ServeConfig, require: &mut Require<'_>) {
    let (tensor, pipeline) = (c.tensor_parallel, c.pipeline_parallel);
    for (field, value) in [("tensor_parallel", tensor), ("pipeline_parallel", pipeline)] {
        require(value <= 64, field, &|| format!("must be at most 64, got {value}"));
    }
    require(tensor <= 1 || pipeline <= 1, "pipeline_parallel", &|| {
        "cannot be combined with tensor_parallel: set one of them to 1".to_owned()
    });
    let ranks = tensor.max(pipeline);
    let size = c.group_size.unwrap_or(ranks);
    require(size == ranks, "group_size", &|| {
        format!("{size} ranks are started, but tensor_parallel is {tensor} and pipeline_parallel {pipeline}")
    });
    let rank = c.rank.unwrap_or(0);
    require(rank == 0 || rank < ranks, "rank", &|| {
        format!("rank {rank} is not one of 0 to {}", ranks.max(1) - 1)
    });
    require(rank == 0 || c.leader_address.is_some(), "leader_address", &|| {
        format!("is needed for rank {rank}")
    });
    require(c.leader_address.as_deref() != Some(""), "leader_address", &|| "must not be empty".to_owned());
}

fn is_level(word: &str) -> bool {
    ["error", "warn", "info", "debug", "trace", "off"].iter().any(|level| word.eq_ignore_ascii_case(level))
}
