//! The loop of one machine: hears what happens, lets every service look, serves commands. Everything that it decides is decided elsewhere.

mod orders;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use wharf_access::WatchedKeys;
use wharf_api::demand::ServiceDemand;
use wharf_gateway::console::Source;
use wharf_gateway::{Addresses, Gateway, Handle, ServeError};

use crate::child::Exit;
use crate::control::{self, Order, Reply};
use crate::division::{Division, divide};
use crate::folder::{Folder, FolderError};
use crate::objects;
use crate::options::{Listener, Options, Planner, Reader};
use crate::place::{Machine, Place, Taken};
use crate::prepare::{Prepared, Turns};
use crate::probe::Prober;
use crate::replica::Folders;
use crate::service::{Remembered, Service, file};
use crate::watch::Shown;

/// How often the files are looked at.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long replicas may take to end once the gateway has drained, before they are made to.
const END_WITHIN: Duration = Duration::from_secs(20);
/// How long those that are made to may take.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Message {
    /// The autoscaler wants another number of replicas.
    Scaled { service: String, from: u32, to: u32, reason: String },
    /// A model is so far.
    Prepared { service: String, revision: String, how: Prepared },
    /// A replica takes requests.
    Ready { service: String, replica: String },
    /// A replica answered its first prompts, or not.
    Warmed { service: String, replica: String, outcome: Result<(), String>, took: Duration },
    /// A replica does not answer any more.
    Silent { service: String, replica: String },
    /// A replica ended.
    Exited { service: String, replica: String, exit: Exit },
    /// Somebody wants something.
    Order(Order, oneshot::Sender<Reply>),
}

/// What all services share.
pub(crate) struct Context {
    pub(crate) wharf: PathBuf,
    pub(crate) fetch_args: Vec<String>,
    pub(crate) folder: Folder,
    pub(crate) folders: Folders,
    pub(crate) machine: Machine,
    pub(crate) gateway: Handle,
    pub(crate) prober: Prober,
    pub(crate) planner: Arc<dyn Planner>,
    pub(crate) listener: Listener,
    pub(crate) turns: Arc<Turns>,
    pub(crate) messages: mpsc::UnboundedSender<Message>,
    /// When this life of the gateway began, in milliseconds since 1970.
    pub(crate) epoch: u64,
    /// How GPUs are divided among those that ask for none.
    pub(crate) division: Division,
    taken: Mutex<Taken>,
    keys: Mutex<BTreeMap<String, WatchedKeys>>,
}

impl Context {
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
    }

    /// Places that replicas have.
    pub(crate) fn taken(&self) -> Taken {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn take(&self, replica: &str, place: &Place) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(replica.to_owned(), place.clone());
    }

    pub(crate) fn release(&self, replica: &str) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(replica);
    }

    /// Keys of a name that were read before; they are followed since.
    pub(crate) fn keys(&self, name: &str) -> Option<WatchedKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn keep_keys(&self, name: &str, keys: &WatchedKeys) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), keys.clone());
    }
}

/// What the gateway says of a service at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) demand: ServiceDemand,
    /// The gateway's requests by endpoint.
    pub(crate) in_flight: BTreeMap<String, u32>,
}

impl Seen {
    /// Requests at these addresses.
    pub(crate) fn requests<'a>(&self, addresses: impl IntoIterator<Item = &'a String>) -> u64 {
        addresses.into_iter().filter_map(|address| self.in_flight.get(address)).map(|n| u64::from(*n)).sum()
    }
}

