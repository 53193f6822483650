//! How many replicas the autoscaler wants: the same loop as in a cluster, with processes as its target.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wharf_autoscaler::{Demand, Now, Policy, Replicas, Status, policy, run, scaler};
use wharf_spec::LLMService;
use wharf_spec::service::ScalingMode;

use crate::scale::{Target, follow};
use crate::supervisor::Context;

/// Lines of demand that wait for the autoscaler; each says everything, so one would do.
const LINES: usize = 4;
/// Wharf's own policy, in the list of them.
const OWN: &str = "native";

/// The autoscaler of a service.
pub(super) struct Scaling {
    replicas: Arc<Mutex<Replicas>>,
    target: Target,
    policy: Option<Policy>,
    status: watch::Receiver<Status>,
    /// Ends with this.
    tasks: JoinSet<()>,
    begun: bool,
}

impl Scaling {
    pub(super) fn new(service: &str, context: &Context) -> Scaling {
        let replicas = Arc::new(Mutex::new(Replicas::default()));
        let target = Target {
            service: service.to_owned(),
            replicas: Arc::clone(&replicas),
            supervisor: context.messages.clone(),
        };
        let (_, status) = watch::channel(Status::default());
        Scaling { replicas, target, policy: None, status, tasks: JoinSet::new(), begun: false }
    }

    /// Follows what the object says from now on.
    ///
    /// # Errors
    /// With a sentence, when it asks for what this autoscaler cannot do; what it said before goes on.
    pub(super) fn follow(
        &mut self,
        service: &str,
        object: &LLMService,
        context: &Context,
    ) -> Result<(), String> {
        let scaling = &object.spec.scaling;
        let scaled = match scaling.mode {
            // Whoever else would decide is in no single machine.
            ScalingMode::Native | ScalingMode::Hpa | ScalingMode::Keda => Some(policy(scaling)?),
            ScalingMode::None => None,
        };
        let wanted = match scaled {
            Some(_) if self.begun => self.wanted().clamp(scaling.min.min(1), scaling.most()),
            Some(_) => object.spec.replicas.clamp(scaling.min, scaling.most()),
            None => object.spec.replicas,
        };
        self.set(wanted);
        self.begun = true;
        if scaled == self.policy {
            return Ok(());
        }
        self.policy.clone_from(&scaled);
        self.tasks = JoinSet::new();
        let Some(policy) = scaled else { return Ok(()) };
        let scaler = scaler(OWN, &policy).ok_or_else(|| format!("there is no scaling policy {OWN}"))?;
        let now = Now::after(Timestamp::now(), std::time::Duration::ZERO);
        let demand = Demand::for_policy(service, &policy, now);
        let (sender, lines) = mpsc::channel(LINES);
        let (told, status) = watch::channel(Status::default());
        self.status = status;
        self.tasks.spawn(follow(context.gateway.clone(), sender));
        let target = self.target.clone();
        self.tasks.spawn(async move {
            run(&target, scaler, demand, lines, wharf_autoscaler::Settings::default(), &told).await;
        });
        Ok(())
    }

    /// Replicas that are wanted.
    pub(super) fn wanted(&self) -> u32 {
        self.lock().wanted
    }

    /// So many are wanted.
    pub(super) fn set(&self, replicas: u32) {
        self.lock().wanted = replicas;
    }

    /// So many there are.
    pub(super) fn publish(&self, ready: u32, starting: u32) {
        let mut replicas = self.lock();
        (replicas.ready, replicas.starting) = (ready, starting);
    }

    /// What was decided last; none where nobody decides.
    pub(super) fn status(&self) -> Option<Status> {
        self.policy.as_ref().map(|_| self.status.borrow().clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
