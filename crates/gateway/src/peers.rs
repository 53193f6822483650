//! What the gateways tell each other, so that a limit holds over all of them: each asks every other one several times a second what its keys
//! used and what it holds of their limits. How limits follow from that is decided in `wharf_access::shares`.
//!
//! Reports are only given to, and only believed of, those who know one secret. A gateway that cannot be heard or believed keeps its part of
//! every limit: nothing that goes wrong here lets in more.

mod known;

use std::collections::{BTreeSet, HashMap};
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use wharf_access::shares::{PeerSecret, SecretError, UsageReport};
use wharf_access::{Limiter, Moment};
use wharf_api::ApiError;
use wharf_telemetry::log::chain;
use wharf_telemetry::metrics::{Metrics, gateway as table};

use crate::answer::{self, Answer};
use crate::config::PeersConfig;
use crate::shared::Shared;
use known::Known;

/// Where a gateway tells the others what its keys used.
pub(crate) const USAGE_PATH: &str = "/wharf/v1/usage";

/// A number that the asker never used before.
const NONCE: &str = "x-wharf-nonce";
/// The signature of what is asked, or of what is answered.
const SIGNATURE: &str = "x-wharf-signature";

/// How often each of the others is asked.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long an answer may take; a gateway that needs longer is not heard.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever asks within this time of another gets the same report.
const REPORT_HOLDS: Duration = Duration::from_millis(100);
/// How often names are looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);
/// How often tasks are compared with addresses.
const COMPARE: Duration = Duration::from_millis(200);
/// Larger answers are no reports: 20,000 callers of many gateways are less.
const MAX_BYTES: usize = 64 << 20;
/// Complaints about strangers are at least this far apart.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The other gateways.
pub(crate) struct Peers {
    name: String,
    secret: PeerSecret,
    known: Mutex<Known>,
    /// What the limiter was told last.
    told: Mutex<BTreeSet<String>>,
    /// The last report, and when it was made.
    report: Mutex<Option<(Instant, Bytes)>>,
    complained: Mutex<Option<Instant>>,
}

