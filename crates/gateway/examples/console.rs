//! A demonstration of the console with fakes: the gateway is real, its model servers compute nothing, and what is said of replicas, releases
//! and scaling is a play that repeats itself every two minutes. To try the page without a model, and for its browser tests.
//!
//! Arguments, both optional: a gateway's configuration, and a key for the load if that asks for keys. The first line of output is the address.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::time::sleep;
use wharf_api::console::{
    ColdStartView, EventView, ReplicaView, RolloutView, ScaleChange, ScalingView, ServiceFacts, VersionView,
};
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::config::EndpointConfig;
use wharf_gateway::console::Source;
use wharf_gateway::{Gateway, GatewayConfig, Handle, ServiceConfig};
use wharf_routing::{Endpoint, Share};

/// How long the second service takes to wake, and how long it is awake at least.
const STARTS_IN: Duration = Duration::from_secs(3);
const AWAKE: Duration = Duration::from_secs(12);
/// Seconds of the play.
const PLAY: u64 = 120;
/// What happens in it: when, whether somebody should look, why, and what.
const EVENTS: [(u64, bool, &str, &str); 9] = [
    (20, false, "Scaled", "2 to 3 replicas: 6 requests in flight for each, the target is 4"),
    (26, false, "ReplicaReady", "blue-2 answered its first prompts after 6 s"),
    (40, false, "ReleaseStarted", "generation 4 begins as green, beside generation 3"),
    (46, false, "ReplicaReady", "green-0 answered its first prompts after 6 s"),
    (50, false, "TrafficShifted", "10% of requests go to green"),
    (70, false, "TrafficShifted", "50% of requests go to green"),
    (80, false, "Scaled", "3 to 2 replicas: 1.5 requests in flight for each over the last minute"),
    (
        104,
        true,
        "RolledBack",
        "green: time to first token p95 was 0.9 s, beyond 0.5 s; all requests go to blue again",
    ),
    (110, false, "ReplicaStopped", "green-0 ended after its last answer"),
];

/// One of this repository's examples; the play does not read it.
const YAML: &str = include_str!("../../../examples/quickstart.yaml");

const MANIFESTS: &str = "\
# What the demonstration says in place of `wharf render`.
apiVersion: v1
kind: Service
metadata:
  name: assistant
  namespace: demo
spec:
  ports:
    - {name: http, port: 8080}
";

/// The play: the same for everybody who looks.
struct Play {
    began: Instant,
    began_ms: u64,
    /// The second service sleeps until somebody asks for it: since when it is awake.
    woken: Mutex<Option<Instant>>,
    /// Each time that it was woken and fell asleep.
    decisions: Mutex<Vec<ScaleChange>>,
    engines: Vec<FakeEngine>,
}

impl Play {
    /// Seconds into this performance, and when it began in milliseconds since 1970.
    fn now(&self) -> (u64, u64) {
        let passed = self.began.elapsed().as_secs();
        (passed % PLAY, self.began_ms + passed / PLAY * PLAY * 1000)
    }

    fn address(&self, engine: usize) -> String {
        self.engines[engine].address().to_string()
    }

    /// Name, engine, colour, state, reason and the second since which it is so.
    fn replicas(&self) -> Vec<(&'static str, usize, &'static str, &'static str, &'static str, u64)> {
        let (at, _) = self.now();
        let mut all = vec![("blue-0", 0, "blue", "ready", "", 0), ("blue-1", 1, "blue", "ready", "", 0)];
        match at {
            20..26 => all.push(("blue-2", 2, "blue", "starting", "loading the model", 20)),
            26..80 => all.push(("blue-2", 2, "blue", "ready", "", 26)),
            80..88 => all.push(("blue-2", 2, "blue", "draining", "two replicas are enough", 80)),
            _ => {}
        }
        match at {
            40..46 => all.push(("green-0", 3, "green", "starting", "warming up", 40)),
            46..104 => all.push(("green-0", 3, "green", "ready", "", 46)),
            104..110 => all.push(("green-0", 3, "green", "draining", "its release was rolled back", 104)),
            _ => {}
        }
        all
    }

    fn green_weight(&self) -> u32 {
        match self.now().0 {
            50..70 => 10,
            70..104 => 50,
            _ => 0,
        }
    }

    /// The first service as the gateway is told of it.
    fn assistant(&self) -> ServiceConfig {
        let mut service = ServiceConfig::new("demo/assistant", Vec::<String>::new());
        for (_, engine, colour, state, ..) in self.replicas() {
            let mut endpoint = Endpoint::ready(self.address(engine), colour);
            endpoint.ready = state != "starting";
            endpoint.draining = state == "draining";
            service.endpoints.push(EndpointConfig::Full(endpoint));
        }
        let green = self.green_weight();
        service.traffic = vec![
            Share { colour: "blue".to_owned(), weight: 100 - green },
            Share { colour: "green".to_owned(), weight: green },
        ];
        service
    }

