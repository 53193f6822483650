//! Asks gateways over HTTP: which shares they follow when somebody wants to know, what is asked of them all the time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use reqwest::Client;
use serde::Deserialize;
use tokio::sync::{Notify, broadcast};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wharf_api::demand::DemandReport;
use wharf_spec::service::Traffic;

use super::{Gateways, Heard, of_service};
use crate::probe::address;

/// How long a gateway may take to answer; its stream says something more often than that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Gateways are asked at most this often, for all services together.
const FRESH: Duration = Duration::from_millis(500);
/// A line of the demand stream longer than this is no such line.
const LONGEST_LINE: usize = 64 << 20;
/// Lines that wait for an autoscaler that is slow; each says everything, so older ones are no loss.
const LINES: usize = 16;
/// A stream that broke off is asked for again after this, and later each time up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Asks the pods of the gateway on the port that they call `metrics`.
pub struct HttpGateways {
    client: Client,
    pods: Store<DynamicObject>,
    shares: tokio::sync::Mutex<Option<(Instant, HashMap<String, TrafficReport>)>>,
    latest: Arc<Latest>,
    /// Follows the streams; ends with this.
    _followers: JoinSet<()>,
}

/// The answer of `GET /wharf/v1/traffic`, as the gateway defines it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TrafficReport {
    pub(super) services: BTreeMap<String, Vec<Traffic>>,
}

/// What streams said last, by address.
struct Latest {
    reports: Mutex<HashMap<String, Arc<DemandReport>>>,
    lines: broadcast::Sender<Arc<DemandReport>>,
}

impl HttpGateways {
    /// Asks these pods. `changed` tells that they are others.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(
        pods: Store<DynamicObject>,
        changed: Arc<Notify>,
    ) -> Result<HttpGateways, reqwest::Error> {
        let client = Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE).build()?;
        let latest = Arc::new(Latest { reports: Mutex::default(), lines: broadcast::channel(LINES).0 });
        let mut followers = JoinSet::new();
        followers.spawn(follow_all(client.clone(), pods.clone(), Arc::clone(&latest), changed));
        Ok(HttpGateways { client, pods, shares: Default::default(), latest, _followers: followers })
    }

    async fn shares(&self, address: &str) -> reqwest::Result<TrafficReport> {
        let answer = self.client.get(format!("http://{address}/wharf/v1/traffic")).send().await?;
        answer.error_for_status()?.json().await
    }

    async fn all_shares(&self) -> HashMap<String, TrafficReport> {
        let addresses = addresses(&self.pods);
        let asked = addresses.into_iter().map(async |address| match self.shares(&address).await {
            Ok(report) => Some((address, report)),
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                tracing::warn!(address, error, "a gateway did not say which shares it follows");
                None
            }
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl Gateways for HttpGateways {
    async fn hear(&self, service: &str) -> Vec<Heard> {
        let mut shares = self.shares.lock().await;
        let fresh = shares.as_ref().is_some_and(|(when, _)| when.elapsed() < FRESH);
        if !fresh {
            *shares = Some((Instant::now(), self.all_shares().await));
        }
        let Some((_, shares)) = &*shares else { return Vec::new() };
        let reports = self.latest.reports();
        let both = shares.iter().filter_map(|(address, shares)| Some((shares, reports.get(address)?)));
        both.map(|(shares, demand)| of_service(shares, demand, service)).collect()
    }

    fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>> {
        self.latest.lines.subscribe()
    }

    fn followed(&self) -> usize {
        self.latest.reports().len()
    }
}

impl Latest {
    fn reports(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<DemandReport>>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, address: &str, report: DemandReport) {
        let report = Arc::new(report);
        self.reports().insert(address.to_owned(), Arc::clone(&report));
        // Nobody may want to know.
        let _ = self.lines.send(report);
    }
}

/// `host:port` of every pod that is not on its way out.
fn addresses(pods: &Store<DynamicObject>) -> Vec<String> {
    let pods = pods.state();
    let alive = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive.filter_map(|pod| address(pod, "metrics")).collect()
}

/// One follower for each pod that there is, for as long as it is there.
async fn follow_all(client: Client, pods: Store<DynamicObject>, latest: Arc<Latest>, changed: Arc<Notify>) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let told = changed.notified();
        let wanted = addresses(&pods);
        running.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
                latest.reports().remove(address);
            }
            stays
        });
        for address in wanted {
            running
                .entry(address.clone())
                .or_insert_with(|| tasks.spawn(follow(client.clone(), address, Arc::clone(&latest))));
        }
        told.await;
    }
}

/// Follows the stream of one gateway, and begins again when it breaks off.
async fn follow(client: Client, address: String, latest: Arc<Latest>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let heard = |report| latest.hear(&address, report);
        let (lines, why) = read(&client, &address, heard).await;
        // What it said last is not what it would say now.
        latest.reports().remove(&address);
        tracing::debug!(address, why, "a demand stream ended");
        pause = if lines > 0 { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

/// Reads a stream to its end. Returns how many lines it had, and why it ended.
async fn read(client: &Client, address: &str, heard: impl Fn(DemandReport)) -> (u64, String) {
    let failed = |error: reqwest::Error| wharf_telemetry::log::chain(&error);
    let asked = client.get(format!("http://{address}/wharf/v1/demand")).send().await;
    let mut stream = match asked.and_then(reqwest::Response::error_for_status) {
        Ok(stream) => stream,
        Err(error) => return (0, failed(error)),
    };
    let mut rest: Vec<u8> = Vec::new();
    let mut lines = 0;
    loop {
        let chunk = match stream.chunk().await {
            Ok(Some(chunk)) if rest.len() + chunk.len() <= LONGEST_LINE => chunk,
            Ok(Some(_)) => return (lines, "a line is too long".to_owned()),
            Ok(None) => return (lines, "the gateway ended it".to_owned()),
            Err(error) => return (lines, failed(error)),
        };
        rest.extend_from_slice(&chunk);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        // Each line says everything: of several that came together the last is enough.
        let Some(last) = whole.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()) else { continue };
        match serde_json::from_slice(last) {
            Ok(report) => heard(report),
            Err(error) => return (lines, format!("a line is no report: {error}")),
        }
        lines += 1;
    }
}
