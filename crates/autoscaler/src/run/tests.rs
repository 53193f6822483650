//! The loop against targets in memory: at once, once, and on through errors.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Mutex;

use wharf_api::demand::ServiceDemand;

use super::*;
use crate::{Policy, Targets, scaler};

/// Replicas in memory: ready as soon as they are asked for, or failing.
#[derive(Default)]
struct Memory {
    replicas: Mutex<Replicas>,
    written: Mutex<Vec<(Duration, u32)>>,
    began: Mutex<Option<Instant>>,
}

impl Memory {
    fn written(&self) -> Vec<(Duration, u32)> {
        self.written.lock().unwrap().clone()
    }
}

impl ScaleTarget for Memory {
    type Error = Infallible;

    async fn read(&self) -> Result<Replicas, Infallible> {
        Ok(*self.replicas.lock().unwrap())
    }

    async fn set(&self, replicas: u32, _: &str) -> Result<(), Infallible> {
        let began = *self.began.lock().unwrap().get_or_insert_with(Instant::now);
        self.written.lock().unwrap().push((began.elapsed(), replicas));
        *self.replicas.lock().unwrap() = Replicas { wanted: replicas, ready: replicas, starting: 0 };
        Ok(())
    }
}

fn policy() -> Policy {
    let targets = Targets { concurrency: Some(4.0), ..Targets::default() };
    Policy { min: 0, max: 5, targets, ..Policy::default() }
}

fn line(sequence: u64, queued: u64, in_flight: u64) -> Arc<DemandReport> {
    let service = ServiceDemand { queued, in_flight, ..ServiceDemand::default() };
    let services = BTreeMap::from([("a/b".to_owned(), service)]);
    Arc::new(DemandReport { gateway: "g".to_owned(), epoch: 1, sequence, lease_ms: 600_000, services })
}

struct Running<T> {
    target: Arc<T>,
    lines: mpsc::Sender<Arc<DemandReport>>,
    status: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<()>,
}

fn start<T: ScaleTarget + 'static>(target: T, name: &str) -> Running<T> {
    start_with(target, name, Settings::default())
}