/// Why a gateway was not heard.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("nobody listens there")]
    Nobody,
    #[error("failed to ask")]
    Unreachable(#[source] reqwest::Error),
    #[error("it does not believe that we know the gateways' secret")]
    Refused,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is not signed with the gateways' secret")]
    Forged,
    #[error("its answer has more than 64 MiB")]
    Large,
    #[error("failed to read its report")]
    Unreadable(#[source] serde_json::Error),
    #[error("failed to sign")]
    Sign(#[source] SecretError),
}

impl Unheard {
    /// As the metric has it.
    fn result(&self) -> &'static str {
        match self {
            Unheard::Nobody | Unheard::Unreachable(_) | Unheard::Sign(_) => "unreachable",
            Unheard::Refused => "refused",
            Unheard::Forged => "forged",
            Unheard::Status(_) | Unheard::Large | Unheard::Unreadable(_) => "unreadable",
        }
    }
}

impl Peers {
    /// Reads the secret. The name is made unlike every other's, since limits are divided by names and copies of one configuration have but one.
    pub(crate) fn new(name: &str, config: &PeersConfig) -> Result<Peers, SecretError> {
        let secret = PeerSecret::read(&config.key_file)?;
        let name = format!("{name}-{}", PeerSecret::nonce()?);
        let known = Mutex::new(Known::new(&name, &config.addresses));
        Ok(Peers {
            name,
            secret,
            known,
            told: Mutex::default(),
            report: Mutex::default(),
            complained: Mutex::default(),
        })
    }

    /// This gateway's name among the others.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Tells the limiter who should be there, if that has changed.
    pub(crate) fn tell(&self, limiter: &Limiter) {
        // Held before the names are read, so that the newest are told last.
        let mut told = lock(&self.told);
        let names = lock(&self.known).names();
        if *told != names {
            let me = self.name.clone();
            let all: Vec<String> = names.iter().cloned().chain([me]).collect();
            limiter.gateways(Moment::now(), &all);
            *told = names;
        }
    }

    /// Brings the metrics up to date.
    pub(crate) fn show(&self, metrics: &Metrics) {
        let known = lock(&self.known);
        let heard = known.heard_lately(Instant::now());
        metrics.set(&table::PEERS, &["heard"], heard as f64);
        metrics.set(&table::PEERS, &["missing"], known.names().len().saturating_sub(heard) as f64);
    }

    /// The report, as it is now or was a moment ago: making one costs as much as there are keys, whoever asks for it.
    fn report(&self, limiter: &Limiter) -> Bytes {
        let mut last = lock(&self.report);
        match &*last {
            Some((made, body)) if made.elapsed() < REPORT_HOLDS => body.clone(),
            _ => {
                // Names and numbers always have a form in JSON.
                let body = serde_json::to_vec(&limiter.report(Moment::now())).unwrap_or_default();
                let body = Bytes::from(body);
                *last = Some((Instant::now(), body.clone()));
                body
            }
        }
    }

    /// One complaint a minute is enough about somebody who asks all the time.
    fn may_complain(&self) -> bool {
        let mut last = lock(&self.complained);
        let may = last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// Answers whoever asks what was used here.
pub(crate) fn answer(shared: &Shared, headers: &HeaderMap) -> Response<Answer> {
    let Some(peers) = &shared.peers else {
        let (method, path) = ("GET".to_owned(), USAGE_PATH.to_owned());
        return answer::failure(&ApiError::NotFound { method, path });
    };
    let header =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let nonce = header(NONCE);
    if !peers.secret.asks(nonce, header(SIGNATURE)) {
        shared.metrics.add(&table::PEER_ASKS_REFUSED, &[], 1.0);
        if peers.may_complain() {
            tracing::warn!(
                "somebody who does not know the gateways' secret asked what keys have used, and was refused"
            );
        }
        let message = "the request is not signed with the gateways' secret".to_owned();
        return answer::failure(&ApiError::InvalidApiKey(message));
    }
    let body = peers.report(&shared.limiter);
    let signature = peers.secret.sign_report(nonce, &body);
    let mut response = answer::json_bytes(body);
    if let Ok(signature) = HeaderValue::try_from(signature) {
        response.headers_mut().insert(SIGNATURE, signature);
    }
    response
}

/// Asks all others, for as long as the gateway runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(peers) = &shared.peers else { return };
    // Nobody but the list and its name servers says where gateways are: no proxy, no redirect.
    let client = reqwest::Client::builder()
        .timeout(ASK_TIMEOUT)
        .pool_max_idle_per_host(1)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            return tracing::error!(error = %chain(&error), "failed to set up asking the other gateways; this one keeps to its part of each limit");
        }
    };
    let mut tasks = JoinSet::new();
    for entry in lock(&peers.known).to_look_up() {
        tasks.spawn(look_up(Arc::clone(&shared), entry));
    }
    let mut asking: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    let mut compare = interval(COMPARE);
    loop {
        compare.tick().await;
        let wanted: BTreeSet<SocketAddr> = lock(&peers.known).to_ask().collect();
        asking.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for address in wanted {
            asking
                .entry(address)
                .or_insert_with(|| tasks.spawn(ask_always(Arc::clone(&shared), client.clone(), address)));
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Keeps the addresses of a name. While it cannot be looked up they stay as they were.
async fn look_up(shared: Arc<Shared>, entry: String) {
    let Some(peers) = &shared.peers else { return };
    let mut complained = false;
    loop {
        match tokio::net::lookup_host(&entry).await {
            Ok(addresses) => {
                complained = false;
                lock(&peers.known).resolved(&entry, addresses.collect());
                peers.tell(&shared.limiter);
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(name = entry, error = %chain(&error), "failed to look up the other gateways; they stay as they were");
                }
            }
        }
        sleep(LOOK_UP_EVERY).await;
    }
}

/// Asks one of the others again and again; says so when it begins to fail, and when it ends.
async fn ask_always(shared: Arc<Shared>, client: reqwest::Client, address: SocketAddr) {
    let Some(peers) = &shared.peers else { return };
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = "";
    loop {
        ticks.tick().await;
        let heard = ask(&client, &peers.secret, address).await;
        let result = heard.as_ref().map_or_else(Unheard::result, |_| "ok");
        shared.metrics.add(&table::PEER_REPORTS, &[result], 1.0);
        match &heard {
            Err(error) if trouble != result => {
                tracing::warn!(%address, error = %chain(error), "another gateway is not heard; its part of each limit stays its own");
            }
            Ok(report) if !trouble.is_empty() => {
                tracing::info!(%address, gateway = report.gateway, "another gateway is heard again")
            }
            Ok(_) | Err(_) => {}
        }
        trouble = if heard.is_ok() { "" } else { result };
        take(&shared, peers, address, heard);
    }
}

/// Takes what came of asking.
fn take(shared: &Shared, peers: &Peers, address: SocketAddr, heard: Result<UsageReport, Unheard>) {
    let now = Instant::now();
    let report = {
        let mut known = lock(&peers.known);
        match heard {
            Ok(report) => known.heard(address, &report.gateway, now).then_some(report),
            Err(Unheard::Nobody) => {
                known.refused(address, now);
                None
            }
            Err(_) => {
                known.silent(address);
                None
            }
        }
    };
    // The limiter learns the name before the report, so that nobody is counted twice: by address and by name.
    peers.tell(&shared.limiter);
    if let Some(report) = report {
        shared.limiter.merge(Moment::now(), &report);
    }
}

async fn ask(
    client: &reqwest::Client,
    secret: &PeerSecret,
    address: SocketAddr,
) -> Result<UsageReport, Unheard> {
    let nonce = PeerSecret::nonce().map_err(Unheard::Sign)?;
    let request = client.get(format!("http://{address}{USAGE_PATH}"));
    let request = request.header(NONCE, &nonce).header(SIGNATURE, secret.sign_ask(&nonce));
    let mut response = request.send().await.map_err(unreachable)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(Unheard::Refused),
        other => return Err(Unheard::Status(other)),
    }
    let signature = response.headers().get(SIGNATURE).and_then(|value| value.to_str().ok());
    let signature = signature.ok_or(Unheard::Forged)?.to_owned();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BYTES {
            return Err(Unheard::Large);
        }
    }
    if !secret.reports(&nonce, &body, &signature) {
        return Err(Unheard::Forged);
    }
    serde_json::from_slice(&body).map_err(Unheard::Unreadable)
}

/// A refused connection is an answer: no process listens there.
fn unreachable(error: reqwest::Error) -> Unheard {
    let mut cause = error.source();
    while let Some(source) = cause {
        if source.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            return Unheard::Nobody;
        }
        cause = source.source();
    }
    Unheard::Unreachable(error)
}

/// A panic elsewhere leaves nothing half done: each of these is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
