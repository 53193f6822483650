//! From an opened checkpoint to a running engine with its tokenizer and chat template.

use std::time::Duration;

use anyhow::Context;
use wharf_api::{ServeConfig, config};
use wharf_cuda::{CudaBackend, CudaOptions};
use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType, PackCache, PackCheck, Pinning};
use wharf_engine::{Backend, EngineConfig, Speculation, StartError, start};
use wharf_model::Model;
use wharf_server::Loaded;

use super::device::{Device, Watched};
use super::memory::{self, KvPlan, Wanted};
use super::text::TextSide;

/// While others decode, prompts take no more tokens of a step, whatever latency is aimed at.
const PREFILL_WHILE_DECODING: usize = 256;

/// Loads weights, tokenizer and chat template and starts the engine. Takes seconds; `progress(done, total)`
/// hears of every layer.
pub(crate) fn load(
    model: Model,
    config: &ServeConfig,
    device: Device,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Loaded> {
    match device {
        Device::Cpu => load_with(model, config, |model, options| {
            Ok(Box::new(CpuBackend::load(model, &options, progress).context("failed to load the weights")?))
        }),
        Device::Cuda(gpu, room) => {
            let kv = kv_plan(&model, config, CudaBackend::kv_bytes_per_token(&model.config), room);
            let options = CudaOptions {
                kv_tokens: kv.tokens,
                max_batch_tokens: config.max_num_batched_tokens,
                threads: machine(config).threads,
            };
            let mut lost = None;
            let mut loaded = start_with(model, config, kv, |model| {
                let backend = CudaBackend::load(*gpu, model, &options, progress);
                let (backend, hears) = Watched::new(backend.context("failed to load the weights")?);
                lost = Some(hears);
                Ok(Box::new(backend))
            })?;
            loaded.lost = lost;
            Ok(loaded)
        }
    }
}

/// As [`load`] on CPUs, with a backend that `backend` makes of the weights.
pub(crate) fn load_with(
    model: Model,
    config: &ServeConfig,
    backend: impl FnOnce(Model, CpuOptions) -> anyhow::Result<Box<dyn Backend>>,
) -> anyhow::Result<Loaded> {
    let kv_type = match config.kv_cache_dtype {
        config::KvCacheDtype::F16 => KvType::F16,
        config::KvCacheDtype::Int8 => KvType::Int8,
    };
    let kv = kv_plan(&model, config, kv_type.bytes_per_token(&model.config), memory::room());
    let options = CpuOptions {
        kv_tokens: kv.tokens,
        kv_type,
        max_batch_tokens: config.max_num_batched_tokens,
        ..machine(config)
    };
    start_with(model, config, kv, |model| backend(model, options))
}

fn kv_plan(model: &Model, config: &ServeConfig, bytes_per_token: usize, room: u64) -> KvPlan {
    let wanted = Wanted {
        cache_bytes: config.kv_cache_bytes.map(|size| size.0),
        max_model_len: config.max_model_len,
        context_length: model.config.context_length,
        max_num_seqs: config.max_num_seqs,
        bytes_per_token,
    };
    memory::plan(wanted, room)
}

fn start_with(
    model: Model,
    config: &ServeConfig,
    kv: KvPlan,
    backend: impl FnOnce(Model) -> anyhow::Result<Box<dyn Backend>>,
) -> anyhow::Result<Loaded> {
    let text = TextSide::read(&model.source)?;
    let bounds = EngineConfig {
        max_model_len: kv.max_model_len,
        max_running: config.max_num_seqs,
        max_batch_tokens: config.max_num_batched_tokens,
        prefill_tokens_while_decoding: PREFILL_WHILE_DECODING.min(config.max_num_batched_tokens),
        inter_token_latency_target: latency_target(config.inter_token_latency_target_ms),
        max_waiting: config.max_waiting,
        prefix_caching: true,
        speculation: match config.speculation {
            config::Speculation::Auto => Speculation::Auto,
            config::Speculation::Off => Speculation::Off,
            config::Speculation::UpTo(tokens) => Speculation::UpTo(tokens.into()),
        },
    };
    let generation = model.generation.clone();
    let engine = start(backend(model)?, bounds).context("failed to start the engine")?;
    Ok(Loaded::new(engine, text.tokenizer, text.chat_template, generation))
}

/// What a backend is told about the machine that it runs on, whatever its part in a group.
pub(crate) fn machine(config: &ServeConfig) -> CpuOptions {
    let defaults = CpuOptions::default();
    CpuOptions {
        threads: config.threads.unwrap_or(defaults.threads),
        pinning: match config.cpu_pinning {
            config::CpuPinning::Off => Pinning::Off,
            config::CpuPinning::On => Pinning::On,
        },
        pack_cache: config.pack_cache.clone().map(|folder| PackCache {
            folder,
            check: match config.verify_pack_cache {
                true => PackCheck::Contents,
                false => PackCheck::Sizes,
            },
        }),
        ..defaults
    }
}

/// 0 stands for none.
fn latency_target(milliseconds: u32) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
}

/// Whether [`load`] failed because the operating system refused a thread: nothing is wrong with the model then.
pub(crate) fn lacked_a_thread(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Thread(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_milliseconds_are_no_target() {
        assert_eq!(latency_target(0), None);
        assert_eq!(latency_target(50), Some(Duration::from_millis(50)));
    }
}
