//! A rank that is led: it joins, loads what the leader has decided, and computes until the group ends.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_engine::cpu::CpuStage;
use wharf_engine::{BackendError, Ranks};

use crate::GroupOptions;
use crate::fate::{Ending, Fate};
use crate::handshake::{Channel, Hello, Identity, Kind, Setup};
use crate::link::Link;
use crate::star::Ray;
use crate::vigil::Vigil;
use crate::wire::{self, FrameKind, WireError};
use crate::{pipeline, tensor};

/// Why a rank could not join, or did not stay.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The leader is not there.
    #[error("failed to reach the leader at {address} within {seconds} s")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long it was tried.
        seconds: f64,
        /// The last error.
        source: io::Error,
    },
    /// The leader does not take this rank.
    #[error("the leader at {address} refused this rank: {why}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it said.
        why: String,
    },
    /// The leader did not answer as it should.
    #[error("failed to join the group of {address}: {why}")]
    Join {
        /// Where it is.
        address: String,
        /// What was wrong.
        why: String,
    },
    /// The operating system refuses.
    #[error("failed to set up a rank")]
    Io(#[from] io::Error),
    /// The group has ended, and not in order.
    #[error("{0}")]
    Lost(String),
}

/// Time between two tries to reach the leader: it may be started later, and its name may not resolve yet.
const AGAIN: Duration = Duration::from_millis(200);

/// Longest answer to a greeting.
const MOST_ANSWER: usize = 64 << 10;

/// A rank that belongs to a group and has not loaded yet.
pub struct Joined {
    /// What the leader has decided.
    pub setup: Setup,
    identity: Identity,
    fate: Arc<Fate>,
    vigil: Vigil,
    link: Link,
}

/// Joins the group that is led from `address`.
///
/// # Errors
/// When the leader cannot be reached or does not take this rank.
pub fn join(address: &str, identity: &Identity, options: &GroupOptions) -> Result<Joined, WorkerError> {
    let deadline = Instant::now() + options.assembly;
    let greet = |channel| -> Result<TcpStream, WorkerError> {
        let mut stream = connect(address, deadline, options.assembly)?;
        let hello = Hello { identity: identity.clone(), channel, key: options.key.clone() };
        let mut payload = Vec::new();
        hello.encode(&mut payload);
        wire::write(&mut stream, FrameKind::Hello, &payload)?;
        Ok(stream)
    };
    let mut data = greet(Channel::Data)?;
    let watch = greet(Channel::Watch)?;
    // The answer comes when all ranks are there.
    data.set_read_timeout(Some(options.assembly))?;
    let mut payload = Vec::new();
    let failed = |why: String| WorkerError::Join { address: address.to_owned(), why };
    let setup = match wire::read(&mut data, &mut payload, MOST_ANSWER) {
        Ok(FrameKind::Welcome) => Setup::decode(&payload).map_err(|error| failed(error.to_string()))?,
        Ok(FrameKind::Refused) => {
            let why = String::from_utf8_lossy(&payload).into_owned();
            return Err(WorkerError::Refused { address: address.to_owned(), why });
        }
        Ok(found) => {
            let expected = FrameKind::Welcome;
            return Err(failed(WireError::Unexpected { found, expected }.to_string()));
        }
        Err(WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(failed("the leader has given the group up, its own error says why".into()));
        }
        Err(error) => return Err(failed(crate::link::reasons(&error))),
    };
    let fate = Arc::new(Fate::default());
    let link = Link::new(data, "the leader".into(), &fate)?;
    let vigil = Vigil::begin(&fate, vec![("the leader".into(), watch)], options.patience)?;
    Ok(Joined { setup, identity: identity.clone(), fate, vigil, link })
}

fn connect(address: &str, deadline: Instant, patience: Duration) -> Result<TcpStream, WorkerError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(AGAIN);
        let tried = resolve(address).and_then(|address| TcpStream::connect_timeout(&address, left));
        match tried {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() + AGAIN < deadline => std::thread::sleep(AGAIN),
            Err(source) => {
                let seconds = patience.as_secs_f64();
                return Err(WorkerError::Unreachable { address: address.to_owned(), seconds, source });
            }
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    address.to_socket_addrs()?.next().ok_or_else(unknown)
}

impl Joined {
    /// What becomes of the group.
    pub fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// What the rank's stage passes sums on over.
    ///
    /// # Errors
    /// When the operating system refuses, or the leader's shared memory is not there.
    pub fn ranks(&self) -> io::Result<Box<dyn Ranks>> {
        #[cfg(target_os = "linux")]
        if let Some(shared) = self.setup.shared {
            let Identity { size, rank, .. } = self.identity;
            return Ok(Box::new(crate::shared::SharedRanks::inherited(shared, size, rank, &self.fate)?));
        }
        let last = self.identity.rank + 1 == self.identity.size;
        Ok(Box::new(Ray::new(self.link.split()?, last)))
    }

    /// Computes what the leader sends until it ends the group.
    ///
    /// # Errors
    /// [`WorkerError::Lost`] unless the group has ended in order.
    pub fn follow(mut self, stage: CpuStage) -> Result<(), WorkerError> {
        let most = pipeline::most_batch(&stage);
        let followed = self.link.send(FrameKind::Ready, |_| ()).and_then(|()| match self.identity.kind {
            Kind::Tensor => tensor::follow(&mut self.link, stage, most),
            Kind::Pipeline => pipeline::follow(&mut self.link, stage),
        });
        // What the leader says of the end is better than what its closed connection says, and comes at the same time.
        let ending = match followed {
            Ok(()) => self.vigil.end(Ending::Orderly),
            Err(error) => self.vigil.end(Ending::Lost(error.to_string())),
        };
        match ending {
            Ending::Orderly => Ok(()),
            Ending::Lost(reason) => Err(WorkerError::Lost(reason)),
        }
    }

    /// Ends the group because this rank cannot load its part.
    pub fn give_up(self, why: &str) {
        self.vigil.end(Ending::Lost(why.to_owned()));
    }
}

impl From<BackendError> for WorkerError {
    fn from(error: BackendError) -> WorkerError {
        WorkerError::Lost(error.to_string())
    }
}
