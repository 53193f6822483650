//! The loop around the decisions: follows lines of demand, looks at every line and every tick, writes what changed. It decides nothing
//! itself, and it does not end on errors: they are told in [`Status`] and tried again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use wharf_api::demand::DemandReport;

use crate::decide::Observed;
use crate::{Demand, Now, Replicas, ScaleTarget, Scaler};

/// How the loop behaves. The defaults suit everyone but tests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How long reading or setting may take.
    pub patience: Duration,
    /// How long to wait after a first error; each further one doubles it.
    pub first_pause: Duration,
    /// The longest wait.
    pub longest_pause: Duration,
    /// Looks come at whole periods after this, so that loops which have it in common wake the process up together; after the last look of one
    /// loop if nothing is given.
    pub since: Option<Instant>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            patience: Duration::from_secs(10),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(30),
            since: None,
        }
    }
}

/// When to look again after a look at `now`.
fn next_tick(since: Option<Instant>, now: Instant, period: Duration) -> Instant {
    let over =
        since.map_or(0, |since| now.saturating_duration_since(since).as_nanos() % period.as_nanos().max(1));
    now + period - Duration::from_nanos(u64::try_from(over).unwrap_or(0))
}

/// How scaling stands, for `status` and people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Replicas as last read.
    pub replicas: Replicas,
    /// As last decided.
    pub decided: Option<u32>,
    /// Why.
    pub reason: String,
    /// What went wrong, if the last try did.
    pub error: Option<String>,
}

/// Follows `lines` until their sender is gone.
///
/// A channel that is full loses nothing: every line says everything, so the next one does. A line is acted on at once; lines that came meanwhile are taken in together. Nothing is written that is already asked for.
pub async fn run<T: ScaleTarget>(
    target: &T,
    mut scaler: Box<dyn Scaler>,
    mut demand: Demand,
    mut lines: mpsc::Receiver<Arc<DemandReport>>,
    settings: Settings,
    status: &watch::Sender<Status>,
) {
    let began = Instant::now();
    let now = move || Now { elapsed: began.elapsed(), wall: Timestamp::now() };
    let mut tick = Instant::now();
    let mut pause = Pause { settings, until: None, next: settings.first_pause };
    let mut written = None;
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Some(line) = line else { return };
                let mut news = demand.observe(&line, now());
                while let Ok(line) = lines.try_recv() {
                    news |= demand.observe(&line, now());
                }
                if !news || !scaler.reacts() {
                    continue;
                }
            }
            () = sleep_until(tick.max(pause.until.unwrap_or(tick))) => {}
        }
        if pause.until.is_some_and(|until| until > Instant::now()) {
            continue;
        }
        if tick <= Instant::now() {
            tick = next_tick(settings.since, Instant::now(), scaler.period());
        }
        match step(target, scaler.as_mut(), &mut demand, now(), settings.patience, &mut written, status).await
        {
            Ok(()) => pause.end(),
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.next.as_millis() as u64, "scaling failed; trying again");
                status.send_modify(|s| s.error = Some(error));
                pause.begin();
            }
        }
    }
}

/// The time in which nothing is tried after an error.
struct Pause {
    settings: Settings,
    until: Option<Instant>,
    next: Duration,
}

impl Pause {
    fn begin(&mut self) {
        self.until = Some(Instant::now() + self.next);
        self.next = (self.next * 2).min(self.settings.longest_pause);
    }

    fn end(&mut self) {
        self.until = None;
        self.next = self.settings.first_pause;
    }
}

/// What was written last. A target that answers from a watch may not know of it yet, and is not told again for a moment.
#[derive(Clone, Copy, PartialEq)]
struct Written {
    from: u32,
    to: u32,
    at: Duration,
}

impl Written {
    const HOLDS: Duration = Duration::from_secs(1);

    fn covers(self, from: u32, to: u32, now: Duration) -> bool {
        (self.from, self.to) == (from, to) && now < self.at + Written::HOLDS
    }
}

async fn step<T: ScaleTarget>(
    target: &T,
    scaler: &mut dyn Scaler,
    demand: &mut Demand,
    now: Now,
    patience: Duration,
    written: &mut Option<Written>,
    status: &watch::Sender<Status>,
) -> Result<(), String> {
    let replicas = match timeout(patience, target.read()).await {
        Ok(Ok(replicas)) => replicas,
        Ok(Err(error)) => return Err(format!("failed to read the replicas: {}", chain(&error))),
        Err(_) => return Err(format!("failed to read the replicas within {} s", patience.as_secs_f64())),
    };
    let Replicas { wanted, ready, starting } = replicas;
    let verdict = scaler.decide(&Observed { wanted, ready, starting, load: demand.load(now) }, now);
    let known = written.is_some_and(|w| w.covers(wanted, verdict.replicas, now.elapsed));
    if verdict.replicas != wanted && !known {
        let what = format!("failed to ask for {} instead of {wanted} replicas", verdict.replicas);
        match timeout(patience, target.set(verdict.replicas, &verdict.reason)).await {
            Ok(Ok(())) => {
                tracing::info!(from = wanted, to = verdict.replicas, reason = verdict.reason, "scaled");
                *written = Some(Written { from: wanted, to: verdict.replicas, at: now.elapsed });
            }
            Ok(Err(error)) => return Err(format!("{what}: {}", chain(&error))),
            Err(_) => return Err(format!("{what} within {} s", patience.as_secs_f64())),
        }
    }
    let new = Status { replicas, decided: Some(verdict.replicas), reason: verdict.reason, error: None };
    status.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
    Ok(())
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
