//! A service of this machine as the autoscaler sees it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use wharf_api::demand::DemandReport;
use wharf_autoscaler::{Replicas, ScaleTarget};
use wharf_gateway::Handle;

use crate::supervisor::Message;

/// How often demand is looked at when nobody says that it has changed.
const BEAT: Duration = Duration::from_millis(500);
/// Looks are at least this far apart: a burst of arrivals is one look.
const APART: Duration = Duration::from_millis(2);

/// Replicas of one service, as the supervisor last said.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) service: String,
    pub(crate) replicas: Arc<Mutex<Replicas>>,
    pub(crate) supervisor: mpsc::UnboundedSender<Message>,
}

impl ScaleTarget for Target {
    type Error = Infallible;

    async fn read(&self) -> Result<Replicas, Infallible> {
        Ok(*self.replicas.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn set(&self, replicas: u32, reason: &str) -> Result<(), Infallible> {
        let mut now = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let from = std::mem::replace(&mut now.wanted, replicas);
        drop(now);
        let message =
            Message::Scaled { service: self.service.clone(), from, to: replicas, reason: reason.to_owned() };
        // A supervisor that has ended scales nothing.
        let _ = self.supervisor.send(message);
        Ok(())
    }
}

/// Sends the gateway's demand to an autoscaler for as long as it listens.
pub(crate) async fn follow(gateway: Handle, lines: mpsc::Sender<Arc<DemandReport>>) {
    let mut sequence = 0;
    loop {
        let changed = gateway.demand_changed();
        sequence += 1;
        let report = DemandReport { sequence, ..gateway.demand() };
        if lines.send(Arc::new(report)).await.is_err() {
            return;
        }
        tokio::select! {
            () = lines.closed() => return,
            _ = tokio::time::timeout(BEAT, changed) => {}
        }
        tokio::time::sleep(APART).await;
    }
}
