//! What a cluster does by itself: Deployments make Pods, Pods run, Services find them, Jobs end.
//!
//! Every actor works through the API alone, with a client, so that the same scenario runs on a real API server that has no
//! controllers. Each looks at everything again whenever something that it watches has changed; what it then does is decided by pure
//! functions. [`Fate`] and [`JobFate`] let a test say how pods and jobs fare.

mod api;
mod deployments;
mod endpoints;
mod groups;
mod jobs;
mod kubelet;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, select_all};
use futures_util::{FutureExt, StreamExt};
use kube::Client;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use jobs::JobFate;
pub use kubelet::{Fate, NODE, PORT_ANNOTATION};

use api::Things;

/// A failed round is tried again after this, also when nothing changes.
const AGAIN: Duration = Duration::from_millis(50);

/// A running actor. It ends when this is dropped.
#[derive(Debug)]
pub struct Actor {
    task: JoinHandle<()>,
    nudge: Arc<Notify>,
}

impl Actor {
    /// Makes it look again: what a test says of pods or jobs has changed.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes Pods of Deployments, rolls them over, and writes the Deployments' status.
pub fn deployments(client: &Client) -> Actor {
    let (deployments, pods) = (Things::deployments(client), Things::pods(client));
    let watched = vec![deployments.clone(), pods.clone()];
    actor(watched, move || deployments::round(deployments.clone(), pods.clone()))
}

/// Makes groups of Pods of LeaderWorkerSets, and writes their status. The kind must be installed.
pub fn leader_worker_sets(client: &Client) -> Actor {
    let (sets, pods) = (Things::groups(client), Things::pods(client));
    let watched = vec![sets.clone(), pods.clone()];
    actor(watched, move || groups::round(sets.clone(), pods.clone()))
}

/// Schedules Pods and gives each the fate that `fate` says; it is asked again in every round, with the Pod as it is.
pub fn kubelet(client: &Client, fate: impl Fn(&serde_json::Value) -> Fate + Send + Sync + 'static) -> Actor {
    let pods = Things::pods(client);
    let kubelet = Arc::new(kubelet::Kubelet::new(pods.clone(), Box::new(fate)));
    actor(vec![pods], move || Arc::clone(&kubelet).round())
}

/// Keeps EndpointSlices of Services that select Pods.
pub fn endpoints(client: &Client) -> Actor {
    let (services, pods, slices) = (Things::services(client), Things::pods(client), Things::slices(client));
    let watched = vec![services.clone(), pods.clone()];
    actor(watched, move || endpoints::round(services.clone(), pods.clone(), slices.clone()))
}

/// Ends Jobs as `fate` says; it is asked again in every round, with the Job as it is.
pub fn jobs(client: &Client, fate: impl Fn(&serde_json::Value) -> JobFate + Send + Sync + 'static) -> Actor {
    let jobs = Things::jobs(client);
    let runner = Arc::new(jobs::Runner::new(jobs.clone(), Box::new(fate)));
    actor(vec![jobs], move || Arc::clone(&runner).round())
}

/// When a round wants to be called again.
pub(crate) enum Next {
    /// When something changes.
    Change,
    /// After this, or when something changes.
    After(Duration),
}

/// Calls `round` at the start and whenever something has changed.
fn actor<F, R>(watched: Vec<Things>, round: F) -> Actor
where
    F: Fn() -> R + Send + 'static,
    R: Future<Output = kube::Result<Next>> + Send,
{
    let nudge = Arc::new(Notify::new());
    let nudged = Arc::clone(&nudge);
    let task = tokio::spawn(async move {
        let changes = watched.iter().map(changes);
        let mut changes = select_all(changes);
        let mut next = Next::After(Duration::ZERO);
        loop {
            match next {
                Next::Change => tokio::select! {
                    _ = changes.next() => {}
                    () = nudged.notified() => {}
                },
                Next::After(time) => tokio::select! {
                    _ = changes.next() => {}
                    () = nudged.notified() => {}
                    () = tokio::time::sleep(time) => {}
                },
            }
            // One round answers for all that has changed until now.
            while changes.next().now_or_never().flatten().is_some() {}
            next = match round().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "a round failed and is tried again");
                    Next::After(AGAIN)
                }
            };
        }
    });
    Actor { task, nudge }
}

fn changes(things: &Things) -> BoxStream<'static, ()> {
    let stream = watcher(things.api().clone(), watcher::Config::default()).default_backoff();
    stream.map(drop).boxed()
}
