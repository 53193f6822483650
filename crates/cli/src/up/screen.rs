//! What `wharf up` shows while it runs: on a terminal lines for each service and its replicas that are kept up to date, elsewhere a line for each event.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use wharf_api::console::{EventView, ReplicaView, ServiceView};
use wharf_gateway::{Addresses, Handle};
use wharf_local::{Listener, Shown};

/// How often lines are brought up to date.
const EVERY: Duration = Duration::from_millis(500);
/// Replicas of a service that have lines of their own; `wharf ps` shows the others.
const LINES: usize = 6;

/// Where things are shown.
pub(super) struct Screen {
    /// Lines that change, on a terminal.
    lines: Option<MultiProgress>,
    bars: Bars,
}

impl Screen {
    pub(super) fn new() -> Screen {
        let lines = std::io::stderr().is_terminal().then(MultiProgress::new);
        Screen { lines, bars: Arc::default() }
    }

    /// Shows events.
    pub(super) fn listener(&self) -> Listener {
        let lines = self.lines.clone();
        Arc::new(move |service, event| print(lines.as_ref(), &event_line(service, event)))
    }

    /// Says where everything is, and begins to show how it is. Call it within a runtime.
    pub(super) fn begin(&self, addresses: Addresses, gateway: Handle, shown: Arc<Shown>) {
        let scheme = |https: bool| if https { "https" } else { "http" };
        let (address, https) = addresses.https.map_or((addresses.http, false), |address| (address, true));
        let base = format!("{}://{address}", scheme(https));
        print(self.lines.as_ref(), &format!("API      {base}/v1"));
        print(self.lines.as_ref(), &format!("Console  {base}/console"));
        let Some(lines) = self.lines.clone() else { return };
        let bars = Arc::clone(&self.bars);
        tokio::spawn(async move {
            loop {
                show(&lines, &bars, &shown.overview(&gateway).services);
                tokio::time::sleep(EVERY).await;
            }
        });
    }

    /// Leaves the terminal as it was.
    pub(super) fn end(&self) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        bars.iter().for_each(ProgressBar::finish_and_clear);
        bars.clear();
    }
}

type Bars = Arc<Mutex<Vec<ProgressBar>>>;

/// Brings the lines up to date.
fn show(lines: &MultiProgress, bars: &Bars, services: &[ServiceView]) {
    let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<String> = services.iter().flat_map(rows).collect();
    while bars.len() < rows.len() {
        let style = ProgressStyle::with_template("{wide_msg}").expect("well-formed");
        bars.push(lines.add(ProgressBar::new(1).with_style(style)));
    }
    for bar in bars.drain(rows.len()..) {
        lines.remove(&bar);
    }
    bars.iter().zip(rows).for_each(|(bar, row)| bar.set_message(row));
}

/// A line above those that change, or just a line.
fn print(lines: Option<&MultiProgress>, line: &str) {
    // Nobody is left to be told where standard error is closed.
    match lines {
        Some(lines) => drop(lines.println(line)),
        None => drop(writeln!(std::io::stderr(), "{line}")),
    }
}

fn event_line(service: &str, event: &EventView) -> String {
    let at = i64::try_from(event.at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let at = at.unwrap_or_default().strftime("%H:%M:%S").to_string();
    let mark = if event.warning { "!" } else { " " };
    format!("{at} {mark} {service}  {}: {}", event.reason, event.message)
}

/// A service and its replicas.
fn rows(service: &ServiceView) -> Vec<String> {
    let replicas = service.facts.as_ref().map_or(&[][..], |facts| &facts.replicas);
    let mut rows = vec![service_line(service)];
    rows.extend(replicas.iter().take(LINES).map(|replica| replica_line(service, replica)));
    if replicas.len() > LINES {
        rows.push(format!("  and {} more: wharf ps", replicas.len() - LINES));
    }
    rows
}

/// A replica in one line, with what it waits for.
fn replica_line(service: &ServiceView, replica: &ReplicaView) -> String {
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.address == replica.address);
    let load = endpoint.map_or_else(String::new, |endpoint| {
        format!("  {} in flight  KV {:.0}%", endpoint.in_flight, endpoint.kv_cache * 100.0)
    });
    let why = if replica.reason.is_empty() { String::new() } else { format!("  ({})", replica.reason) };
    format!("  {}  {}{load}{why}", replica.name, replica.state)
}

