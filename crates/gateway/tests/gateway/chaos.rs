//! Chaos: model servers in processes of their own are killed, stopped, and fail in every other way under constant load.
//!
//! Whatever happens, no request hangs, each gets a whole answer, a stream that says that it was cut, or an error in OpenAI's form, and the
//! gateway's counts are those of its clients.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use wharf_api::demand::ServiceDemand;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::ServiceConfig;

use crate::support::{PATIENCE, Running, config};

/// Requests at the same time.
const CLIENTS: usize = 24;
/// Tokens of each answer, and the time between two.
const TOKENS: usize = 20;
const BETWEEN: Duration = Duration::from_millis(5);
/// Of so many streams a client leaves one in the middle.
const LEAVES: u64 = 8;

/// The process that the others start. Standard input says where it listens, then what it should do.
#[test]
#[ignore = "no test: the model server's process, which the tests start and kill"]
fn engine_process() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    // Somebody runs ignored tests.
    let Ok(address) = line.trim().parse() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = EngineConfig { tokens: TOKENS, itl: BETWEEN, ..EngineConfig::named(line.trim()) };
        let engine = FakeEngine::start_at(address, config).await.unwrap();
        let mut output = std::io::stdout();
        writeln!(output, "\nlistening").unwrap();
        output.flush().unwrap();
        engine.obey_standard_input().await.unwrap();
    });
}

/// An address of loopback that nobody else has. A port of 127.0.0.1 could be taken by any connection while its engine is dead.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high % 254 + 1, low, NEXT.fetch_add(1, Ordering::SeqCst)], 8000))
}

/// A model server's process.
struct Engine {
    address: SocketAddr,
    process: Child,
    orders: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Engine {
    async fn start(address: SocketAddr) -> Engine {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "chaos::engine_process", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut orders = process.stdin.take().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        orders.write_all(format!("{address}\n").as_bytes()).await.unwrap();
        let mut engine = Engine { address, process, orders, says };
        engine.hear("listening").await;
        engine
    }

    /// Waits until it has said so.
    async fn hear(&mut self, word: &str) {
        let heard =
            async { while self.says.next_line().await.unwrap().expect("the process lives") != word {} };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("no {word}"));
    }

    async fn order(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.hear("done").await;
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    async fn start_again(&mut self) {
        *self = Engine::start(self.address).await;
    }

    /// SIGSTOP or SIGCONT: connections stay, and nothing moves.
    async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id().unwrap());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    }
}

/// What clients saw.
#[derive(Default)]
struct Tally {
    sent: AtomicU64,
    /// Streams with every token, and answers that did not stream.
    whole: AtomicU64,
    /// Streams that ended with an error event.
    cut: AtomicU64,
    /// Errors in place of an answer.
    refused: AtomicU64,
    /// Streams whose client left.
    left: AtomicU64,
}

impl Tally {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self) -> u64 {
        [&self.whole, &self.cut, &self.refused, &self.left].into_iter().map(Tally::get).sum()
    }
}

/// A gateway, its engines, and clients who never stop asking.
struct Chaos {
    gateway: Arc<Running>,
    engines: Vec<Engine>,
    tally: Arc<Tally>,
    enough: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Chaos {
    async fn start(engines: usize) -> Chaos {
        let addresses: Vec<SocketAddr> = (0..engines).map(|_| own_address()).collect();
        let mut engines = Vec::new();
        for &address in &addresses {
            engines.push(Engine::start(address).await);
        }
        let ready = addresses.len();
        let addresses = addresses.iter().map(ToString::to_string);
        let gateway =
            Arc::new(Running::start(config(vec![ServiceConfig::new("demo/fake-model", addresses)])));
        let (tally, enough) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (gateway, tally, enough) = (Arc::clone(&gateway), Arc::clone(&tally), Arc::clone(&enough));
            clients.spawn(async move {
                let mut round = 0;
                while !enough.load(Ordering::SeqCst) {
                    Tally::count(&tally.sent);
                    let request = one(&gateway, &tally, number as u64 + round);
                    timeout(PATIENCE, request).await.expect("no request hangs");
                    round += 1;
                }
            });
        }
        let chaos = Chaos { gateway, engines, tally, enough, clients };
        chaos.ready(ready).await;
        chaos.load(CLIENTS as u64).await;
        chaos
    }

