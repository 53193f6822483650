//! Runs the controllers: watches, queues, and who leads.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{applier, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use wharf_cluster::{Changed, Object, Packed, Watched, api, follow, keep};
use wharf_manifests::Settings;
use wharf_manifests::names::{MODEL, SERVICE};
use wharf_spec::{LLMService, Model};
use wharf_telemetry::metrics::operator as table;

use crate::context::{Clock, Context, Followed};
use crate::error::{Error, again_after};
use crate::gateways::{Gateways, HttpGateways};
use crate::lease::{HOLDS, Wanted, lead};
use crate::probe::{HttpProbe, Probe};
use crate::scaling::Autoscalers;
use crate::side::Side;
use crate::trim::trim;
use crate::view::View;
use crate::{model, service};

/// Name of the Lease of operators.
pub(crate) const LEASE: &str = "wharf-operator";
/// So many objects of a kind are looked at at the same time.
const AT_ONCE: u16 = 16;
/// Changes come in groups; an object is looked at once for each group.
const GROUP: Duration = Duration::from_millis(20);

/// After so many changes, what is remembered of objects that are gone is dropped.
const FORGET_AFTER: usize = 500;
/// How often memory that is free is given back.
const HAND_BACK: Duration = Duration::from_secs(60);

/// How an operator works.
#[derive(Clone)]
pub struct Options {
    /// Namespace whose objects it looks after; all if none.
    pub namespace: Option<String>,
    /// Where its Lease is, and its own name among those who want it. No Lease is asked for without.
    pub lease: Option<(String, String)>,
    /// What the installation says.
    pub settings: Settings,
    /// How long to wait at most before a release that is under way is looked at again.
    pub beat: Duration,
    /// How long to wait at most before anything is looked at again.
    pub longest: Duration,
    /// How long a look may take: an API server that does not answer must not hold one up for ever.
    pub patience: Duration,
    /// Tells the time, in milliseconds since 1970.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            namespace: None,
            lease: None,
            settings: Settings::default(),
            beat: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            patience: Duration::from_secs(30),
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }
}

/// An operator, and whom it speaks with beside the API server.
#[derive(Clone)]
pub struct Operator {
    /// The cluster.
    pub client: Client,
    /// How it works.
    pub options: Options,
    /// Gateways; those of `settings.gateway` if none are given.
    pub gateways: Option<Arc<dyn Gateways>>,
    /// Replicas; over HTTP if nothing is given.
    pub probe: Option<Arc<dyn Probe>>,
    /// Where it says how it is.
    pub side: Side,
}

impl Operator {
    /// An operator of a cluster, as it is outside tests.
    pub fn new(client: Client, options: Options) -> Operator {
        Operator { client, options, gateways: None, probe: None, side: Side::default() }
    }
}

/// Looks after services and models for as long as it is polled. Dropping it anywhere is safe: the next one goes on.
///
/// # Errors
/// When there is no TLS to be had, which HTTP clients prepare even where they need none. The cluster being away is no error: it is waited for.
pub async fn run(operator: Operator) -> Result<(), reqwest::Error> {
    let Some((namespace, identity)) = operator.options.lease.clone() else { return work(&operator).await };
    let wanted = Wanted { namespace, name: LEASE.to_owned(), identity, holds: HOLDS };
    loop {
        operator.side.stands_by();
        if let Some(ended) = lead(&operator.client, &wanted, work(&operator)).await {
            return ended;
        }
    }
}

