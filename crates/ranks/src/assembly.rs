//! Decides when a group is complete: the leader waits for every rank's two connections and welcomes all of them at once.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::GroupOptions;
use crate::fate::{Ending, Fate};
use crate::handshake::{Channel, Greeting, Hello, Identity, MOST_GREETING, Setup};
use crate::link::Link;
use crate::vigil::Vigil;
use crate::wire::{self, FrameKind, WireError};

/// Why a group did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A rank does not fit.
    #[error("a rank does not fit into the group: {0}")]
    Mismatch(String),
    /// Ranks stayed away.
    #[error("ranks {missing:?} of {size} have not joined within {seconds} s")]
    Missing {
        /// Those that are not there.
        missing: Vec<usize>,
        /// Ranks of the group.
        size: usize,
        /// How long the leader waited.
        seconds: f64,
    },
    /// A rank ended before the group was complete.
    #[error("{0}")]
    Lost(String),
    /// The operating system refuses.
    #[error("failed to wait for ranks")]
    Io(#[from] io::Error),
}

/// Time that a stranger has to say who it is.
const GREETING: Duration = Duration::from_secs(10);

/// Greetings that may be under way at the same time.
const GREETERS: usize = 64;

/// A complete group as its leader has it.
pub struct Group {
    fate: Arc<Fate>,
    vigil: Vigil,
}

impl Group {
    /// What becomes of it.
    pub fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// Ends it, if nothing has ended it yet. Returns when the other ranks have been told.
    pub fn end(self, ending: Ending) -> Ending {
        self.vigil.end(ending)
    }
}

/// Connections to all workers, in the order of ranks.
pub struct Links(pub(crate) Vec<Link>);

/// Waits for all ranks, and welcomes them with `setup`. `fate` may end before, which ends the waiting.
///
/// # Errors
/// When a rank does not fit, stays away, or `fate` has ended.
pub fn assemble(
    listener: TcpListener,
    identity: &Identity,
    options: &GroupOptions,
    setup: &Setup,
    fate: &Arc<Fate>,
) -> Result<(Group, Links), AssemblyError> {
    let (found, arrivals) = mpsc::channel();
    let address = listener.local_addr()?;
    let told = found.clone();
    fate.on_end(move |ending| {
        // Nobody waits any more once the group is complete.
        let _ = told.send(Arrival::Ended(ending.clone()));
    });
    let closed = Arc::new(AtomicBool::new(false));
    let closing = Arc::clone(&closed);
    std::thread::Builder::new().name("accept".into()).spawn(move || accept(&listener, &closing, &found))?;
    let gathered = gather(&arrivals, identity, options);
    closed.store(true, Ordering::Release);
    // The thread looks at that when a connection comes: this one. Where none can be made it waits on, which costs nothing.
    let _ = TcpStream::connect_timeout(&reachable(address), GREETING);
    let (mut data, mut watch) = gathered?;
    let mut links = Vec::with_capacity(identity.size - 1);
    let mut peers = Vec::with_capacity(identity.size - 1);
    for rank in 1..identity.size {
        let name = format!("rank {rank}");
        let (Some(data), Some(watch)) = (data.remove(&rank), watch.remove(&rank)) else { continue };
        links.push(Link::new(data, name.clone(), fate)?);
        peers.push((name, watch));
    }
    let lost = |error: wharf_engine::BackendError| AssemblyError::Lost(error.to_string());
    for link in &mut links {
        link.send(FrameKind::Welcome, |to| setup.encode(to)).map_err(lost)?;
    }
    let vigil = Vigil::begin(fate, peers, options.patience)?;
    Ok((Group { fate: Arc::clone(fate), vigil }, Links(links)))
}

impl Links {
    /// Waits until every rank has loaded its part.
    ///
    /// # Errors
    /// When a rank is lost.
    pub(crate) fn ready(&mut self) -> Result<(), wharf_engine::BackendError> {
        self.0.iter_mut().try_for_each(|link| link.receive(FrameKind::Ready, 0).map(drop))
    }
}

/// Where our own listener can be reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

enum Arrival {
    Greeted(TcpStream, Greeting),
    Ended(Ending),
}

type ByRank = HashMap<usize, TcpStream>;

