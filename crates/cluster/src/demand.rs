//! What gateways are asked for: their demand streams, followed for as long as they are there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use reqwest::Client;
use tokio::sync::{Notify, broadcast};
use tokio::task::{AbortHandle, JoinSet};
use wharf_api::demand::DemandReport;

use crate::address::{Find, addresses};

/// A line of the demand stream longer than this is no such line.
const LONGEST_LINE: usize = 64 << 20;
/// Lines that wait for a reader that is slow; each says everything, so older ones are no loss.
const LINES: usize = 16;
/// A stream that broke off is asked for again after this, and later each time up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The demand streams of all gateways. They are followed until this is dropped.
pub struct DemandStreams {
    latest: Arc<Latest>,
    _followers: JoinSet<()>,
}

/// What streams said last, by address.
struct Latest {
    reports: Mutex<HashMap<String, Arc<DemandReport>>>,
    lines: broadcast::Sender<Arc<DemandReport>>,
}

impl DemandStreams {
    /// Follows the streams of these pods, where `find` finds their port `metrics`. `changed` tells that they are others.
    pub fn follow(
        client: Client,
        pods: Store<DynamicObject>,
        changed: Arc<Notify>,
        find: Find,
    ) -> DemandStreams {
        let latest = Arc::new(Latest { reports: Mutex::default(), lines: broadcast::channel(LINES).0 });
        let mut followers = JoinSet::new();
        let wanted = move || addresses(&pods, "metrics", find);
        followers.spawn(follow_all(client, wanted, Arc::clone(&latest), changed));
        DemandStreams { latest, _followers: followers }
    }

    /// What each gateway that is followed said last, by its address.
    pub fn reports(&self) -> HashMap<String, Arc<DemandReport>> {
        self.latest.reports().clone()
    }

    /// Everything that they say from now on.
    pub fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>> {
        self.latest.lines.subscribe()
    }

    /// How many say something.
    pub fn followed(&self) -> usize {
        self.latest.reports().len()
    }
}

impl Latest {
    fn reports(&self) -> MutexGuard<'_, HashMap<String, Arc<DemandReport>>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, address: &str, report: DemandReport) {
        let report = Arc::new(report);
        self.reports().insert(address.to_owned(), Arc::clone(&report));
        // Nobody may want to know.
        let _ = self.lines.send(report);
    }
}

/// One follower for each pod that there is, for as long as it is there.
async fn follow_all(
    client: Client,
    wanted: impl Fn() -> Vec<String>,
    latest: Arc<Latest>,
    changed: Arc<Notify>,
) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let told = changed.notified();
        let wanted = wanted();
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