fn start_with<T: ScaleTarget + 'static>(target: T, name: &str, settings: Settings) -> Running<T> {
    let target = Arc::new(target);
    let (lines, receiver) = mpsc::channel(64);
    let (sender, status) = watch::channel(Status::default());
    let demand = Demand::for_policy("a/b", &policy(), Now::after(Timestamp::now(), Duration::ZERO));
    let scaler = scaler(name, &policy()).unwrap();
    let of = Arc::clone(&target);
    let task = tokio::spawn(async move {
        run(&*of, scaler, demand, receiver, settings, &sender).await;
    });
    Running { target, lines, status, task }
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_service_is_woken_within_milliseconds_and_once() {
    let running = start(Memory::default(), "native");
    *running.target.began.lock().unwrap() = Some(Instant::now());
    tokio::time::sleep(Duration::from_millis(300)).await;
    for sequence in 1..=20 {
        running.lines.send(line(sequence, sequence.min(4), 0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let written = running.target.written();
    assert_eq!(written.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1]);
    assert!(written[0].0 < Duration::from_millis(320), "{:?}", written[0].0);
}

#[tokio::test]
async fn waking_adds_less_than_twenty_milliseconds_of_real_time() {
    let running = start(Memory::default(), "native");
    tokio::time::sleep(Duration::from_millis(50)).await;
    *running.target.began.lock().unwrap() = Some(Instant::now());
    running.lines.send(line(1, 1, 0)).await.unwrap();
    while running.target.written().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = running.target.written()[0].0;
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn ticks_go_on_without_lines_and_the_loop_ends_with_its_sender() {
    let mut running = start(Memory::default(), "native");
    running.lines.send(line(1, 0, 3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.lines.send(line(2, 0, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(310)).await;
    let written: Vec<u32> = running.target.written().iter().map(|(_, n)| *n).collect();
    assert_eq!(written, [1, 0]);
    assert_eq!(running.status.borrow_and_update().decided, Some(0));
    drop(running.lines);
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_does_not_react_waits_for_its_tick() {
    let running = start(Memory::default(), "static");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(running.target.written().len(), 1);
    running.lines.send(line(1, 9, 9)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(running.target.written().len(), 1);
}

/// Remembers when it was read.
#[derive(Default)]
struct Noting {
    reads: Mutex<Vec<Instant>>,
    memory: Memory,
}

impl ScaleTarget for Noting {
    type Error = Infallible;

    async fn read(&self) -> Result<Replicas, Infallible> {
        self.reads.lock().unwrap().push(Instant::now());
        self.memory.read().await
    }

    async fn set(&self, replicas: u32, reason: &str) -> Result<(), Infallible> {
        self.memory.set(replicas, reason).await
    }
}

#[tokio::test(start_paused = true)]
async fn loops_that_begin_at_different_moments_look_at_the_same_ones() {
    let since = Instant::now();
    let settings = Settings { since: Some(since), ..Settings::default() };
    let mut running = Vec::new();
    for after in [0, 130, 470] {
        sleep_until(since + Duration::from_millis(after)).await;
        running.push(start_with(Noting::default(), "native", settings));
    }
    sleep_until(since + Duration::from_millis(4500)).await;
    for running in running {
        let reads = running.target.reads.lock().unwrap().clone();
        // The first is at once; all that follow are together.
        let seconds: Vec<f64> = reads[1..].iter().map(|read| (*read - since).as_secs_f64().round()).collect();
        let late = reads[1..].iter().map(|read| (*read - since).subsec_millis());
        assert_eq!(seconds, [1.0, 2.0, 3.0, 4.0]);
        assert!(late.max() < Some(3), "{reads:?}");
    }
}

/// Fails until told otherwise, and counts the tries.
#[derive(Default)]
struct Broken {
    works: Mutex<bool>,
    tries: Mutex<Vec<Instant>>,
    memory: Memory,
}

impl ScaleTarget for Broken {
    type Error = io::Error;

    async fn read(&self) -> Result<Replicas, io::Error> {
        let Ok(replicas) = self.memory.read().await;
        Ok(replicas)
    }

    async fn set(&self, replicas: u32, reason: &str) -> Result<(), io::Error> {
        self.tries.lock().unwrap().push(Instant::now());
        if !*self.works.lock().unwrap() {
            return Err(io::Error::other("the API server is away"));
        }
        let Ok(()) = self.memory.set(replicas, reason).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_told_tried_again_ever_more_slowly_and_survived() {
    let mut running = start(Broken::default(), "native");
    running.lines.send(line(1, 1, 0)).await.unwrap();
    for sequence in 2..600 {
        running.lines.send(line(sequence, 1, 0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gaps: Vec<u128> = {
        let tries = running.target.tries.lock().unwrap();
        tries.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect()
    };
    assert!((5..12).contains(&gaps.len()) && gaps.is_sorted(), "{gaps:?}");
    let error = running.status.borrow_and_update().error.clone().unwrap();
    assert_eq!(error, "failed to ask for 1 instead of 0 replicas: the API server is away");
    *running.target.works.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(running.target.memory.written().len(), 1);
    assert_eq!(running.status.borrow_and_update().error, None);
}

/// Its reader is behind: it knows of a change only after 300 ms, as a watch of an API server may.
#[derive(Default)]
struct Behind(Memory);

impl ScaleTarget for Behind {
    type Error = Infallible;

    async fn read(&self) -> Result<Replicas, Infallible> {
        let last = self.0.written().last().copied();
        let began = *self.0.began.lock().unwrap();
        match (last, began) {
            (Some((at, _)), Some(began)) if began.elapsed() > at + Duration::from_millis(300) => {
                self.0.read().await
            }
            _ => Ok(Replicas::default()),
        }
    }

    async fn set(&self, replicas: u32, reason: &str) -> Result<(), Infallible> {
        self.0.set(replicas, reason).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_know_yet_is_not_told_twice() {
    let running = start(Behind::default(), "native");
    for sequence in 1..=50 {
        running.lines.send(line(sequence, 1, 0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(running.target.0.written().len(), 1);
}

/// Never answers.
struct Stuck;

impl ScaleTarget for Stuck {
    type Error = Infallible;

    async fn read(&self) -> Result<Replicas, Infallible> {
        std::future::pending().await
    }

    async fn set(&self, _: u32, _: &str) -> Result<(), Infallible> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_is_given_up_after_a_while() {
    let running = start(Stuck, "native");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let error = running.status.borrow().error.clone();
    assert_eq!(error.as_deref(), Some("failed to read the replicas within 10 s"));
}