/// Why services cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The files are wrong.
    #[error("{0}")]
    Files(String),
    /// The gateway cannot start.
    #[error(transparent)]
    Gateway(#[from] ServeError),
    /// The control socket cannot be opened.
    #[error("failed to open the control socket {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A client for health checks cannot be made.
    #[error("failed to prepare for health checks")]
    Prober(#[from] reqwest::Error),
}

/// Services that are about to run: the ports are open, nothing is started.
pub struct Up {
    gateway: Gateway,
    supervisor: Supervisor,
    messages: mpsc::UnboundedReceiver<Message>,
    stopped: oneshot::Receiver<()>,
}

struct Supervisor {
    context: Context,
    services: BTreeMap<String, Service>,
    reader: Reader,
    shown: Arc<Shown>,
    /// Told when somebody orders everything down.
    down: Option<oneshot::Sender<()>>,
}

impl Up {
    /// Reads the files, takes ports and socket. Call it within a runtime.
    ///
    /// # Errors
    /// [`UpError`].
    pub fn prepare(folder: Folder, options: Options) -> Result<Up, UpError> {
        let Options { wharf, models, cache, fetch_args, gateway, mut reader, listener, planner, machine } =
            options;
        let first = reader().unwrap_or_else(|| Ok(objects::Objects::default())).map_err(UpError::Files)?;
        let gateway = Gateway::bind(gateway)?;
        let (messages, hears) = mpsc::unbounded_channel();
        let socket = folder.socket();
        control::listen(&socket, messages.clone())
            .map_err(|source| UpError::Socket { path: socket, source })?;
        let folders = Folders { models, volumes: folder.root().join("volumes"), cache };
        let context = Context {
            wharf,
            fetch_args,
            folders,
            machine,
            gateway: gateway.handle(),
            prober: Prober::new()?,
            planner,
            listener,
            turns: Arc::default(),
            messages,
            epoch: gateway.handle().demand().epoch,
            division: Division::default(),
            taken: Mutex::default(),
            keys: Mutex::default(),
            folder,
        };
        let shown = Arc::new(Shown::default());
        context.gateway.set_console_source(Arc::clone(&shown) as Arc<dyn Source>);
        let (down, stopped) = oneshot::channel();
        let mut supervisor =
            Supervisor { context, services: BTreeMap::new(), reader, shown, down: Some(down) };
        supervisor.apply(Ok(first));
        Ok(Up { gateway, supervisor, messages: hears, stopped })
    }

    /// Where the gateway listens.
    pub fn addresses(&self) -> Addresses {
        self.gateway.addresses()
    }

    /// The gateway, to be looked at.
    pub fn gateway(&self) -> Handle {
        self.gateway.handle()
    }

    /// What the services are like, for as long as they run.
    pub fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.supervisor.shown)
    }

    /// Runs until `shutdown` or `wharf down`, then lets requests end and leaves nothing behind.
    ///
    /// # Errors
    /// When the gateway cannot go on.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), UpError> {
        let Up { gateway, mut supervisor, mut messages, stopped } = self;
        let (stop, told) = oneshot::channel::<()>();
        let mut serving = tokio::spawn(gateway.serve(async { drop(told.await) }));
        let mut shutdown = std::pin::pin!(async {
            tokio::select! {
                () = shutdown => {}
                _ = stopped => {}
            }
        });
        let mut stop = Some(stop);
        let mut read_at = Instant::now() + READ_EVERY;
        // Whoever asks from now on is told of every service.
        let mut look_at = Instant::now() + Duration::from_millis(supervisor.look());
        let served = loop {
            tokio::select! {
                served = &mut serving => break served,
                () = &mut shutdown, if stop.is_some() => {
                    // The gateway refuses what is new and answers what it has; replicas go on until it has.
                    stop = None;
                }
                Some(message) = messages.recv() => {
                    supervisor.hear(message);
                    while let Ok(message) = messages.try_recv() {
                        supervisor.hear(message);
                    }
                    look_at = Instant::now();
                }
                () = sleep_until(read_at), if stop.is_some() => {
                    read_at = Instant::now() + READ_EVERY;
                    if let Some(read) = (supervisor.reader)() {
                        supervisor.apply(read);
                        look_at = Instant::now();
                    }
                }
                () = sleep_until(look_at) => {}
            }
            if look_at <= Instant::now() {
                look_at = Instant::now() + Duration::from_millis(supervisor.look());
            }
        };
        supervisor.end(&mut messages).await;
        match served {
            Ok(served) => Ok(served?),
            Err(error) => Err(UpError::Gateway(ServeError::Threads(std::io::Error::other(error)))),
        }
    }
}

