//! A rank that follows: no port, no requests; it computes until its leader ends the group.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use wharf_api::ServeConfig;
use wharf_engine::cpu::{CpuOptions, CpuStage};
use wharf_model::Model;
use wharf_ranks::{Ending, Fate, Joined, WorkerError, join};

use super::group::{self, Layout};
use super::load;
use crate::exit::{BadInput, Failure};
use crate::stop::Signals;

/// Joins, loads and computes.
pub(super) fn run(
    config: &ServeConfig,
    layout: &Layout,
    model: Model,
    rank: usize,
    leader: &str,
) -> Result<(), Failure> {
    let identity = group::identity(config, layout, &model, rank);
    let key = config.group_key.as_ref().map_or_else(String::new, |key| key.reveal().to_owned());
    tracing::info!(rank, leader, "joining the group of ranks");
    let joined = join(leader, &identity, &group::options(config, key)).map_err(|error| match error {
        // What differs from the leader is this rank's model or configuration.
        WorkerError::Refused { .. } => Failure::BadInput(error.into()),
        error => Failure::Failed(error.into()),
    })?;
    stay_for_draining(joined.fate(), config.drain_grace_seconds)?;
    let stage = match load_stage(config, layout, &model, rank, &joined) {
        Ok(stage) => stage,
        Err(error) => {
            joined.give_up(&format!("rank {rank} failed to load its part of the model: {error:#}"));
            return Err(error).bad_input();
        }
    };
    drop(model);
    tracing::info!(rank, bytes = stage.weight_bytes(), "ready to compute");
    joined.follow(stage).context(format!("rank {rank} cannot go on"))?;
    tracing::info!(rank, "the leader has ended the group");
    Ok(())
}

fn load_stage(
    config: &ServeConfig,
    layout: &Layout,
    model: &Model,
    rank: usize,
    joined: &Joined,
) -> anyhow::Result<CpuStage> {
    let setup = &joined.setup;
    let options = CpuOptions {
        kv_tokens: setup.kv_tokens,
        kv_type: setup.kv_type,
        max_batch_tokens: setup.max_batch_tokens,
        ..load::machine(config)
    };
    let mut progress = |done, total| tracing::debug!(done, total, "loading layers");
    Ok(match layout {
        Layout::Tensor(plan) => {
            let ranks = joined.ranks().context("failed to tie this rank to the others")?;
            CpuStage::load_rank(model, Layout::shard(plan, rank), ranks, &options, &mut progress)?
        }
        Layout::Pipeline(shares) => CpuStage::load(model, shares[rank].clone(), &options, &mut progress)?,
    })
}

/// Where a pod's containers are told to stop at the same time, the leader still has answers to finish: a rank that is told to
/// stop goes on until its leader ends the group, for as long as draining may take.
fn stay_for_draining(fate: &Arc<Fate>, grace_seconds: f64) -> anyhow::Result<()> {
    let fate = Arc::clone(fate);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime that listens for signals")?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let listen = move || {
        runtime.block_on(async {
            signals.next().await;
            tracing::info!(grace_seconds, "told to stop; going on until the leader ends the group");
            tokio::select! {
                () = signals.next() => {}
                () = tokio::time::sleep(Duration::from_secs_f64(grace_seconds)) => {}
            }
            fate.end(Ending::Lost("this rank was told to stop".into()));
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .map_err(|error| anyhow!(error).context("failed to start the thread that listens for signals"))?;
    Ok(())
}
