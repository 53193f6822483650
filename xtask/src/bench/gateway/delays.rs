//! How late tokens are with a thousand streams at once, some of which nobody reads.
//!
//! The server writes into every token when it was sent, the clients look when it came: both are in this process, so they have one clock. Asked without a
//! gateway, the same streams tell what server, clients and the machine's cores take by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::programs::{Ours, request};
use super::streams::{HEAD, PATIENCE, asked, many, runtime};

/// Streams whose tokens are timed, and streams beside them that nobody reads although their servers send without end.
const STREAMS: usize = 1000;
const UNREAD: usize = 50;
/// Time between two tokens of a stream, and how long they are timed.
const TOKEN_EVERY: Duration = Duration::from_millis(100);
const TIMED_FOR: Duration = Duration::from_secs(5);
/// How often each way is measured.
const ROUNDS: usize = 5;
/// How long nothing more is taken of the streams that nobody reads, until all that lies between is full.
const FULL_AFTER: Duration = Duration::from_millis(300);
/// What a stream that nobody reads is asked for.
const WITHOUT_END: &str = "without end";

/// Delays of tokens in microseconds, 99th percentiles of each round.
pub(super) struct Delays {
    pub(super) through: Vec<f64>,
    pub(super) alone: Vec<f64>,
}

/// What rows call it.
pub(super) fn row() -> String {
    format!("p99 delay of a token, {STREAMS} streams and {UNREAD} unread")
}

/// The clock of all tokens, and events of the streams without end that were taken.
struct Shared {
    epoch: Instant,
    taken: AtomicU64,
}

/// Measures both ways in turn.
pub(super) fn measure(ours: &Ours) -> anyhow::Result<Delays> {
    runtime()?.block_on(async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.context("failed to listen")?;
        let address = upstream.local_addr().context("failed to look at a port")?;
        let shared = Arc::new(Shared { epoch: Instant::now(), taken: AtomicU64::new(0) });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = upstream.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        let router = ours.start(&[address.to_string()])?;
        let mut delays = Delays { through: Vec::new(), alone: Vec::new() };
        for round in 0..ROUNDS {
            let alone = round_of(address.port(), &shared).await?;
            let through = round_of(router.port, &shared).await?;
            eprintln!(
                "{STREAMS} streams, {}/{ROUNDS}: p50 {:.0} µs, p99 {:.0} µs; without a gateway {:.0} and {:.0}",
                round + 1,
                through.0,
                through.1,
                alone.0,
                alone.1
            );
            delays.through.push(through.1);
            delays.alone.push(alone.1);
        }
        Ok(delays)
    })
}

/// Median and 99th percentile of one round.
async fn round_of(port: u16, shared: &Shared) -> anyhow::Result<(f64, f64)> {
    let unread = many(port, UNREAD, Arc::new(request(true, WITHOUT_END))).await?;
    let mut taken = 0;
    while taken != shared.taken.load(Ordering::Relaxed) {
        taken = shared.taken.load(Ordering::Relaxed);
        sleep(FULL_AFTER).await;
    }
    let streams = many(port, STREAMS, Arc::new(request(true, "hello"))).await?;
    let from = Instant::now();
    let mut reading = JoinSet::new();
    for stream in streams {
        reading.spawn(read(stream, shared.epoch, from));
    }
    let mut delays = Vec::new();
    while let Some(read) = reading.join_next().await {
        delays.extend(read.context("a stream's task panicked")??);
    }
    drop(unread);
    delays.sort_unstable();
    let wanted = STREAMS * (TIMED_FOR.as_millis() / TOKEN_EVERY.as_millis()) as usize;
    if delays.len() * 10 < wanted * 9 {
        bail!("only {} of {wanted} tokens came", delays.len());
    }
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    Ok((at(0.5), at(0.99)))
}

/// Nanoseconds between a token's being sent and its coming, of all tokens of a stream that are sent from then on: those before it have waited for
/// the other streams to open.
async fn read(mut stream: TcpStream, epoch: Instant, from: Instant) -> anyhow::Result<Vec<u64>> {
    let from_nanos = (from - epoch).as_nanos() as u64;
    let mut delays = Vec::new();
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while from.elapsed() < TIMED_FOR {
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.context("no token came")?;
        let count = count.context("failed to read a stream")?;
        let now = epoch.elapsed().as_nanos() as u64;
        if count == 0 {
            bail!("a stream ended");
        }
        received.extend_from_slice(&buffer[..count]);
        // A token is `@`, nanoseconds, `@`: it cannot be mistaken for anything else of an event.
        while let Some(start) = received.iter().position(|byte| *byte == b'@') {
            let Some(length) = received[start + 1..].iter().position(|byte| *byte == b'@') else { break };
            let text = std::str::from_utf8(&received[start + 1..start + 1 + length]).context("no number")?;
            let sent: u64 = text.parse().context("failed to read when a token was sent")?;
            if sent >= from_nanos {
                delays.push(now.saturating_sub(sent));
            }
            received.drain(..start + length + 2);
        }
    }
    Ok(delays)
}

/// A model server: a token at each tick that says when it was sent, or for those that are asked for it, tokens as fast as they are taken.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let Some(request) = asked(&mut stream).await? else { return Ok(()) };
    stream.write_all(HEAD.as_bytes()).await?;
    match request.contains(WITHOUT_END) {
        true => without_end(stream, &shared.taken).await,
        false => ticking(stream, shared.epoch).await,
    }
}

async fn ticking(mut stream: TcpStream, epoch: Instant) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut ticks = interval_at(Instant::now(), TOKEN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let token = format!("@{}@", epoch.elapsed().as_nanos());
        stream.write_all(chunk(&token).as_bytes()).await?;
    }
}

async fn without_end(mut stream: TcpStream, taken: &AtomicU64) -> std::io::Result<()> {
    let event = chunk(&"a".repeat(4096));
    loop {
        stream.write_all(event.as_bytes()).await?;
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// A token as an event, in a chunk of its own.
fn chunk(token: &str) -> String {
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{token}\"}}}}]}}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}
