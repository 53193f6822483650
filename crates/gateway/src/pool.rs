//! Connections to endpoints that are kept for the next request, one pool for each worker thread.
//!
//! A connection comes back when its answer has been read to the end. The latest is used first, so that those that are not needed grow old
//! and are closed. A request whose body still arrives has a connection [of its own](Alone).

mod alone;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::upload::Sending;

pub(crate) use alone::Alone;

/// Idle connections that are kept to one endpoint by one worker.
const KEPT: usize = 256;
/// Servers close idle connections after a time of their own (uvicorn after 5 s); a request sent at that moment is lost and sent again.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Bytes that are read at a time. Tokens come in small pieces, and thousands of streams that wait for the next one each have such a buffer:
/// with 4 KiB a waiting stream costs 3.5 kB more, and a body of a megabyte is read half a millisecond faster.
const READ_BYTES: usize = 1 << 10;

/// The idle connections of a worker.
#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Sending>,
    since: Instant,
}

/// A connection in use.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Sending>,
    /// It has served before, so the endpoint may just have closed it.
    pub(crate) used_before: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("failed to connect")]
    Connect(#[source] io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("failed to begin HTTP")]
    Handshake(#[source] hyper::Error),
}

impl Pool {
    /// A connection that was kept, or a new one.
    pub(crate) async fn take(&self, address: &str, limit: Duration) -> Result<Connection, ConnectError> {
        while let Some(mut sender) = self.pop(address) {
            // A connection whose endpoint has closed it is not ready.
            if sender.ready().await.is_ok() {
                return Ok(Connection { sender, used_before: true });
            }
        }
        self.connect(address, limit).await
    }

    /// A new connection.
    pub(crate) async fn connect(&self, address: &str, limit: Duration) -> Result<Connection, ConnectError> {
        let stream = open(address, limit).await?;
        let (sender, connection) =
            builder().handshake(TokioIo::new(stream)).await.map_err(ConnectError::Handshake)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an endpoint ended early");
            }
        });
        Ok(Connection { sender, used_before: false })
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give_back(&self, address: &str, sender: SendRequest<Sending>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match idle.get_mut(address) {
            Some(kept) => kept,
            None => idle.entry(address.to_owned()).or_default(),
        };
        if kept.len() < KEPT {
            kept.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes what nobody has needed for long, and all to endpoints that are gone.
    pub(crate) fn tidy(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|idle| idle.since.elapsed() < MAX_IDLE && !idle.sender.is_closed());
            !kept.is_empty()
        });
    }

    fn pop(&self, address: &str) -> Option<SendRequest<Sending>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(address)?;
        let Idle { sender, since } = kept.pop()?;
        if since.elapsed() < MAX_IDLE {
            return Some(sender);
        }
        // The latest is too old, and so are the others.
        kept.clear();
        None
    }
}

async fn open(address: &str, limit: Duration) -> Result<TcpStream, ConnectError> {
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout(limit))?
        .map_err(ConnectError::Connect)?;
    // Requests are written whole; a socket that cannot do it still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.read_buf_exact_size(Some(READ_BYTES));
    builder
}

/// A pool that is tidied for as long as it is used.
pub(crate) fn start() -> Arc<Pool> {
    let pool = Arc::new(Pool::default());
    let weak = Arc::downgrade(&pool);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(MAX_IDLE / 2).await;
            let Some(pool) = weak.upgrade() else { return };
            pool.tidy();
        }
    });
    pool
}