    fn demand(&self) -> ServiceDemand {
        self.gateway.handle.demand().services["demo/fake-model"].clone()
    }

    /// Waits until so many engines take requests.
    async fn ready(&self, engines: usize) {
        self.until("that many engines are ready", || {
            self.demand().endpoints.values().filter(|load| load.ready).count() == engines
        })
        .await;
    }

    /// Waits until so many more requests have ended.
    async fn load(&self, requests: u64) {
        let before = self.tally.ended();
        self.until("load goes on", || self.tally.ended() >= before + requests).await;
    }

    async fn until(&self, what: &str, met: impl Fn() -> bool) {
        let met = async {
            while !met() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what}: did not happen"));
    }

    /// Lets clients end, and holds that nothing was lost: streams that were cut, and errors in place of answers.
    async fn end(mut self) -> (u64, u64) {
        self.enough.store(true, Ordering::SeqCst);
        while let Some(client) = timeout(PATIENCE, self.clients.join_next()).await.expect("no request hangs")
        {
            client.unwrap();
        }
        self.gateway.idle().await;
        let Tally { sent, whole, cut, refused, left } = &*self.tally;
        let [sent, whole, cut, refused, left] = [sent, whole, cut, refused, left].map(Tally::get);
        assert_eq!(whole + cut + refused + left, sent, "every request had an end");
        let ServiceDemand { arrived, answered, failed, overflowed, abandoned, .. } = self.demand();
        assert_eq!(arrived, sent, "every request was counted");
        assert_eq!(answered + failed + overflowed + abandoned, arrived, "once");
        // What becomes of a stream whose client left is the gateway's to say: it may have been whole, or cut, before.
        assert!(
            (whole..=whole + left).contains(&answered),
            "{answered} answered, {whole} whole, {left} left"
        );
        assert!(
            (cut + refused..=cut + refused + left).contains(&failed),
            "{failed} failed, {cut} cut, {refused} refused"
        );
        assert_eq!((overflowed, abandoned <= left), (0, true));
        let gateway = Arc::try_unwrap(self.gateway).ok().expect("clients have ended");
        gateway.stop().await;
        (cut, refused)
    }
}

/// One request: streamed or not, and sometimes left.
async fn one(gateway: &Running, tally: &Tally, number: u64) {
    let mut body =
        json!({"model": "fake-model", "messages": [{"role": "user", "content": format!("{number}")}]});
    if number.is_multiple_of(3) {
        let (status, answer) = gateway.ask(&body).await;
        if status == 200 {
            assert_eq!(answer["usage"]["completion_tokens"], TOKENS, "{answer}");
            return Tally::count(&tally.whole);
        }
        well_formed(status, &answer);
        return Tally::count(&tally.refused);
    }
    body["stream"] = true.into();
    let mut response = gateway.post(&body).await;
    let status = response.status().as_u16();
    if status != 200 {
        well_formed(status, &response.json().await.unwrap());
        return Tally::count(&tally.refused);
    }
    let mut text = response
        .chunk()
        .await
        .expect("an answer that has begun ends as HTTP wants it")
        .unwrap_or_default()
        .to_vec();
    if number % LEAVES == 1 {
        return Tally::count(&tally.left);
    }
    while let Some(piece) = response.chunk().await.expect("an answer that has begun ends as HTTP wants it") {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).unwrap();
    Tally::count(if is_whole(&text) { &tally.whole } else { &tally.cut });
}

