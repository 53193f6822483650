//! Reads engines' metrics from pods, but only of those that somebody scales by: from the first question on, until nobody has asked for a while.
//! Node agents are read when a question needs them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::DynamicObject;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wharf_cluster::{Find, MetricsReader};
use wharf_telemetry::engines;
use wharf_telemetry::metrics::{Metrics, metrics_api as table};

use crate::gpus::{GpuUse, Holder, by_container};
use crate::history::{EngineSeen, History};

/// How often pods are read. With the time that one may take to answer, no value is older than [`crate::history::FRESH`].
const EVERY: Duration = Duration::from_millis(2_500);
/// A pod that nobody has asked about for so long is read no more.
const INTEREST: Duration = Duration::from_secs(150);
/// The second sample of a pod that is new comes after this, so that the first question about a rate has an answer.
const SECOND: Duration = Duration::from_secs(1);
/// So many are read at the same time.
const AT_ONCE: usize = 64;
/// Node agents are read at most this often.
const NODE_FRESH: Duration = Duration::from_secs(2);

/// Reads pods and node agents over plain HTTP.
pub(crate) struct Sampler {
    reader: MetricsReader,
    metrics: Arc<Metrics>,
    began: Instant,
    pods: Mutex<HashMap<String, Followed>>,
    nodes: Mutex<HashMap<String, Node>>,
}

/// A pod that somebody asks about.
struct Followed {
    address: String,
    asked: Instant,
    history: History,
}

type Node = (Instant, Arc<HashMap<Holder, GpuUse>>);

impl Sampler {
    /// Reads where `find` finds the ports of pods.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(find: Find, metrics: Arc<Metrics>) -> Result<Sampler, reqwest::Error> {
        let reader = MetricsReader::new(find)?;
        let (pods, nodes) = (Mutex::default(), Mutex::default());
        Ok(Sampler { reader, metrics, began: Instant::now(), pods, nodes })
    }

    /// Reads those that somebody asks about, for as long as it is polled.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pods().retain(|_, pod| pod.asked.elapsed() < INTEREST);
            let all: Vec<String> = self.pods().keys().cloned().collect();
            self.metrics.set(&table::PODS, &[], all.len() as f64);
            self.read_all(all).await;
        }
    }

    /// What is known of the engines in these pods, by uid. Whoever is asked about for the first time is read at once, twice where a rate is
    /// asked for.
    pub(crate) async fn engines(
        &self,
        pods: &[Arc<DynamicObject>],
        rate: bool,
    ) -> HashMap<String, EngineSeen> {
        let named: Vec<(String, String)> = pods.iter().filter_map(|pod| self.named(pod)).collect();
        let now = Instant::now();
        for (uid, address) in &named {
            let mut known = self.pods();
            let pod = known.entry(uid.clone()).or_insert_with(|| Followed {
                address: address.clone(),
                asked: now,
                history: History::default(),
            });
            pod.asked = now;
            pod.address.clone_from(address);
        }
        self.read_all(self.without(&named, |history, at| history.seen(at).is_some())).await;
        let alone = |history: &History, at| history.has_rate() || history.seen(at).is_none();
        let second = if rate { self.without(&named, alone) } else { Vec::new() };
        if !second.is_empty() {
            sleep(SECOND).await;
            self.read_all(second).await;
        }
        let (known, at) = (self.pods(), self.now());
        named
            .into_iter()
            .filter_map(|(uid, _)| known.get(&uid)?.history.seen(at).map(|seen| (uid, seen)))
            .collect()
    }

    /// Use of GPUs on a node, by container, as its agent says.
    pub(crate) async fn gpus(&self, agent: &DynamicObject) -> Arc<HashMap<Holder, GpuUse>> {
        let Some((uid, address)) = self.named(agent) else { return Arc::default() };
        if let Some((when, known)) = self.nodes().get(&uid)
            && when.elapsed() < NODE_FRESH
        {
            return Arc::clone(known);
        }
        let read = Arc::new(match self.reader.read(&address).await {
            Ok(text) => by_container(&text),
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                tracing::warn!(address, error, "failed to read a node agent's metrics");
                HashMap::new()
            }
        });
        let mut nodes = self.nodes();
        nodes.retain(|_, (when, _)| when.elapsed() < INTEREST);
        nodes.insert(uid, (Instant::now(), Arc::clone(&read)));
        read
    }

    /// Those of which `enough` does not say so.
    fn without(
        &self,
        named: &[(String, String)],
        enough: impl Fn(&History, Duration) -> bool,
    ) -> Vec<String> {
        let (known, at) = (self.pods(), self.now());
        let lacks = |uid: &&String| known.get(*uid).is_some_and(|pod| !enough(&pod.history, at));
        named.iter().map(|(uid, _)| uid).filter(lacks).cloned().collect()
    }

    /// Uid, and where its metrics are.
    fn named(&self, pod: &DynamicObject) -> Option<(String, String)> {
        Some((pod.metadata.uid.clone()?, self.reader.address(pod)?))
    }

    async fn read_all(&self, uids: Vec<String>) {
        futures_util::stream::iter(uids)
            .for_each_concurrent(AT_ONCE, async |uid| self.read(&uid).await)
            .await;
    }

    async fn read(&self, uid: &str) {
        let Some(address) = self.pods().get(uid).map(|pod| pod.address.clone()) else { return };
        let (result, load) = match self.reader.read(&address).await {
            Ok(text) => match engines::load(&text) {
                Some(load) => ("ok", Some(load)),
                None => ("unknown", None),
            },
            // One that starts or ends does not answer, and has no value then.
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                tracing::debug!(address, error, "failed to read a pod's metrics");
                ("failed", None)
            }
        };
        self.metrics.add(&table::SCRAPES, &[result], 1.0);
        let at = self.now();
        if let (Some(load), Some(pod)) = (load, self.pods().get_mut(uid)) {
            pod.history.add(at, load);
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Followed>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
