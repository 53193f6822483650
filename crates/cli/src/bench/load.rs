//! Sends the load and records what came back when. The only part of the benchmark that waits for anything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::progress::Progress;
use super::workload::{Pace, Workload};
use crate::openai::{Client, ClientError, Piece};

/// What one request experienced; times in seconds from the start of the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// When it should have been sent: latencies count from here.
    pub(crate) intended: f64,
    /// When it was sent.
    pub(crate) sent: f64,
    /// When each piece of text came, ascending.
    pub(crate) texts: Vec<f64>,
    /// When the answer was complete or had failed.
    pub(crate) ended: f64,
    /// Prompt and completion tokens, if the server reported them.
    pub(crate) usage: Option<(u64, u64)>,
    /// What went wrong, if anything: kind and message.
    pub(crate) error: Option<(String, String)>,
}

/// A finished run.
pub(crate) struct Run {
    /// Complete and failed requests in the order of their ends.
    pub(crate) samples: Vec<Sample>,
    /// Requests still under way when the user interrupted; they are in no statistic.
    pub(crate) abandoned: usize,
    pub(crate) elapsed_s: f64,
    pub(crate) interrupted: bool,
}

/// Sends the warm-up, then the whole load, until all answers are in or the user interrupts.
pub(crate) async fn run(
    client: &Client,
    model: &str,
    workload: &Workload,
    warmup: usize,
) -> anyhow::Result<Run> {
    for i in 0..warmup {
        let sample = send(client, model, workload, WARMUP_INDEX + i, Instant::now(), Instant::now()).await;
        if let Some((_, message)) = sample.error {
            anyhow::bail!("failed to warm up the server: {message}");
        }
    }
    let (samples, mut received) = mpsc::unbounded_channel();
    let sent = AtomicUsize::new(0);
    let mut progress = Progress::new(workload);
    let start = Instant::now();
    let mut finished = Vec::new();
    let mut interrupted = false;
    {
        let sending = async {
            match workload.pace {
                Pace::Closed { concurrency } => {
                    closed(client, model, workload, concurrency, start, &sent, samples).await
                }
                Pace::Open { rate } => open(client, model, workload, rate, start, &sent, samples).await,
            }
        };
        let mut sending = std::pin::pin!(sending);
        let mut sending_done = false;
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        let mut ctrl_c = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                biased;
                signal = &mut ctrl_c => {
                    signal.context("failed to listen for Ctrl-C")?;
                    interrupted = true;
                    break;
                }
                () = &mut sending, if !sending_done => sending_done = true,
                sample = received.recv() => match sample {
                    Some(sample) => {
                        progress.count(&sample);
                        finished.push(sample);
                    }
                    // Every sender is gone: all requests have ended.
                    None => break,
                },
                _ = tick.tick() => progress.show(start.elapsed()),
            }
        }
        // Leaving this block drops what is still being sent, which closes its connections.
    }
    progress.finish();
    let abandoned = sent.load(Ordering::Relaxed) - finished.len();
    Ok(Run { samples: finished, abandoned, elapsed_s: start.elapsed().as_secs_f64(), interrupted })
}

/// Warm-up prompts must not be in the server's prefix cache when the run asks.
const WARMUP_INDEX: usize = 1 << 40;

async fn closed(
    client: &Client,
    model: &str,
    workload: &Workload,
    concurrency: usize,
    start: Instant,
    sent: &AtomicUsize,
    samples: UnboundedSender<Sample>,
) {
    let worker = || async {
        loop {
            let now = Instant::now();
            if workload.duration.is_some_and(|limit| now - start >= limit) {
                return;
            }
            let limit = workload.requests.unwrap_or(usize::MAX);
            let index = match sent
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            {
                Ok(index) => index,
                Err(_) => return,
            };
            let sample = send(client, model, workload, index, start, now).await;
            let failed = sample.error.is_some();
            // The receiver outlives this future.
            let _ = samples.send(sample);
            if failed {
                // A server that refuses at once would otherwise be flooded, and the run be over in no time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    futures_util::future::join_all((0..concurrency).map(|_| worker())).await;
}

async fn open(
    client: &Client,
    model: &str,
    workload: &Workload,
    rate: f64,
    start: Instant,
    sent: &AtomicUsize,
    samples: UnboundedSender<Sample>,
) {
    let mut under_way = JoinSet::new();
    for (index, due) in workload.arrivals(rate).take(workload.requests.unwrap_or(usize::MAX)).enumerate() {
        if workload.duration.is_some_and(|limit| due >= limit) {
            break;
        }
        let intended = start + due;
        sleep_until(intended).await;
        sent.fetch_add(1, Ordering::Relaxed);
        let (client, model, workload, samples) =
            (client.clone(), model.to_owned(), workload.clone(), samples.clone());
        under_way.spawn(async move {
            let sample = send(&client, &model, &workload, index, start, intended).await;
            // The receiver outlives the tasks.
            let _ = samples.send(sample);
        });
        // Ended tasks are let go as they end, not all at the end of a long run.
        while under_way.try_join_next().is_some() {}
    }
    drop(samples);
    while let Some(ended) = under_way.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn send(
    client: &Client,
    model: &str,
    workload: &Workload,
    index: usize,
    start: Instant,
    intended: Instant,
) -> Sample {
    let since = |at: Instant| (at - start).as_secs_f64();
    let body = workload.body(model, &workload.request(index));
    let mut sample = Sample { intended: since(intended), sent: since(Instant::now()), ..Sample::default() };
    if let Err(error) = receive(client, body, &mut sample, &since).await {
        let kind = error.kind();
        sample.error = Some((kind, format!("{:#}", anyhow::Error::from(error))));
    }
    sample.ended = since(Instant::now());
    sample
}

async fn receive(
    client: &Client,
    body: serde_json::Value,
    sample: &mut Sample,
    since: &(dyn Fn(Instant) -> f64 + Sync),
) -> Result<(), ClientError> {
    let mut stream = client.chat(body).await?;
    while let Some(piece) = stream.next().await? {
        match piece {
            Piece::Text(_) => sample.texts.push(since(Instant::now())),
            Piece::Usage { prompt_tokens, completion_tokens } => {
                sample.usage = Some((prompt_tokens, completion_tokens));
            }
            Piece::Finished(_) => {}
        }
    }
    Ok(())
}