/// Whether a stream has all of its answer. Panics if it ends in silence.
fn is_whole(text: &str) -> bool {
    let events: Vec<&str> = text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).collect();
    let (last, events) = events.split_last().expect("a stream has events");
    assert!(*last == "data: [DONE]" && text.ends_with("\n\n"), "{text}");
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap_or(event)).unwrap())
        .collect();
    let errors = events.iter().filter(|event| event.get("error").is_some()).count();
    if errors > 0 {
        assert!(errors == 1 && events.last().unwrap().get("error").is_some(), "{text}");
        well_formed(502, events.last().unwrap());
        return false;
    }
    let is_token = |event: &&Value| {
        event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
    };
    assert_eq!(events.iter().filter(is_token).count(), TOKENS, "a whole stream has every token: {text}");
    true
}

/// An error as OpenAI's clients understand it.
fn well_formed(status: u16, answer: &Value) {
    assert!([502, 503, 504].contains(&status), "{status}: {answer}");
    let error = &answer["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    assert!(error["type"].is_string() && error["code"].is_string(), "{answer}");
    assert!(error.as_object().unwrap().contains_key("param"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_are_killed_in_the_middle_of_streams() {
    let mut chaos = Chaos::start(3).await;
    for number in 0..3 {
        chaos.until("streams run", || chaos.demand().in_flight >= CLIENTS as u64 / 2).await;
        chaos.engines[number].kill().await;
        chaos.load(60).await;
        chaos.engines[number].start_again().await;
        chaos.ready(3).await;
    }
    let (cut, refused) = chaos.end().await;
    assert!(cut > 0, "somebody was in the middle");
    assert_eq!(refused, 0, "there was always another engine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_engines_are_killed_at_once_and_come_back() {
    let mut chaos = Chaos::start(2).await;
    for engine in &mut chaos.engines {
        engine.kill().await;
    }
    chaos.until("requests wait", || chaos.demand().queued > 0).await;
    for engine in &mut chaos.engines {
        engine.start_again().await;
    }
    chaos.ready(2).await;
    chaos.load(60).await;
    chaos.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_stops_moving_and_goes_on() {
    let chaos = Chaos::start(3).await;
    chaos.until("streams run", || chaos.demand().in_flight >= CLIENTS as u64 / 2).await;
    chaos.engines[0].signal("STOP").await;
    chaos.ready(2).await;
    chaos.load(100).await;
    chaos.engines[0].signal("CONT").await;
    chaos.ready(3).await;
    chaos.load(60).await;
    let (cut, refused) = chaos.end().await;
    assert!(cut > 0, "somebody was in the middle");
    assert_eq!(refused, 0, "there was always another engine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_refused_reset_and_closed() {
    let mut chaos = Chaos::start(3).await;
    let orders = [
        "reset-after 5",
        "truncate-after 5",
        "end-after 5",
        "stall-after 5",
        "reset",
        "close",
        "stall",
        "refuse",
    ];
    for (number, order) in orders.into_iter().enumerate() {
        chaos.engines[number % 2].order(order).await;
        chaos.load(60).await;
        chaos.engines[number % 2].order("heal").await;
    }
    chaos.ready(3).await;
    let (cut, refused) = chaos.end().await;
    assert!(cut > 0, "somebody was in the middle");
    assert_eq!(refused, 0, "there was always another engine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_slow_and_health_flaps() {
    let mut chaos = Chaos::start(3).await;
    for (engine, health) in chaos.engines.iter_mut().zip(["flap 2 3", "flap 3 2", "healthy"]) {
        engine.order("trickle 64 1").await;
        engine.order(health).await;
    }
    chaos.load(200).await;
    for engine in &mut chaos.engines {
        engine.order("heal").await;
    }
    chaos.ready(3).await;
    assert_eq!(chaos.end().await, (0, 0), "what is slow, or says that it is ill, loses nothing");
}