/// A service in one line.
fn service_line(service: &ServiceView) -> String {
    let facts = service.facts.clone().unwrap_or_default();
    let ready = facts.replicas.iter().filter(|replica| replica.state == "ready").count();
    let rates = &service.rates;
    let ready_endpoints: Vec<f64> = service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready)
        .map(|endpoint| endpoint.kv_cache)
        .collect();
    let kv = ready_endpoints.iter().copied().fold(0.0, f64::max);
    let latency = rates.first_token_p95_ms.map_or_else(String::new, |ms| format!("  TTFT p95 {ms:.0} ms"));
    let why = match facts.phase.as_str() {
        "Ready" => String::new(),
        _ => format!("  ({})", facts.message),
    };
    format!(
        "{}  {}  {ready}/{} replicas  {:.1} req/s  {:.1} tok/s{latency}  queue {}  KV {:.0}%{why}",
        service.name,
        facts.phase,
        facts.wanted,
        rates.requests_per_second,
        rates.tokens_per_second,
        service.demand.queued,
        kv * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use wharf_api::console::{EndpointView, Rates, ServiceFacts};

    use super::*;

    #[test]
    fn a_service_is_one_line_and_says_why_when_it_is_not_ready() {
        let facts = ServiceFacts {
            phase: "Preparing".into(),
            message: "`wharf fetch` runs".into(),
            wanted: 1,
            ..ServiceFacts::default()
        };
        let rates = Rates { requests_per_second: 2.0, first_token_p95_ms: Some(120.4), ..Rates::default() };
        let service = ServiceView { name: "a".into(), facts: Some(facts), rates, ..ServiceView::default() };
        let line = service_line(&service);
        assert_eq!(
            line,
            "a  Preparing  0/1 replicas  2.0 req/s  0.0 tok/s  TTFT p95 120 ms  queue 0  KV 0%  (`wharf fetch` runs)"
        );
    }

    #[test]
    fn replicas_have_lines_with_their_states_and_reasons_and_many_are_counted() {
        let replica = |number: u32, state: &str, reason: &str| ReplicaView {
            name: format!("a-blue-{number}"),
            address: format!("127.0.0.1:{number}"),
            state: state.into(),
            reason: reason.into(),
            ..ReplicaView::default()
        };
        let endpoint = EndpointView {
            address: "127.0.0.1:1".into(),
            in_flight: 3,
            kv_cache: 0.25,
            ..EndpointView::default()
        };
        let with = |replicas: Vec<ReplicaView>| ServiceView {
            name: "a".into(),
            facts: Some(ServiceFacts { replicas, ..ServiceFacts::default() }),
            endpoints: vec![endpoint.clone()],
            ..ServiceView::default()
        };
        let two = with(vec![replica(1, "ready", ""), replica(2, "waiting", "does not fit")]);
        let expected = ["  a-blue-1  ready  3 in flight  KV 25%", "  a-blue-2  waiting  (does not fit)"];
        assert_eq!(rows(&two)[1..], expected);
        let many = with((1..=9).map(|number| replica(number, "ready", "")).collect());
        assert_eq!((rows(&many).len(), rows(&many)[7].as_str()), (8, "  and 3 more: wharf ps"));
    }

    #[test]
    fn a_warning_is_marked() {
        let event = EventView {
            at_ms: 3_723_000,
            warning: true,
            reason: "ReplicaExited".into(),
            message: "it ended".into(),
        };
        assert_eq!(event_line("a", &event), "01:02:03 ! a  ReplicaExited: it ended");
    }
}
