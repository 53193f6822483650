//! Scales services by demand: in the operator that leads, one autoscaler for each service that asks for it. What it decides is decided by
//! `wharf_autoscaler`; here it meets the gateways' lines and the service's scale subresource, which looks follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wharf_api::demand::DemandReport;
use wharf_autoscaler::{Demand, Now, Policy, Replicas, ScaleTarget, Settings, Status, policy, run, scaler};
use wharf_cluster::{Object, reference};
use wharf_spec::LLMService;
use wharf_spec::service::ScalingMode;
use wharf_telemetry::metrics::operator as table;

use crate::context::Context;
use crate::{apply, events, scale};

/// Lines of demand that wait for an autoscaler; each says everything, so one would do.
const LINES: usize = 4;
/// Wharf's own policy, in the list of them.
const OWN: &str = "native";

/// The autoscalers of an operator, by the uid of the service.
pub(crate) struct Autoscalers {
    running: Mutex<HashMap<String, Running>>,
    /// They look together, counted from here: one moment a second at which the process wakes up, however many there are.
    since: Instant,
}

/// One that runs. It ends with this.
struct Running {
    policy: Policy,
    _tasks: JoinSet<()>,
}

/// The policy that a service asks our autoscaler to follow; none where somebody else decides.
///
/// # Errors
/// A sentence for whoever wrote the object.
pub(crate) fn wanted(service: &LLMService) -> Result<Option<Policy>, String> {
    let scaling = &service.spec.scaling;
    match scaling.mode {
        // Where there is nothing to choose nobody needs to look.
        ScalingMode::Native => {
            policy(scaling).map(|policy| Some(policy).filter(|policy| policy.min < policy.max))
        }
        ScalingMode::None | ScalingMode::Hpa | ScalingMode::Keda => Ok(None),
    }
}

impl Autoscalers {
    pub(crate) fn new(since: Instant) -> Autoscalers {
        Autoscalers { running: Mutex::default(), since }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends those of services that are gone.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| known(uid));
    }

    /// From now on a service is scaled by this policy, or not by us.
    pub(crate) fn follow(&self, context: &Arc<Context>, object: &Object, policy: Option<Policy>) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut running = self.lock();
        let Some(policy) = policy else {
            running.remove(&uid);
            return;
        };
        if running.get(&uid).is_some_and(|known| known.policy == policy) {
            return;
        }
        let Some(scaler) = scaler(OWN, &policy) else { return };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let now = Now::after(Timestamp::now(), Duration::ZERO);
        let demand = Demand::for_policy(&format!("{namespace}/{name}"), &policy, now);
        let (sender, lines) = mpsc::channel(LINES);
        let mut tasks = JoinSet::new();
        tasks.spawn(pass_on(context.gateways.lines(), sender));
        let bounds = (policy.min, policy.max);
        let target = Target { context: Arc::downgrade(context), namespace, name, bounds };
        let settings = Settings { since: Some(self.since), ..Settings::default() };
        tasks.spawn(async move {
            // Who decided what is told by Events.
            let (told, _) = watch::channel(Status::default());
            run(&target, scaler, demand, lines, settings, &told).await;
        });
        running.insert(uid, Running { policy, _tasks: tasks });
    }
}