    /// The second one: it has an endpoint so long after it was woken.
    fn coder(&self) -> ServiceConfig {
        let woken = *self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_up = woken.is_some_and(|at| at.elapsed() > STARTS_IN);
        ServiceConfig::new("demo/coder", is_up.then(|| self.address(4)))
    }

    fn assistant_facts(&self) -> ServiceFacts {
        let (at, began) = self.now();
        let ms = |second: u64| began + second * 1000;
        let replicas = self.replicas();
        let green = self.green_weight();
        let count = |colour: &str, state: &str| {
            replicas.iter().filter(|r| r.2 == colour && (state.is_empty() || r.3 == state)).count() as u32
        };
        let version = |colour: &str, generation: i64, weight: u32| VersionView {
            colour: colour.to_owned(),
            generation,
            weight,
            ready: count(colour, "ready"),
            wanted: count(colour, ""),
        };
        let (phase, since, reason) = match at {
            40..46 => ("Preparing", 40, "green-0 loads generation 4"),
            46..50 => ("Warming", 46, "green-0 answers its first prompts"),
            50..90 => ("Shifting", 50, "green answers as fast as blue; more requests go there step by step"),
            90..104 => ("Verifying", 90, "green is watched for 14 s before it gets everything"),
            104.. => ("RolledBack", 104, EVENTS[7].3),
            _ => ("Promoted", 0, "generation 3 answers all requests"),
        };
        let wanted = if (20..80).contains(&at) { 3 } else { 2 };
        let events = EVENTS.iter().filter(|(second, ..)| *second <= at);
        ServiceFacts {
            phase: if (40..104).contains(&at) { "RollingOut" } else { "Ready" }.to_owned(),
            message: "A play with fakes: it repeats itself every two minutes.".to_owned(),
            generation: 4,
            wanted: wanted + count("green", ""),
            bounds: (2, 4),
            replicas: replicas
                .iter()
                .map(|(name, engine, colour, state, reason, since)| ReplicaView {
                    name: (*name).to_owned(),
                    address: self.address(*engine),
                    colour: (*colour).to_owned(),
                    state: (*state).to_owned(),
                    reason: (*reason).to_owned(),
                    pid: Some(4000 + *engine as u32),
                    restarts: u32::from(*name == "blue-1"),
                    since_ms: ms(*since),
                })
                .collect(),
            versions: vec![version("blue", 3, 100 - green), version("green", 4, green)],
            rollout: Some(RolloutView {
                phase: phase.to_owned(),
                reason: reason.to_owned(),
                strategy: "BlueGreen".to_owned(),
                generation: if at < 40 { 3 } else { 4 },
                waits_for_promotion: false,
                since_ms: ms(since),
            }),
            scaling: Some(ScalingView {
                decided: wanted,
                reason: "requests in flight decide; the target is 4 for each replica".to_owned(),
                error: None,
                changes: [(20, 2, 3, EVENTS[0].3), (80, 3, 2, EVENTS[6].3)]
                    .into_iter()
                    .filter(|(second, ..)| *second <= at)
                    .map(|(second, from, to, why)| ScaleChange {
                        at_ms: ms(second),
                        from,
                        to,
                        reason: why.split_once(": ").map_or(why, |(_, reason)| reason).to_owned(),
                    })
                    .collect(),
            }),
            cold_start: Some(ColdStartView { schedule: 0.1, fetch: 2.8, load: 2.2, warm: 0.9 }),
            events: events
                .map(|(second, warning, reason, message)| EventView {
                    at_ms: ms(*second),
                    warning: *warning,
                    reason: (*reason).to_owned(),
                    message: (*message).to_owned(),
                })
                .collect(),
        }
    }

    fn coder_facts(&self) -> ServiceFacts {
        let woken = *self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let (phase, message) = match woken.map(|at| at.elapsed()) {
            None => ("Idle", "No replica runs since nobody asks; the next request starts one."),
            Some(passed) if passed <= STARTS_IN => ("Starting", "A request waits; a replica starts."),
            Some(_) => ("Ready", "One replica answers."),
        };
        let replica = woken.map(|_| ReplicaView {
            name: "coder-0".to_owned(),
            address: self.address(4),
            colour: "blue".to_owned(),
            state: phase.to_lowercase(),
            ..ReplicaView::default()
        });
        let changes = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = u32::from(woken.is_some());
        ServiceFacts {
            phase: phase.to_owned(),
            message: message.to_owned(),
            generation: 1,
            wanted,
            bounds: (0, 1),
            replicas: replica.into_iter().collect(),
            events: changes.iter().flat_map(|change| self.told(change)).collect(),
            cold_start: changes.first().map(|_| ColdStartView {
                load: 2.8,
                warm: 0.2,
                ..ColdStartView::default()
            }),
            scaling: Some(ScalingView {
                decided: wanted,
                reason: "requests that wait decide; nobody for a while means no replica".to_owned(),
                error: None,
                changes,
            }),
            ..ServiceFacts::default()
        }
    }

