//! Rank 0 of a group: starts the other ranks or awaits them, and makes one backend of all.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use wharf_api::ServeConfig;
use wharf_engine::Backend;
use wharf_engine::cpu::{CpuOptions, CpuStage};
use wharf_model::Model;
#[cfg(target_os = "linux")]
use wharf_ranks::SharedMemory;
use wharf_ranks::{Ending, Fate, Group, GroupOptions, Identity, Links, PipelineLeader, Setup, assemble};

use super::children::Children;
use super::group::{self, Layout, Role};

/// The ranks of this process's group.
pub(super) struct Leader {
    layout: Layout,
    identity: Identity,
    options: GroupOptions,
    fate: Arc<Fate>,
    listener: Mutex<Option<TcpListener>>,
    #[cfg(target_os = "linux")]
    shared: Option<SharedMemory>,
    group: Mutex<Option<Group>>,
    children: Mutex<Option<Children>>,
    /// Ranks on this host, which share its CPUs.
    neighbours: usize,
}

impl Leader {
    /// Opens the ranks' port, and starts them where that is this process's business.
    pub(super) fn start(
        config: &ServeConfig,
        layout: Layout,
        model: &Model,
        role: &Role,
    ) -> anyhow::Result<Leader> {
        let identity = group::identity(config, &layout, model, 0);
        let fate = Arc::new(Fate::default());
        let leader = |listener, options, children, neighbours| Leader {
            layout,
            identity,
            options,
            fate: Arc::clone(&fate),
            listener: Mutex::new(Some(listener)),
            #[cfg(target_os = "linux")]
            shared: None,
            group: Mutex::new(None),
            children: Mutex::new(children),
            neighbours,
        };
        if *role == Role::AwaitsRanks {
            let key = config.group_key.as_ref().map_or_else(String::new, |key| key.reveal().to_owned());
            if key.is_empty() {
                tracing::warn!(
                    port = config.rank_port,
                    "whoever reaches the ranks' port may join: set group_key, or keep others off by a network policy"
                );
            }
            let address = (config.host.as_str(), config.rank_port);
            let listener = TcpListener::bind(address).with_context(|| {
                format!("failed to listen for ranks on {}:{}", config.host, config.rank_port)
            })?;
            return Ok(leader(listener, group::options(config, key), None, 1));
        }
        let key = random_key().context("failed to make a key for the group of ranks")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen for ranks")?;
        let address = listener.local_addr().context("failed to listen for ranks")?;
        let size = config.ranks();
        #[cfg(target_os = "linux")]
        let shared = match layout_adds(config) {
            true => Some(SharedMemory::new(size).context("failed to make memory that ranks share")?),
            false => None,
        };
        let children = Children::start(config, address, &key, &fate)?;
        let started = leader(listener, group::options(config, key), Some(children), size);
        #[cfg(target_os = "linux")]
        let started = Leader { shared, ..started };
        Ok(started)
    }

    /// What becomes of the group.
    pub(super) fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// Awaits all ranks and loads this one's part of the model while they load theirs.
    pub(super) fn backend(
        &self,
        model: &Model,
        options: CpuOptions,
        config: &ServeConfig,
        progress: &mut dyn FnMut(usize, usize),
    ) -> anyhow::Result<Box<dyn Backend>> {
        let threads = threads_of_rank(config, options.threads, self.neighbours);
        let options = CpuOptions { threads, ..options };
        let setup = Setup {
            kv_tokens: options.kv_tokens,
            kv_type: options.kv_type,
            max_batch_tokens: options.max_batch_tokens,
            #[cfg(target_os = "linux")]
            shared: self.shared.as_ref().map(SharedMemory::descriptor),
            #[cfg(not(target_os = "linux"))]
            shared: None,
        };
        let listener = take(&self.listener).context("the ranks' port was used before")?;
        let (group, links) = assemble(listener, &self.identity, &self.options, &setup, &self.fate)
            .context("failed to bring the ranks together")?;
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
        tracing::info!(ranks = self.identity.size, kind = %self.identity.kind, "all ranks have joined");
        match &self.layout {
            Layout::Tensor(plan) => {
                let (ties, ranks) = self.tie(links).context("failed to tie the ranks together")?;
                let shard = Layout::shard(plan, 0);
                let stage = CpuStage::load_rank(model, shard, ranks, &options, progress)
                    .context("failed to load rank 0's part of the weights")?;
                Ok(Box::new(ties.lead(stage).context("failed to load the model on all ranks")?))
            }
            Layout::Pipeline(shares) => {
                let stage = CpuStage::load(model, shares[0].clone(), &options, progress)
                    .context("failed to load the first stage's weights")?;
                let leader = PipelineLeader::lead(stage, links);
                Ok(Box::new(leader.context("failed to load the model on all ranks")?))
            }
        }
    }

    fn tie(&self, links: Links) -> io::Result<(wharf_ranks::LeaderTies, Box<dyn wharf_engine::Ranks>)> {
        #[cfg(target_os = "linux")]
        if let Some(shared) = &self.shared {
            return Ok((links.tied(), shared.ranks(&self.fate)?));
        }
        links.tie()
    }

    /// Ends the group, unless it has ended, and waits for the ranks of this host to end.
    pub(super) fn end(&self, ending: Ending) {
        match take(&self.group) {
            Some(group) => drop(group.end(ending)),
            None => drop(self.fate.end(ending)),
        }
        if let Some(children) = take(&self.children) {
            children.end();
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Whether ranks add in every layer, for which they share memory.
#[cfg(target_os = "linux")]
fn layout_adds(config: &ServeConfig) -> bool {
    config.tensor_parallel > 1
}

/// Compute threads of one rank: those that are configured, else its part of the CPUs that ranks of one host share.
pub(super) fn threads_of_rank(config: &ServeConfig, available: usize, neighbours: usize) -> usize {
    config.threads.unwrap_or_else(|| (available / neighbours).max(1))
}

/// 128 random bits in hex: what a process on this host cannot guess.
fn random_key() -> io::Result<String> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_one_host_share_its_cpus() {
        let config = ServeConfig::default();
        assert_eq!(threads_of_rank(&config, 8, 3), 2);
        assert_eq!(threads_of_rank(&config, 1, 3), 1);
        assert_eq!(threads_of_rank(&ServeConfig { threads: Some(5), ..config }, 8, 3), 5);
    }
}