/// Both connections of every rank.
fn gather(
    arrivals: &mpsc::Receiver<Arrival>,
    identity: &Identity,
    options: &GroupOptions,
) -> Result<(ByRank, ByRank), AssemblyError> {
    let (mut data, mut watch) = (ByRank::new(), ByRank::new());
    let deadline = Instant::now() + options.assembly;
    while data.len() + watch.len() < 2 * (identity.size - 1) {
        let left = deadline.saturating_duration_since(Instant::now());
        match arrivals.recv_timeout(left) {
            Ok(Arrival::Greeted(stream, greeting)) => {
                if let Some((hello, stream)) = admit(stream, greeting, identity, &options.key)? {
                    let to = match hello.channel {
                        Channel::Data => &mut data,
                        Channel::Watch => &mut watch,
                    };
                    // A rank that was restarted takes the place of its former self.
                    to.insert(hello.identity.rank, stream);
                }
            }
            Ok(Arrival::Ended(Ending::Lost(reason))) => return Err(AssemblyError::Lost(reason)),
            Ok(Arrival::Ended(Ending::Orderly)) | Err(RecvTimeoutError::Disconnected) => {
                return Err(AssemblyError::Lost("the group has ended".into()));
            }
            Err(RecvTimeoutError::Timeout) => {
                let there = |rank: &usize| data.contains_key(rank) && watch.contains_key(rank);
                return Err(AssemblyError::Missing {
                    missing: (1..identity.size).filter(|rank| !there(rank)).collect(),
                    size: identity.size,
                    seconds: options.assembly.as_secs_f64(),
                });
            }
        }
    }
    Ok((data, watch))
}

/// The rank that greets, if it is one; an error if it is one of ours that does not fit.
fn admit(
    mut stream: TcpStream,
    greeting: Greeting,
    identity: &Identity,
    key: &str,
) -> Result<Option<(Hello, TcpStream)>, AssemblyError> {
    let (hello, differs) = match greeting {
        Greeting::OtherProtocol { protocol, version } => {
            let protocol =
                format!("a rank of wharf {version} speaks version {protocol} of the ranks' protocol");
            (None, Some(format!("{protocol}, the leader {}", wire::PROTOCOL)))
        }
        // What is wrong is said on the connection where a worker waits for an answer.
        Greeting::Hello(hello)
            if hello.channel == Channel::Watch
                && (!hello.knows(key) || identity.differs(&hello.identity).is_some()) =>
        {
            return Ok(None);
        }
        Greeting::Hello(hello) if !hello.knows(key) => {
            tracing::warn!("a connection to the ranks' port does not know the group's key and is refused");
            // It may have left.
            let _ = wire::write(&mut stream, FrameKind::Refused, b"the group has another key");
            return Ok(None);
        }
        Greeting::Hello(hello) => {
            let differs = identity.differs(&hello.identity);
            (Some(hello), differs)
        }
    };
    if let Some(differs) = differs {
        // It may have left; the error is told here all the same.
        let _ = wire::write(&mut stream, FrameKind::Refused, differs.as_bytes());
        return Err(AssemblyError::Mismatch(differs));
    }
    Ok(hello.map(|hello| (hello, stream)))
}

/// Greets whoever connects until `closed`, each on a thread of its own: who says nothing holds up nobody.
fn accept(listener: &TcpListener, closed: &AtomicBool, found: &mpsc::Sender<Arrival>) {
    let greeters = Arc::new(());
    loop {
        let stream = match listener.accept() {
            Ok(_) if closed.load(Ordering::Acquire) => return,
            // Strangers, for all that we know.
            Ok(_) if Arc::strong_count(&greeters) > GREETERS => continue,
            Ok((stream, _)) => stream,
            Err(error) => return tracing::warn!(%error, "failed to accept connections of ranks"),
        };
        let (found, greeter) = (found.clone(), Arc::clone(&greeters));
        let greet = move || {
            let _greeter = greeter;
            match greeting_of(stream) {
                // An error means that nobody waits any more.
                Ok((stream, greeting)) => drop(found.send(Arrival::Greeted(stream, greeting))),
                Err(error) => tracing::debug!(%error, "a connection to the ranks' port was no rank"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("greet".into()).spawn(greet) {
            tracing::warn!(%error, "failed to start a thread that greets ranks");
        }
    }
}

fn greeting_of(mut stream: TcpStream) -> Result<(TcpStream, Greeting), WireError> {
    stream.set_read_timeout(Some(GREETING))?;
    stream.set_write_timeout(Some(GREETING))?;
    let mut payload = Vec::new();
    wire::expect(&mut stream, FrameKind::Hello, &mut payload, MOST_GREETING)?;
    let greeting = Hello::decode(&payload)?;
    Ok((stream, greeting))
}
