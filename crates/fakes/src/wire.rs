//! Sockets of the fakes: a port on loopback that can be closed and opened again, and connections that can be cut.
//!
//! This file decides how connections end: politely, with FIN, or with RST. What is answered on them is decided by [`Serve`].

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Opening a port again waits for whoever borrowed it meanwhile, this often and this long.
const REOPEN_EVERY: Duration = Duration::from_millis(10);
const REOPEN_TRIES: u32 = 300;

/// What answers carry. An error cuts the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Who answers on a port.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Whether a new connection is served; else it is closed at once.
    fn admits(&self) -> bool;
    /// Answers a request.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> BoxFuture<'static, Response<Body>>;
}

/// A lock whose holder may have panicked: a test that fails must not make others fail in its stead.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a connection is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Serve,
    /// After the answers that are under way.
    Finish,
    /// Now, with FIN.
    Close,
    /// Now, with RST.
    Reset,
}

/// One accepted connection.
pub(crate) struct Connection {
    /// Counted from 1 on each port.
    pub(crate) id: u64,
    socket: Arc<Mutex<TcpStream>>,
    fate: watch::Sender<Fate>,
}

impl Connection {
    /// Ends it with FIN, whatever was promised to the peer.
    pub(crate) fn close(&self) {
        self.fate.send_replace(Fate::Close);
    }

    /// Ends it with RST.
    pub(crate) fn reset(&self) {
        self.fate.send_replace(Fate::Reset);
    }

    /// Whether this side has ended it, whatever was under way.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(*self.fate.borrow(), Fate::Close | Fate::Reset)
    }

    fn finish(&self) {
        self.fate.send_if_modified(|fate| {
            let serving = *fate == Fate::Serve;
            if serving {
                *fate = Fate::Finish;
            }
            serving
        });
    }
}

/// The open connections of a port.
#[derive(Default)]
struct Connections {
    open: HashMap<u64, Arc<Connection>>,
    accepted: u64,
}

/// The port of this number on loopback; 0 lets the system choose.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that somebody answers on.
pub(crate) struct Port {
    address: SocketAddr,
    serve: Arc<dyn Serve>,
    connections: Arc<Mutex<Connections>>,
    /// Tells how many connections are open.
    open: Arc<watch::Sender<usize>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Port {
    /// Listens on an address; port 0 lets the system choose.
    pub(crate) async fn open(address: SocketAddr, serve: Arc<dyn Serve>) -> io::Result<Port> {
        let listener = TcpListener::bind(address).await?;
        let this = Port {
            address: listener.local_addr()?,
            serve,
            connections: Arc::default(),
            open: Arc::new(watch::channel(0).0),
            accepting: Mutex::new(None),
        };
        this.accept(listener);
        Ok(this)
    }

    /// Where it listens, also while closed.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        lock(&self.connections).accepted
    }

    /// Connections open now.
    pub(crate) fn open_now(&self) -> usize {
        lock(&self.connections).open.len()
    }

    /// Refuses new connections; those that are open stay.
    pub(crate) async fn refuse(&self) {
        let task = lock(&self.accepting).take();
        if let Some(task) = task {
            task.abort();
            // The listener is gone when the task is.
            let _ = task.await;
        }
    }

    /// Accepts again after [`Port::refuse`].
    pub(crate) async fn reopen(&self) -> io::Result<()> {
        if lock(&self.accepting).is_some() {
            return Ok(());
        }
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < REOPEN_TRIES => {
                    tries += 1;
                    tokio::time::sleep(REOPEN_EVERY).await;
                }
                Err(e) => return Err(e),
            }
        };
        self.accept(listener);
        Ok(())
    }

    /// Tells connections to end after what is under way.
    pub(crate) fn finish_all(&self) {
        self.each(Connection::finish);
    }

    /// Cuts every connection with RST.
    pub(crate) fn reset_all(&self) {
        self.each(Connection::reset);
    }

    /// Tells how many connections are open, whenever that changes.
    pub(crate) fn watch_open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Returns when no connection is open.
    pub(crate) async fn all_ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    fn each(&self, act: fn(&Connection)) {
        let open: Vec<_> = lock(&self.connections).open.values().cloned().collect();
        open.iter().for_each(|connection| act(connection));
    }

    fn accept(&self, listener: TcpListener) {
        let serve = Arc::clone(&self.serve);
        let connections = Arc::clone(&self.connections);
        let open = Arc::clone(&self.open);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(REOPEN_EVERY).await;
                    continue;
                };
                let connection = {
                    let mut connections = lock(&connections);
                    connections.accepted += 1;
                    if !serve.admits() {
                        continue;
                    }
                    // Tokens are small and must not wait for each other; a socket that cannot do it still works.
                    let _ = stream.set_nodelay(true);
                    let connection = Arc::new(Connection {
                        id: connections.accepted,
                        socket: Arc::new(Mutex::new(stream)),
                        fate: watch::channel(Fate::Serve).0,
                    });
                    connections.open.insert(connection.id, Arc::clone(&connection));
                    open.send_replace(connections.open.len());
                    connection
                };
                let (serve, connections, open) =
                    (Arc::clone(&serve), Arc::clone(&connections), Arc::clone(&open));
                tokio::spawn(async move {
                    run(&connection, serve).await;
                    let mut connections = lock(&connections);
                    connections.open.remove(&connection.id);
                    open.send_replace(connections.open.len());
                });
            }
        });
        *lock(&self.accepting) = Some(task);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.accepting).take() {
            task.abort();
        }
        self.each(Connection::close);
    }
}

/// Serves one connection until it ends by itself or by its fate.
async fn run(connection: &Arc<Connection>, serve: Arc<dyn Serve>) {
    let mut fate = connection.fate.subscribe();
    let service = service_fn(|request: Request<Incoming>| {
        let answer = Arc::clone(&serve).answer(request, Arc::clone(connection));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let io = TokioIo::new(Socket(Arc::clone(&connection.socket)));
    let mut serving = std::pin::pin!(builder.serve_connection(io, service));
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, connection = connection.id, "a connection ended early");
                }
                return;
            }
            // The sender lives in `connection`.
            _ = fate.changed() => match *fate.borrow_and_update() {
                Fate::Serve => {}
                Fate::Finish => serving.as_mut().graceful_shutdown(),
                Fate::Close => return,
                Fate::Reset => {
                    // A socket that its peer has closed already has nothing to reset.
                    let _ = lock(&connection.socket).set_zero_linger();
                    return;
                }
            }
        }
    }
}

/// A socket that hyper reads and writes while the connection's owner can still set its options.
struct Socket(Arc<Mutex<TcpStream>>);

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(cx)
    }
}
