//! What this machine has to give, and what a model needs of it.

use std::path::Path;

use wharf_local::{Machine, Planner};
use wharf_plan::cpu::on_cpu;
use wharf_plan::footprint::{KvType, Load};
use wharf_spec::LLMService;
use wharf_spec::service::KvCacheType;

use crate::model::memory;
use crate::plan;

/// Share of the memory that is free now which models may take: the rest is for everything else that runs.
const SHARE: f64 = 0.9;

/// This machine.
pub(super) fn detect(memory: Option<u64>) -> Machine {
    let free = (memory::free() as f64 * SHARE) as u64;
    Machine::detect(Some(memory.unwrap_or(free)))
}

/// Forecasts from headers, as `wharf plan` does.
pub(super) struct FromHeaders;

/// Context and streams that are counted where the object does not say.
const CONTEXT: u64 = 4096;
const STREAMS: u64 = 1;
const BATCH_TOKENS: u64 = 512;

impl Planner for FromHeaders {
    fn memory(&self, object: &LLMService, model: &Path) -> Option<u64> {
        let header = plan::local_header(model)
            .inspect_err(|error| {
                tracing::info!(error = format!("{error:#}"), "no forecast of the model's memory")
            })
            .ok()?;
        let server = &object.spec.server;
        let context = server.max_model_len.map_or(header.shape.context_length.min(CONTEXT), u64::from);
        let load = Load {
            context,
            streams: STREAMS,
            batch_tokens: server.max_num_batched_tokens.map_or(BATCH_TOKENS, u64::from),
            kv_cache: match server.kv_cache.kind {
                Some(KvCacheType::Int8) => KvType::Int8,
                Some(KvCacheType::Fp8) => KvType::Fp8,
                Some(KvCacheType::F16) | None => KvType::F16,
            },
        };
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        Some(on_cpu(&header.shape, &header.shape.stored, &load, threads).peak)
    }
}