    /// A decision on the second service as events.
    fn told(&self, change: &ScaleChange) -> Vec<EventView> {
        let ScaleChange { at_ms, from, to, reason } = change;
        let event = |at_ms, reason: &str, message| EventView {
            at_ms,
            warning: false,
            reason: reason.to_owned(),
            message,
        };
        let scaled = event(*at_ms, "Scaled", format!("from {from} to {to} replicas: {reason}"));
        let ready = || {
            let message = format!("coder-0 answers on {}", self.address(4));
            event(at_ms + STARTS_IN.as_millis() as u64, "ReplicaReady", message)
        };
        std::iter::once(scaled).chain((*to > 0).then(ready)).collect()
    }

    /// Tells the gateway what there is, each time that it may have changed.
    async fn perform(&self, handle: Handle) {
        loop {
            {
                let demand = handle.demand().services.remove("demo/coder").unwrap_or_default();
                let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
                let busy = demand.queued + demand.in_flight > 0;
                let decision = match *woken {
                    None if busy => Some((0, 1, "a request waits and no replica runs")),
                    Some(at) if !busy && at.elapsed() > AWAKE => {
                        Some((1, 0, "nobody has called for a while"))
                    }
                    _ => None,
                };
                if let Some((from, to, reason)) = decision {
                    *woken = (to > 0).then(Instant::now);
                    let at_ms = self.began_ms + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0);
                    let change = ScaleChange { at_ms, from, to, reason: reason.to_owned() };
                    self.decisions.lock().unwrap_or_else(PoisonError::into_inner).push(change);
                }
            }
            handle.set_service(self.assistant().into());
            handle.set_service(self.coder().into());
            sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Source for Play {
    fn facts(&self, service: &str) -> Option<ServiceFacts> {
        match service {
            "demo/assistant" => Some(self.assistant_facts()),
            "demo/coder" => Some(self.coder_facts()),
            _ => None,
        }
    }

    fn yaml(&self, service: &str) -> Option<String> {
        (service == "demo/assistant").then(|| YAML.to_owned())
    }

    fn manifests(&self, service: &str) -> Option<Result<String, String>> {
        match service {
            "demo/assistant" => Some(Ok(MANIFESTS.to_owned())),
            "demo/coder" => {
                Some(Err("its model is a file of this machine, which no cluster can fetch".to_owned()))
            }
            _ => None,
        }
    }
}

/// Callers that come and go with the play.
async fn call(play: Arc<Play>, address: String, key: Option<String>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap_or_default();
    for number in 0_u64.. {
        let (at, _) = play.now();
        let pause = if (10..75).contains(&at) { 180 } else { 700 };
        let mut request = client.post(format!("http://{address}/v1/chat/completions")).json(&json!({
            "model": "assistant",
            "messages": [{"role": "user", "content": format!("question {}", number % 7)}],
            "max_tokens": 20 + number * 37 % 90,
            "stream": true,
        }));
        if let Some(key) = &key {
            request = request.bearer_auth(key);
        }
        tokio::spawn(async move {
            // A caller that fails is in the gateway's own numbers; nothing is to be done about it here.
            if let Ok(response) = request.send().await {
                drop(response.bytes().await);
            }
        });
        sleep(Duration::from_millis(pause)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let config = match arguments.next() {
        Some(path) => GatewayConfig::read(Path::new(&path))?,
        None => GatewayConfig::default(),
    };
    let key = arguments.next();
    let mut engines = Vec::new();
    for number in 0..5_u64 {
        let config = EngineConfig {
            model: if number < 4 { "assistant" } else { "coder" }.to_owned(),
            ttft: Duration::from_millis(if number == 3 { 900 } else { 90 + 40 * number }),
            itl: Duration::from_millis(22),
            tokens: 160,
            slots: 8,
            blocks: 24,
            ..EngineConfig::named(format!("fake-{number}"))
        };
        engines.push(FakeEngine::start(config).await?);
    }
    let began_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let play = Arc::new(Play {
        began: Instant::now(),
        began_ms: u64::try_from(began_ms)?,
        woken: Mutex::default(),
        decisions: Mutex::default(),
        engines,
    });
    let gateway = Gateway::bind(config)?;
    let handle = gateway.handle();
    handle.set_services(vec![play.assistant().into(), play.coder().into()]);
    handle.set_console_source(Arc::clone(&play) as Arc<dyn Source>);
    let address = gateway.addresses().http.to_string();
    let mut output = std::io::stdout();
    writeln!(output, "http://{address}/console/")?;
    output.flush()?;
    let performance = Arc::clone(&play);
    tokio::spawn(async move { performance.perform(handle).await });
    tokio::spawn(call(play, address, key));
    gateway
        .serve(async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await?;
    Ok(())
}