impl Supervisor {
    /// The files say this now.
    fn apply(&mut self, read: Result<objects::Objects, String>) {
        let resolved = read.and_then(objects::resolve);
        let wanted = match resolved {
            Ok(wanted) => wanted,
            Err(complaint) => {
                for service in self.services.values_mut() {
                    service.complaint = Some(format!("the files are wrong, what ran goes on: {complaint}"));
                    service.tell(true, "FilesWrong", complaint.clone(), &self.context);
                }
                return;
            }
        };
        for service in self.services.values_mut().filter(|service| !wanted.contains_key(&service.name)) {
            service.leave();
        }
        self.context.division = divide(&self.context.machine, wanted.values().map(|written| &written.object));
        for (name, written) in wanted {
            let context = &self.context;
            let service = self.services.entry(name.clone()).or_insert_with(|| {
                let remembered = context.folder.recall::<Remembered>(&file(&name));
                Service::new(name, remembered, context)
            });
            service.want(written, context);
        }
    }

    fn hear(&mut self, message: Message) {
        let context = &self.context;
        let mut of = |service: &str, act: &mut dyn FnMut(&mut Service)| {
            if let Some(service) = self.services.get_mut(service) {
                act(service);
            }
        };
        match message {
            Message::Scaled { service, from, to, reason } => {
                of(&service, &mut |s| s.scaled(from, to, reason.clone(), context));
            }
            Message::Prepared { service, revision, how } => {
                of(&service, &mut |s| s.prepared(&revision, how.clone(), context));
            }
            Message::Ready { service, replica } => of(&service, &mut |s| s.became_ready(&replica, context)),
            Message::Warmed { service, replica, outcome, took } => {
                of(&service, &mut |s| s.warmed(&replica, outcome.clone(), took));
            }
            Message::Silent { service, replica } => of(&service, &mut |s| s.silent(&replica)),
            Message::Exited { service, replica, exit } => {
                of(&service, &mut |s| s.exited(&replica, &exit, context));
            }
            Message::Order(order, reply) => {
                let answer = self.carry_out(order);
                // Who asked may have left.
                let _ = reply.send(answer);
            }
        }
    }

    /// Lets every service look; says in how many milliseconds to look again.
    fn look(&mut self) -> u64 {
        let demand = self.context.gateway.demand();
        let mut again = u64::MAX;
        for service in self.services.values_mut() {
            let seen = Seen {
                demand: demand.services.get(&service.name).cloned().unwrap_or_default(),
                in_flight: self.context.gateway.in_flight_by_endpoint(&service.name),
            };
            again = again.min(service.look(&self.context, &seen));
        }
        let before = self.services.len();
        self.services.retain(|_, service| !(service.is_going() && service.is_gone()));
        if self.services.len() < before {
            self.context.gateway.retain_services(|name| self.services.contains_key(name));
        }
        let shown = self.services.values().map(|service| {
            (service.name.clone(), service.facts(&self.context), service.written().map(Arc::clone))
        });
        if self.shown.update(shown) {
            self.context.gateway.console_changed();
        }
        again.min(1000)
    }

    /// Ends every process and waits until all have.
    async fn end(&mut self, messages: &mut mpsc::UnboundedReceiver<Message>) {
        for (kill, within) in [(false, END_WITHIN), (true, KILL_WITHIN)] {
            self.services.values_mut().for_each(|service| {
                service.leave();
                service.end(kill);
            });
            let deadline = Instant::now() + within;
            while !self.services.values().all(Service::is_gone) {
                match timeout_at(deadline, messages.recv()).await {
                    Ok(Some(message)) => self.hear(message),
                    Ok(None) | Err(_) => break,
                }
            }
        }
        if let Err(error) = std::fs::remove_file(self.context.folder.socket()) {
            tracing::debug!(%error, "the control socket is gone already");
        }
    }
}
