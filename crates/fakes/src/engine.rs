//! A model server that computes nothing: it answers when it is told to, what it is told to, and fails on demand.
//!
//! [`EngineConfig`] says how fast it is and what it serves, [`Fault`] how it fails. Both can be changed while it runs. Answers
//! are the same for the same requests in the same order; only time passes in between. A chat that demands tools gets calls of them.

mod config;
mod fault;
mod http;
mod log;
mod metrics;
mod orders;
mod play;
mod prefix;
mod prompt;
mod script;
mod slots;
mod tools;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::time::Instant;

pub use config::{Claims, Dialect, EngineConfig, Head, Health};
pub use fault::{Fault, Target};
pub use log::{Outcome, Received};
pub use orders::Order;

use fault::Faults;
use log::Log;
use metrics::Meter;
use prefix::PrefixCache;
use slots::Slots;

use crate::wire::{Port, lock, loopback};

/// A running fake engine. Clones are handles to the same one; it ends with the last of them.
#[derive(Clone)]
pub struct FakeEngine(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    port: Port,
}

/// What requests and handles share.
pub(crate) struct Shared {
    config: Mutex<EngineConfig>,
    faults: Mutex<Faults>,
    slots: Arc<Slots>,
    cache: Mutex<PrefixCache>,
    log: Mutex<Log>,
    meter: Mutex<Meter>,
    started: Instant,
    /// Probes that a flapping engine has answered.
    probes: Mutex<u32>,
    draining: Mutex<bool>,
    closes_connections: Mutex<bool>,
    version: watch::Sender<u64>,
}

impl Shared {
    /// Wakes those who wait for a condition.
    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

/// Numbers at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted since the start.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: usize,
    /// Requests for tokens or embeddings, received since the start or [`FakeEngine::forget`].
    pub received: usize,
    /// Of these, answered to the end, with any status.
    pub answered: usize,
    /// Of these, left by the client before the end.
    pub abandoned: usize,
    /// Of these, cut by a fault or a kill.
    pub cut: usize,
    /// Requests for tokens or embeddings that are not over.
    pub in_flight: usize,
    /// The most of them at a time, ever.
    pub most_in_flight: usize,
    /// Requests that have a slot.
    pub running: usize,
    /// The most of them at a time, ever.
    pub most_running: usize,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// Prompt tokens of accepted requests.
    pub prompt_tokens: u64,
    /// Of these, found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens made.
    pub generated_tokens: u64,
}