async fn work(operator: &Operator) -> Result<(), reqwest::Error> {
    let Operator { client, options, gateways, probe, side } = operator;
    side.lists();
    let mut tasks = JoinSet::new();
    let (told, changes) = unbounded_channel();
    let (services, service_queue) = own_kind::<LLMService>(client, options, &told, &mut tasks);
    let (models, model_queue) = own_kind::<Model>(client, options, &told, &mut tasks);
    let gateways_changed = Arc::new(Notify::new());
    let gateway_pods = gateway_pods(client, options, &told, &gateways_changed, &mut tasks);
    let nodes = options.settings.foresee_room.then(|| nodes(client, &told, &mut tasks));
    let gateways = match gateways {
        Some(gateways) => Arc::clone(gateways),
        None => Arc::new(HttpGateways::new(gateway_pods.clone(), gateways_changed)?),
    };
    let probe = match probe {
        Some(probe) => Arc::clone(probe),
        None => Arc::new(HttpProbe::new()?),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        settings: options.settings.clone(),
        clock: Arc::clone(&options.clock),
        beat: options.beat,
        longest: options.longest,
        patience: options.patience,
        view: View::open(client, options.namespace.as_deref(), told).await,
        services,
        models,
        gateway_pods,
        nodes,
        gateways,
        probe,
        identity: options.lease.as_ref().map_or(LEASE, |lease| &lease.1).to_owned(),
        autoscalers: Autoscalers::new(Instant::now()),
        metrics: Arc::clone(side.record()),
        remembered: Default::default(),
    });
    for followed in [&context.services, &context.models] {
        // The task that fills the store ends with us.
        let _ = followed.store.wait_until_ready().await;
    }
    // Nobody may be taken for gone before they were listed.
    let _ = context.gateway_pods.wait_until_ready().await;
    let kinds = vec![("LLMService", context.services.store.clone()), ("Model", context.models.store.clone())];
    let of_gateways = Arc::clone(&context.gateways);
    side.works(kinds, move || of_gateways.followed());
    let everything = || {
        for followed in [&context.services, &context.models] {
            followed.store.state().iter().for_each(|object| ask(followed, object));
        }
    };
    everything();
    tokio::join!(
        hand_on(&context, changes, everything),
        control(&context, |context| &context.services, service_queue, service::reconcile),
        control(&context, |context| &context.models, model_queue, model::reconcile),
        hand_back(),
    );
    Ok(())
}

/// Gives memory back for as long as it is polled.
async fn hand_back() {
    let mut every = tokio::time::interval(HAND_BACK);
    loop {
        every.tick().await;
        wharf_memory::hand_back();
    }
}

type Queue = UnboundedReceiver<ObjectRef<DynamicObject>>;
type Told = tokio::sync::mpsc::UnboundedSender<Changed>;

/// Watches one of our own kinds. Objects are kept as they are written: one that cannot be read does not hold up the others.
fn own_kind<K: Resource<DynamicType = ()>>(
    client: &Client,
    options: &Options,
    told: &Told,
    tasks: &mut JoinSet<()>,
) -> (Followed, Queue) {
    let resource = ApiResource::erase::<K>(&());
    let told = told.clone();
    let tell = move |change| drop(told.send(change));
    let api = api(client, options.namespace.as_deref(), &resource);
    let store = follow(api, &resource, watcher::Config::default(), tell, tasks);
    let (queue, asked) = unbounded_channel();
    (Followed { resource, store, queue }, asked)
}

fn gateway_pods(
    client: &Client,
    options: &Options,
    told: &Told,
    changed: &Arc<Notify>,
    tasks: &mut JoinSet<()>,
) -> Store<DynamicObject> {
    let peer = &options.settings.gateway;
    let labels: Vec<String> = peer.pods.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let told = told.clone();
    let changed = Arc::clone(changed);
    let tell = move |change| {
        if let Changed::Broke(_) = change {
            drop(told.send(change));
            return;
        }
        // One permit is kept for whoever does not wait at the moment.
        changed.notify_one();
        // Every service points at gateways.
        drop(told.send(Changed::Much));
    };
    let config = watcher::Config::default().labels(&labels.join(","));
    follow(api(client, Some(&peer.namespace), &resource), &resource, config, tell, tasks)
}

/// Watches nodes. Nobody waits for them: an operator that may not do so works as one that was not told to.
fn nodes(client: &Client, told: &Told, tasks: &mut JoinSet<()>) -> Store<Packed<()>> {
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Node>(&());
    let told = told.clone();
    // What changes of a node is for the next look of whoever needs one.
    let tell = move |change| {
        if let Changed::Broke(_) = change {
            drop(told.send(change));
        }
    };
    let (api, config) = (api(client, None, &resource), watcher::Config::default());
    keep(Watched { api, resource: &resource, config, trim: trim("Node") }, |_| (), tell, tasks)
}

/// Whoever a change is of is looked at.
async fn hand_on(context: &Context, mut changes: UnboundedReceiver<Changed>, everything: impl Fn()) {
    let mut seen = 0;
    while let Some(change) = changes.recv().await {
        seen += 1;
        if seen % FORGET_AFTER == 0 {
            forget(context);
        }
        match change {
            Changed::Much => everything(),
            Changed::Broke(kind) => context.metrics.add(&table::WATCH_FAILURES, &[&kind], 1.0),
            Changed::Child(object) => of_child(context, &object),
        }
    }
}