async fn pass_on(mut from: broadcast::Receiver<Arc<DemandReport>>, to: mpsc::Sender<Arc<DemandReport>>) {
    loop {
        match from.recv().await {
            // One that is behind gets the next line, which says everything too.
            Ok(line) => drop(to.try_send(line)),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        if to.is_closed() {
            return;
        }
    }
}

/// A service of the cluster, as the autoscaler sees it.
struct Target {
    /// Ours while we work: an autoscaler must not keep it alive.
    context: Weak<Context>,
    namespace: String,
    name: String,
    /// Fewest and most replicas, as looks hold them.
    bounds: (u32, u32),
}

/// Why a service could not be read or scaled.
#[derive(Debug, thiserror::Error)]
enum TargetError {
    #[error("the service is gone")]
    Gone,
    #[error(transparent)]
    Refused(#[from] crate::error::Error),
}

impl Target {
    fn object(&self, context: &Context) -> Result<Arc<DynamicObject>, TargetError> {
        let found = reference(&context.services.resource, &self.namespace, &self.name);
        context.services.store.get(&found).ok_or(TargetError::Gone)
    }
}

impl ScaleTarget for Target {
    type Error = TargetError;

    async fn read(&self) -> Result<Replicas, TargetError> {
        let context = self.context.upgrade().ok_or(TargetError::Gone)?;
        Ok(replicas(&*self.object(&context)?, self.bounds))
    }

    async fn set(&self, replicas: u32, reason: &str) -> Result<(), TargetError> {
        let context = self.context.upgrade().ok_or(TargetError::Gone)?;
        let object = self.object(&context)?;
        let from = self::replicas(&object, self.bounds).wanted;
        scale::service(&context, &object, replicas).await?;
        context.metrics.add(&table::SCALED, &[direction(from, replicas)], 1.0);
        let note = format!("from {from} to {replicas}: {reason}");
        apply::tell(&context, &object, vec![events::event(false, "Scaled", &note)]).await;
        Ok(())
    }
}

/// Replicas as the object says them.
fn replicas(object: &DynamicObject, (min, max): (u32, u32)) -> Replicas {
    let count = |value: &serde_json::Value, absent: u64| {
        u32::try_from(value.as_u64().unwrap_or(absent)).unwrap_or(u32::MAX)
    };
    let status = &object.data["status"];
    let ready = count(&status["readyReplicas"], 0);
    Replicas {
        wanted: count(&object.data["spec"]["replicas"], 1).clamp(min, max),
        ready,
        starting: count(&status["replicas"], 0).saturating_sub(ready),
    }
}

fn direction(from: u32, to: u32) -> &'static str {
    match (from, to) {
        (0, _) => "wake",
        (_, 0) => "sleep",
        _ if to > from => "up",
        _ => "down",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replicas_are_within_the_bounds_that_looks_hold() {
        let object = |replicas: serde_json::Value| -> DynamicObject {
            let status = json!({"replicas": 3, "readyReplicas": 1});
            let object = json!({
                "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"},
                "spec": {"replicas": replicas}, "status": status,
            });
            serde_json::from_value(object).unwrap()
        };
        let expected = Replicas { wanted: 2, ready: 1, starting: 2 };
        assert_eq!(replicas(&object(json!(2)), (0, 5)), expected);
        assert_eq!(replicas(&object(json!(9)), (0, 5)).wanted, 5);
        assert_eq!(replicas(&object(json!(null)), (0, 5)).wanted, 1);
        assert_eq!(replicas(&object(json!(0)), (0, 5)).wanted, 0);
    }

    #[test]
    fn nobody_looks_where_there_is_nothing_to_choose() {
        let service = |scaling: serde_json::Value| -> LLMService {
            serde_json::from_value(json!({
                "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"},
                "spec": {"model": {"source": "hf://a/b"}, "scaling": scaling},
            }))
            .unwrap()
        };
        for fixed in
            [json!({}), json!({"min": 3}), json!({"min": 2, "max": 2}), json!({"mode": "none", "max": 3})]
        {
            assert_eq!(wanted(&service(fixed.clone())), Ok(None), "{fixed}");
        }
        for free in [json!({"max": 2}), json!({"min": 0})] {
            assert!(wanted(&service(free.clone())).unwrap().is_some(), "{free}");
        }
    }

    #[test]
    fn a_change_has_one_of_four_directions() {
        let all = [(0, 1), (3, 0), (1, 2), (2, 1)].map(|(from, to)| direction(from, to));
        assert_eq!(all, ["wake", "sleep", "up", "down"]);
    }
}
