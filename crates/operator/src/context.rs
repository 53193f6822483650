//! What every look needs, and the little that is remembered between looks: nothing in it is missed after a restart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use wharf_cluster::{Packed, reference};
use wharf_manifests::{Settings, Stored};
use wharf_spec::Object;
use wharf_spec::job::JobProgress;
use wharf_telemetry::metrics::Metrics;

use crate::gateways::Gateways;
use crate::needs::Read;
use crate::probe::Probe;
use crate::scaling::Autoscalers;
use crate::service::{Counted, Refusal};
use crate::view::View;

/// Tells the time, in milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What every look needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// How long to wait at most before a release that is under way is looked at again.
    pub(crate) beat: Duration,
    /// How long a look may take.
    pub(crate) patience: Duration,
    /// How long to wait at most before anything is looked at again.
    pub(crate) longest: Duration,
    pub(crate) view: View,
    pub(crate) services: Followed,
    pub(crate) models: Followed,
    /// Pods of the gateway.
    pub(crate) gateway_pods: Store<DynamicObject>,
    /// Nodes, where room is to be foreseen.
    pub(crate) nodes: Option<Store<Packed<()>>>,
    pub(crate) gateways: Arc<dyn Gateways>,
    pub(crate) probe: Arc<dyn Probe>,
    pub(crate) autoscalers: Autoscalers,
    pub(crate) metrics: Arc<Metrics>,
    /// Who we are, in Events.
    pub(crate) identity: String,
    pub(crate) remembered: Mutex<Memory>,
}

/// One of our own kinds.
pub(crate) struct Followed {
    pub(crate) resource: ApiResource,
    pub(crate) store: Store<DynamicObject>,
    pub(crate) queue: UnboundedSender<ObjectRef<DynamicObject>>,
}

impl Followed {
    /// Asks for a look at an object.
    pub(crate) fn ask(&self, namespace: &str, name: &str) {
        // Nobody listens any more when the operator ends.
        let _ = self.queue.send(reference(&self.resource, namespace, name));
    }
}

/// How a replica answered its first prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// It is being asked.
    Warming,
    /// It answered so many, and took so long for them.
    Warm(u32, Duration),
    /// It did not answer; why.
    Failed(String),
}

/// What is remembered between looks.
#[derive(Default)]
pub(crate) struct Memory {
    /// By the uid of the pod.
    pub(crate) warmth: HashMap<String, Warmth>,
    /// How far the command of a Job's pod is, by its uid.
    pub(crate) said: HashMap<String, JobProgress>,
    /// What a write changed of an object, by its uid: the version before and after.
    pub(crate) written: HashMap<String, (String, String)>,
    /// What was applied to children: by the uid of their owner, then by version and kind, and name.
    pub(crate) applied: HashMap<String, HashMap<ChildName, Applied>>,
    /// What gateways have counted of a service, by its uid.
    pub(crate) counted: HashMap<String, Counted>,
    /// When a workload of a service was made again as it was before an edit, by the uid of the service.
    pub(crate) put_right: HashMap<String, PutRight>,
    /// Why the last look at an object failed, by its uid: reason and sentence.
    pub(crate) trouble: BTreeMap<String, (String, String)>,
    /// What was found of an object, by its uid, and the generation that it was found of: an object is read once, not at every look.
    pub(crate) checked: HashMap<String, (i64, Result<Object, Refusal>)>,
    /// How often looks at an object have failed in a row, by its uid.
    pub(crate) failures: HashMap<String, u32>,
    /// What an object needs of the files of models, by its uid, and the version that it was read off.
    pub(crate) needs: HashMap<String, (String, Arc<[Stored]>)>,
}

impl Memory {
    /// Keeps what is about these objects, by their uids.
    pub(crate) fn retain(&mut self, known: &HashSet<String>) {
        self.written.retain(|uid, _| known.contains(uid));
        self.applied.retain(|uid, _| known.contains(uid));
        self.counted.retain(|uid, _| known.contains(uid));
        self.put_right.retain(|uid, _| known.contains(uid));
        self.trouble.retain(|uid, _| known.contains(uid));
        self.checked.retain(|uid, _| known.contains(uid));
        self.failures.retain(|uid, _| known.contains(uid));
        self.needs.retain(|uid, _| known.contains(uid));
    }
}

/// An edit was undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutRight {
    pub(crate) when: Instant,
    /// When an edit was last told of.
    pub(crate) told: Instant,
}

/// `apiVersion`, kind and name.
pub(crate) type ChildName = (String, String, String);

/// What became of a child when it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) digest: String,
    /// Its version before; none where it did not exist. Forgotten as soon as the watch shows another.
    pub(crate) before: Option<Option<String>>,
    pub(crate) after: String,
}

impl Context {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the command of a pod is, as it said last.
    pub(crate) fn said(&self, uid: &str) -> Option<JobProgress> {
        self.memory().said.get(uid).cloned()
    }

    /// What a service or a Model needs of the files of models, as `read` reads it; read once for each version.
    pub(crate) fn needs(&self, object: &DynamicObject, read: Read) -> Arc<[Stored]> {
        let (Some(uid), Some(version)) = (&object.metadata.uid, &object.metadata.resource_version) else {
            return read(object).into();
        };
        if let Some((of, needs)) = self.memory().needs.get(uid)
            && of == version
        {
            return Arc::clone(needs);
        }
        let needs: Arc<[Stored]> = read(object).into();
        self.memory().needs.insert(uid.clone(), (version.clone(), Arc::clone(&needs)));
        needs
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }
}