/// Drops what is remembered of objects that are gone.
fn forget(context: &Context) {
    let followed = [&context.services, &context.models];
    let objects = followed.iter().flat_map(|followed| followed.store.state());
    let known: HashSet<String> = objects.filter_map(|object| object.metadata.uid.clone()).collect();
    context.autoscalers.retain(|uid| known.contains(uid));
    let pods = context.view.uids("v1", "Pod");
    let mut memory = context.memory();
    memory.retain(&known);
    memory.said.retain(|uid, _| pods.contains(uid));
}

fn of_child(context: &Context, object: &DynamicObject) {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    let namespace = object.namespace().unwrap_or_default();
    match kind {
        "LLMService" => ask(&context.services, object),
        "Model" => {
            ask(&context.models, object);
            let name = object.name_any();
            for service in context.services.store.state() {
                if service.namespace().as_deref() == Some(&namespace)
                    && service::referred(&service) == Some(&name)
                {
                    ask(&context.services, &service);
                }
            }
        }
        _ => {
            for (label, followed) in [(SERVICE, &context.services), (MODEL, &context.models)] {
                if let Some(name) = object.labels().get(label) {
                    followed.ask(&namespace, name);
                }
            }
        }
    }
}

fn ask(followed: &Followed, object: &DynamicObject) {
    followed.ask(&object.namespace().unwrap_or_default(), &object.name_any());
}

/// Looks at objects of one kind as they are asked for, each at most once at a time.
async fn control<F>(
    context: &Arc<Context>,
    of: fn(&Context) -> &Followed,
    queue: Queue,
    reconcile: impl Fn(Object, Arc<Context>) -> F + Copy,
) where
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let store = of(context).store.clone();
    let queue = UnboundedReceiverStream::new(queue).map(Ok::<_, Infallible>);
    let looks = applier(
        move |object, context: Arc<Context>| Box::pin(look(object, context, of, reconcile)),
        |_: Object, never: &Infallible, _| match *never {},
        Arc::clone(context),
        store,
        queue,
        Config::default().concurrency(AT_ONCE).debounce(GROUP),
    );
    let mut looks = std::pin::pin!(looks);
    while let Some(look) = looks.next().await {
        // What is deleted in between is not found; nothing else can fail.
        if let Err(error) = look {
            tracing::debug!(error = %wharf_telemetry::log::chain(&error), "an object was not looked at");
        }
    }
}

/// One look, and when the next one is: after a failure later each time, and what failed is remembered so that the next look says it.
async fn look<F>(
    object: Object,
    context: Arc<Context>,
    of: fn(&Context) -> &Followed,
    reconcile: impl Fn(Object, Arc<Context>) -> F,
) -> Result<Action, Infallible>
where
    F: Future<Output = Result<Action, Error>>,
{
    let uid = object.metadata.uid.clone().unwrap_or_default();
    // Dropping a look anywhere is safe: what it decided is kept before it acts.
    let began = Instant::now();
    let looked = timeout(context.patience, reconcile(Object::clone(&object), Arc::clone(&context))).await;
    let kind = of(&context).resource.kind.as_str();
    let metrics = &context.metrics;
    metrics.observe(&table::LOOK_SECONDS, &[kind], began.elapsed().as_secs_f64());
    match looked.unwrap_or(Err(Error::Late(context.patience))) {
        Ok(action) => {
            metrics.add(&table::LOOKS, &[kind, "done"], 1.0);
            let mut memory = context.memory();
            memory.failures.remove(&uid);
            if memory.trouble.remove(&uid).is_some() {
                drop(memory);
                // It still stands in the status.
                ask(of(&context), &object);
            }
            Ok(action)
        }
        Err(error) => {
            let said = wharf_telemetry::log::chain(&error);
            let mut memory = context.memory();
            let failures = memory.failures.entry(uid.clone()).or_default();
            *failures += 1;
            let again = again_after(&error, *failures - 1);
            let result = if error.is_a_race() { "race" } else { "failed" };
            metrics.add(&table::LOOKS, &[kind, result], 1.0);
            if error.is_a_race() {
                tracing::debug!(object = object.name_any(), error = said, "looked too early");
            } else {
                metrics.add(&table::FAILURES, &[kind, error.reason()], 1.0);
                tracing::warn!(object = object.name_any(), error = said, "a look failed and is taken again");
                let trouble = (error.reason().to_owned(), said);
                let news = memory.trouble.insert(uid, trouble.clone()) != Some(trouble);
                drop(memory);
                if news && matches!(error, Error::Unserved { .. }) {
                    ask(of(&context), &object);
                }
            }
            Ok(Action::requeue(again))
        }
    }
}
