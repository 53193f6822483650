//! Decides what this process is in a group of ranks, and which part of the model each rank computes.

use std::time::Duration;

use wharf_api::ServeConfig;
use wharf_engine::cpu::{Shard, Share};
use wharf_model::Model;
use wharf_model::shard::{LayerBytes, ShardError, ShardPlan, Steps};
use wharf_ranks::{GroupOptions, Identity, Kind};

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It has all of the model.
    Alone,
    /// It leads ranks that it starts on this host.
    StartsRanks,
    /// It leads ranks that others start.
    AwaitsRanks,
    /// It computes for the leader at this address.
    Follows { rank: usize, leader: String },
}

impl Role {
    /// `config` has been checked whole.
    pub(super) fn of(config: &ServeConfig) -> Role {
        match (&config.leader_address, config.rank.unwrap_or(0)) {
            _ if config.ranks() <= 1 => Role::Alone,
            (None, _) => Role::StartsRanks,
            (Some(_), 0) => Role::AwaitsRanks,
            (Some(address), rank) => Role::Follows { rank, leader: with_port(address, config.rank_port) },
        }
    }
}

/// An address as it is, or with a port behind a name or number that has none.
fn with_port(address: &str, port: u16) -> String {
    let v6 = address.matches(':').count() > 1;
    let has_port = if v6 { address.contains("]:") } else { address.contains(':') };
    match has_port {
        true => address.to_owned(),
        false if v6 && !address.starts_with('[') => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// How a model is spread over ranks.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    Tensor(ShardPlan),
    Pipeline(Vec<Share>),
}

impl Layout {
    /// The same on every rank, for the same model.
    pub(super) fn of(config: &ServeConfig, model: &Model) -> Result<Layout, ShardError> {
        let Model { config: shape, weights, .. } = model;
        if let Some(held) = &model.held {
            let (cut, ranks) = (held.plan.ranks.len(), config.tensor_parallel);
            if cut != ranks {
                return Err(ShardError::OtherCut { cut, ranks });
            }
            return Ok(Layout::Tensor(held.plan.clone()));
        }
        if config.tensor_parallel > 1 {
            return Ok(Layout::Tensor(ShardPlan::new(
                shape,
                Steps::of(shape, weights),
                config.tensor_parallel,
            )?));
        }
        let layers = LayerBytes::of(shape, weights).stages(config.pipeline_parallel)?;
        let last = layers.len() - 1;
        let share = |(rank, layers)| Share { layers, embeds: rank == 0, predicts: rank == last };
        Ok(Layout::Pipeline(layers.into_iter().enumerate().map(share).collect()))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Layout::Tensor(_) => Kind::Tensor,
            Layout::Pipeline(_) => Kind::Pipeline,
        }
    }

    /// A rank's part of every layer.
    pub(super) fn shard(plan: &ShardPlan, rank: usize) -> Shard {
        Shard { plan: plan.clone(), rank }
    }
}

/// Who a rank says that it is.
pub(super) fn identity(config: &ServeConfig, layout: &Layout, model: &Model, rank: usize) -> Identity {
    Identity {
        kind: layout.kind(),
        size: config.ranks(),
        rank,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: wharf_ranks::model_digest(model),
    }
}

/// How the group keeps together; `key` is that of the configuration, or one of the leader's own.
pub(super) fn options(config: &ServeConfig, key: String) -> GroupOptions {
    GroupOptions {
        assembly: Duration::from_secs_f64(config.rank_join_seconds),
        patience: Duration::from_secs_f64(config.rank_timeout_seconds),
        key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_is_follows_from_addresses_and_ranks() {
        let group = ServeConfig { tensor_parallel: 2, ..ServeConfig::default() };
        let at =
            |address: &str, rank| ServeConfig { leader_address: Some(address.into()), rank, ..group.clone() };
        let follows = |leader: &str| Role::Follows { rank: 1, leader: leader.into() };
        let table = [
            (ServeConfig::default(), Role::Alone),
            // A group of one, as a LeaderWorkerSet without workers starts it.
            (ServeConfig { tensor_parallel: 1, ..at("llm-0", Some(0)) }, Role::Alone),
            (group.clone(), Role::StartsRanks),
            (ServeConfig { tensor_parallel: 1, pipeline_parallel: 3, ..group.clone() }, Role::StartsRanks),
            (at("llm-0.llm", Some(0)), Role::AwaitsRanks),
            (at("llm-0.llm", None), Role::AwaitsRanks),
            (at("llm-0.llm", Some(1)), follows("llm-0.llm:8083")),
            (at("10.0.0.1:99", Some(1)), follows("10.0.0.1:99")),
            (at("fd00::1", Some(1)), follows("[fd00::1]:8083")),
            (at("[fd00::1]", Some(1)), follows("[fd00::1]:8083")),
            (at("[fd00::1]:99", Some(1)), follows("[fd00::1]:99")),
        ];
        for (config, expected) in table {
            assert_eq!(Role::of(&config), expected);
        }
    }
}
