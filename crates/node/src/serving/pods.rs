//! Reads what the model servers of this node say of themselves, in the background: a scrape of the agent waits for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::Store;
use kube::runtime::watcher::Config;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wharf_cluster::{Changed, MetricsReader, address, follow};
use wharf_manifests::names::{COLOUR, PART, Part as PodPart, SERVICE};
use wharf_telemetry::engines::{Engine, engine};
use wharf_telemetry::log::chain;

use super::Served;
use crate::board::{Board, Part};

/// So many are read at the same time.
const AT_ONCE: usize = 16;
/// A watch that has not broken off again for so long works: it is tried more often than that.
const WORKS_AFTER: Duration = Duration::from_secs(90);

/// What a watch has told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    changes: u64,
    broke: Option<Instant>,
}

/// What pods said by their uid; nothing of one that did not answer, or not as an engine that we know.
type Known = BTreeMap<String, Option<Engine>>;

/// Keeps what is known of models fresh for as long as it is polled.
pub(crate) async fn run(board: &Board, client: &Client) {
    let reader = match MetricsReader::new(address) {
        Ok(reader) => reader,
        Err(error) => {
            let why = format!("failed to prepare an HTTP client: {}", chain(&error));
            return board.say(Part::Serving, false, "NoClient", why);
        }
    };
    // It ends with us, and the watch with it.
    let mut tasks = JoinSet::new();
    let (pods, mut told) = of_node(client, &board.node, &mut tasks);
    {
        let mut listed = std::pin::pin!(pods.wait_until_ready());
        loop {
            tokio::select! {
                _ = &mut listed => break,
                _ = told.changed() => say_unavailable(board),
            }
        }
    }
    let every = Duration::from_secs_f64(board.config.exporter.serving_every);
    let mut due = Instant::now();
    let mut known = Known::new();
    loop {
        // One that comes is read at once, one that goes is told of no more; the others have their time.
        if Instant::now() >= due {
            known.clear();
            due = Instant::now() + every;
        }
        let broke = told.borrow_and_update().broke;
        let pods = running(&pods);
        known.retain(|uid, _| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
        read_new(&pods, &reader, &mut known).await;
        board.serve(pods.iter().filter_map(|pod| served(pod, &known)).collect());
        match broke {
            Some(broke) if broke.elapsed() < WORKS_AFTER => say_unavailable(board),
            _ => say_answers(board, &pods, &known),
        }
        tokio::select! {
            () = sleep_until(due) => {}
            _ = told.changed() => {}
        }
    }
}

/// Follows the model servers of a node, and of no other.
fn of_node(
    client: &Client,
    node: &str,
    tasks: &mut JoinSet<()>,
) -> (Store<DynamicObject>, watch::Receiver<Told>) {
    let config = Config::default()
        .labels(&format!("{PART}={}", PodPart::Server.name()))
        .fields(&format!("spec.nodeName={node}"));
    let resource = ApiResource::erase::<Pod>(&());
    let (tell, told) = watch::channel(Told::default());
    let tell = move |changed| {
        tell.send_modify(|told| {
            told.changes += 1;
            if let Changed::Broke(_) = changed {
                told.broke = Some(Instant::now());
            }
        });
    };
    (follow(wharf_cluster::api(client, None, &resource), &resource, config, tell, tasks), told)
}

/// Those that have not ended, in order. The address of one that has may be another's by now.
fn running(pods: &Store<DynamicObject>) -> Vec<Arc<DynamicObject>> {
    let has_ended =
        |pod: &DynamicObject| matches!(pod.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let mut pods: Vec<_> = pods.state().into_iter().filter(|pod| !has_ended(pod)).collect();
    pods.sort_by_key(|pod| (pod.namespace(), pod.name_any()));
    pods
}

/// Asks those of which nothing is known. One without an address yet is asked when it has one.
async fn read_new(pods: &[Arc<DynamicObject>], reader: &MetricsReader, known: &mut Known) {
    let new: Vec<(String, String)> = pods
        .iter()
        .filter_map(|pod| Some((pod.metadata.uid.clone()?, reader.address(pod)?)))
        .filter(|(uid, _)| !known.contains_key(uid))
        .collect();
    let reading = new.into_iter().map(async |(uid, address)| (uid, read(reader, &address).await));
    let read: Vec<_> = futures_util::stream::iter(reading).buffer_unordered(AT_ONCE).collect().await;
    known.extend(read);
}

async fn read(reader: &MetricsReader, address: &str) -> Option<Engine> {
    match reader.read(address).await {
        Ok(text) => engine(&text),
        Err(error) => {
            // One that starts or ends does not answer.
            tracing::debug!(address, error = %chain(&error), "failed to read a pod's metrics");
            None
        }
    }
}

fn served(pod: &DynamicObject, known: &Known) -> Option<Served> {
    let engine = known.get(pod.metadata.uid.as_ref()?)?.clone()?;
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    Some(Served {
        namespace: pod.namespace().unwrap_or_default(),
        pod: pod.name_any(),
        service: label(SERVICE),
        colour: label(COLOUR),
        engine,
    })
}

fn say_answers(board: &Board, pods: &[Arc<DynamicObject>], known: &Known) {
    let silent: Vec<String> = pods
        .iter()
        .filter(|pod| served(pod, known).is_none())
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    if pods.is_empty() {
        return board.say(Part::Serving, true, "Known", "no model server runs on this node");
    }
    let (answer, all) = (pods.len() - silent.len(), pods.len());
    let message = format!("{answer} of {all} model servers of this node answer");
    match silent.as_slice() {
        [] => board.say(Part::Serving, true, "Known", message),
        // Whether they should is for others to say: some are starting.
        silent => {
            let message = format!("{message}; metrics are without {}", silent.join(", "));
            board.say(Part::Serving, true, "KnownPartly", message);
        }
    }
}

fn say_unavailable(board: &Board) {
    let message = "failed to watch this node's pods: the log says why; the right to list and watch pods is \
                   needed, and what was seen last holds";
    board.say(Part::Serving, false, "ClusterUnavailable", message);
}
