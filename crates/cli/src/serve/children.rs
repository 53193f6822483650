//! Decides how ranks of this host are started, and that none outlives the group.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use wharf_api::ServeConfig;
use wharf_api::config::{self, FIELDS};
use wharf_ranks::{Ending, Fate};

use super::leader::threads_of_rank;

/// Worker processes, each with a thread that sees it end.
pub(super) struct Children(Vec<JoinHandle<()>>);

/// How often a process is looked after: the group hears of most ends by connections, at once.
const LOOK: Duration = Duration::from_millis(100);

/// How long a worker may take to end with its group.
const GRACE: Duration = Duration::from_secs(5);

impl Children {
    /// Starts ranks 1 and up, which join at `address` with `key`.
    pub(super) fn start(
        config: &ServeConfig,
        address: SocketAddr,
        key: &str,
        fate: &Arc<Fate>,
    ) -> anyhow::Result<Children> {
        let program = std::env::current_exe().context("failed to find the program to start ranks with")?;
        let available = super::load::machine(config).threads;
        let threads = threads_of_rank(config, available, config.ranks());
        let mut children = Children(Vec::new());
        for rank in 1..config.ranks() {
            let mut command = Command::new(&program);
            // What the environment says was read by this process and is handed on as arguments.
            for field in FIELDS {
                command.env_remove(field.env());
                field.env_alias.map(|alias| command.env_remove(alias));
            }
            command
                .args(arguments(config, address, rank, threads))
                .env("WHARF_GROUP_KEY", key)
                .stdin(Stdio::null())
                // Ctrl-C in a terminal is for the leader, which ends its ranks when it has drained.
                .process_group(0);
            let child = command.spawn().with_context(|| format!("failed to start rank {rank}"))?;
            let fate = Arc::clone(fate);
            let watch = move || look_after(child, rank, &fate);
            let thread = std::thread::Builder::new().name("child".into()).spawn(watch);
            children.0.push(thread.with_context(|| format!("failed to look after rank {rank}"))?);
        }
        Ok(children)
    }

    /// Returns when all have ended.
    pub(super) fn end(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread that looks after a rank panicked");
            }
        }
    }
}

/// What a rank has to know that it cannot be told when it joins. Its other options change nothing for a rank.
fn arguments(config: &ServeConfig, address: SocketAddr, rank: usize, threads: usize) -> Vec<String> {
    let mut arguments = vec!["serve".to_owned()];
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    if let Some(path) = &config.model_path {
        flag("model", path.display().to_string());
    }
    flag("tensor-parallel", config.tensor_parallel.to_string());
    flag("pipeline-parallel", config.pipeline_parallel.to_string());
    flag("leader-address", address.to_string());
    flag("rank", rank.to_string());
    flag("group-size", config.ranks().to_string());
    flag("rank-join-seconds", config.rank_join_seconds.to_string());
    flag("rank-timeout-seconds", config.rank_timeout_seconds.to_string());
    flag("threads", threads.to_string());
    flag("log-level", config.log_level.clone());
    flag(
        "log-format",
        match config.log_format {
            config::LogFormat::Json => "json",
            config::LogFormat::Text => "text",
        }
        .to_owned(),
    );
    if let Some(folder) = &config.pack_cache {
        flag("pack-cache", folder.display().to_string());
        if config.verify_pack_cache {
            arguments.push("--verify".to_owned());
        }
    }
    arguments
}

/// Tells the group when a rank ends, and ends a rank that stays longer than its group.
fn look_after(mut child: Child, rank: usize, fate: &Fate) {
    let mut until = None;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                fate.end(Ending::Lost(format!("rank {rank} has ended with {status}; its own log says why")));
                return;
            }
            Err(error) => {
                tracing::warn!(rank, %error, "failed to look after a rank");
                return;
            }
        }
        let over = fate.wait(LOOK).is_some();
        if over && until.is_none() {
            until = Some(Instant::now() + GRACE);
        }
        match until {
            Some(until) if Instant::now() > until => {
                tracing::warn!(rank, "a rank did not end with its group and is killed");
                // It may have ended in this moment; either way there is a status to be collected.
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            // The group has ended and `wait` returns at once: only the process is waited for.
            Some(_) => std::thread::sleep(LOOK / 10),
            None => {}
        }
    }
}