impl FakeEngine {
    /// Starts an engine on a free port of loopback.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start(config: EngineConfig) -> io::Result<FakeEngine> {
        FakeEngine::start_on(0, config).await
    }

    /// Starts an engine on this port of loopback.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start_on(port: u16, config: EngineConfig) -> io::Result<FakeEngine> {
        FakeEngine::start_at(loopback(port), config).await
    }

    /// Starts an engine on this address. On Linux all of 127.0.0.0/8 is loopback, so that engines can have one port and an address
    /// each, as Pods do.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_at(address: SocketAddr, config: EngineConfig) -> io::Result<FakeEngine> {
        let slots = Arc::new(Slots::default());
        slots.resize(config.slots);
        let shared = Arc::new(Shared {
            config: Mutex::new(config),
            faults: Mutex::default(),
            slots,
            cache: Mutex::default(),
            log: Mutex::default(),
            meter: Mutex::default(),
            started: Instant::now(),
            probes: Mutex::default(),
            draining: Mutex::default(),
            closes_connections: Mutex::default(),
            version: watch::channel(0).0,
        });
        let port = Port::open(address, Arc::<Shared>::clone(&shared)).await?;
        Ok(FakeEngine(Arc::new(Running { shared, port })))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.port.address()
    }

    /// `http://127.0.0.1:…`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The configuration in force.
    pub fn config(&self) -> EngineConfig {
        lock(&self.0.shared.config).clone()
    }

    /// Changes the configuration; answers that have begun go on as they were.
    pub fn configure(&self, change: impl FnOnce(&mut EngineConfig)) {
        let slots = {
            let mut config = lock(&self.0.shared.config);
            change(&mut config);
            config.slots
        };
        self.0.shared.slots.resize(slots);
        self.0.shared.changed();
    }

    /// Every request of this kind fails so from now on, after faults that were asked for before.
    pub fn fail(&self, target: Target, fault: Fault) {
        lock(&self.0.shared.faults).always(target, fault);
    }

    /// The next `times` requests of this kind fail so, after faults that were asked for before.
    pub fn fail_next(&self, times: usize, target: Target, fault: Fault) {
        lock(&self.0.shared.faults).next(times, target, fault);
    }

    /// New connections are accepted and closed at once.
    pub fn close_new_connections(&self) {
        *lock(&self.0.shared.closes_connections) = true;
    }

    /// New connections are refused, as when no process listens. Open ones end after what is under way.
    pub async fn refuse(&self) {
        self.0.port.refuse().await;
        self.0.port.finish_all();
    }

    /// Ends every fault, and listens again after [`FakeEngine::refuse`], [`FakeEngine::stop`] or [`FakeEngine::kill`].
    ///
    /// # Errors
    /// When the port cannot be had again.
    pub async fn heal(&self) -> io::Result<()> {
        lock(&self.0.shared.faults).clear();
        *lock(&self.0.shared.closes_connections) = false;
        *lock(&self.0.shared.draining) = false;
        self.0.port.reopen().await
    }

    /// `/ready` says no from now on; everything else goes on.
    pub fn drain(&self) {
        *lock(&self.0.shared.draining) = true;
    }

    /// Ends as a server does on SIGTERM: accepts nothing new and returns when what was under way is over. A request that stalls is
    /// not over before its client leaves.
    pub async fn stop(&self) {
        self.drain();
        self.0.port.refuse().await;
        self.0.port.finish_all();
        self.0.port.all_ended().await;
    }

    /// Ends as a process does on SIGKILL: every connection is reset and the port is closed. What it had cached is lost.
    pub async fn kill(&self) {
        self.0.port.refuse().await;
        self.0.port.reset_all();
        self.0.port.all_ended().await;
        lock(&self.0.shared.cache).clear();
    }

    /// Everything received, oldest first, probes and scrapes included.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.0.shared.log).all().cloned().collect()
    }

    /// Requests for tokens or embeddings, oldest first.
    pub fn generation_requests(&self) -> Vec<Received> {
        lock(&self.0.shared.log).generation().cloned().collect()
    }

    /// Drops what was recorded of requests.
    pub fn forget(&self) {
        lock(&self.0.shared.log).forget();
    }

    /// Numbers now.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let mut stats = Stats {
            connections: self.0.port.accepted(),
            open_connections: self.0.port.open_now(),
            running: shared.slots.running(),
            most_running: shared.slots.most_running(),
            waiting: shared.slots.waiting(),
            ..Stats::default()
        };
        {
            let meter = lock(&shared.meter);
            stats.prompt_tokens = meter.prompt_tokens;
            stats.cached_tokens = meter.cached_tokens;
            stats.generated_tokens = meter.generated_tokens;
        }
        let log = lock(&shared.log);
        stats.in_flight = log.in_flight();
        stats.most_in_flight = log.most_in_flight();
        for request in log.generation() {
            stats.received += 1;
            match request.outcome {
                Outcome::InFlight => {}
                Outcome::Answered { .. } => stats.answered += 1,
                Outcome::Abandoned => stats.abandoned += 1,
                Outcome::Cut => stats.cut += 1,
            }
        }
        stats
    }

    /// Returns when the numbers satisfy `reached`. Callers bound the wait.
    pub async fn until(&self, reached: impl Fn(&Stats) -> bool) -> Stats {
        let mut version = self.0.shared.version.subscribe();
        let mut open = self.0.port.watch_open();
        loop {
            version.borrow_and_update();
            open.borrow_and_update();
            let stats = self.stats();
            if reached(&stats) {
                return stats;
            }
            // The senders live as long as `self`.
            tokio::select! {
                _ = version.changed() => {}
                _ = open.changed() => {}
            }
        }
    }
}
