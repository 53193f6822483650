//! One connection: TLS, HTTP/1.1 or HTTP/2, time limits, and the polite refusal of one too many.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// A dead HTTP/2 peer is noticed after the sum of these.
const H2_PING_EVERY: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a peer may do before a request is there.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long it may take with TLS and with headers.
    pub header_timeout: Duration,
    /// Bytes of one request's headers.
    pub max_header_bytes: usize,
    /// Streams of one HTTP/2 connection at a time.
    pub h2_streams: u32,
}

/// The certificate that a peer has proved to be its own, among the extensions of its requests. Whether it is any good was for the TLS
/// configuration's verifier to say.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Arc<CertificateDer<'static>>);

/// What connections are answered with: a hyper service that can be shared.
pub trait Serves:
    Service<Request<Incoming>, Response = Response<Self::Answer>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
    /// The body of its responses.
    type Answer: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<S, B> Serves for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Answer = B;
}

/// The connections of a server: how many there are and how many there may be.
pub struct Connections {
    open: AtomicUsize,
    most: usize,
    refusal: Refusal,
}

/// What one connection too many is told.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Value of the header `Retry-After`.
    pub retry_after_seconds: u32,
    /// The response's body, JSON.
    pub body: String,
}

impl Connections {
    /// None yet.
    pub fn new(most: usize, refusal: Refusal) -> Arc<Connections> {
        Arc::new(Connections { open: AtomicUsize::new(0), most, refusal })
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Counts a connection while it lives.
pub(crate) struct Counted {
    connections: Option<Arc<Connections>>,
    over_limit: bool,
}

impl Counted {
    pub(crate) fn new(connections: Option<&Arc<Connections>>) -> Counted {
        match connections {
            Some(connections) => {
                let before = connections.open.fetch_add(1, Ordering::Relaxed);
                let over_limit = before >= connections.most;
                Counted { connections: Some(Arc::clone(connections)), over_limit }
            }
            None => Counted { connections: None, over_limit: false },
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(connections) = &self.connections {
            connections.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a listener serves connections with.
pub(crate) struct Served<S> {
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) service: S,
    pub(crate) limits: Limits,
    /// Becomes true when the listener ends.
    pub(crate) stop: watch::Receiver<bool>,
}

impl<S: Serves> Served<S> {
    pub(crate) async fn run(self: Arc<Self>, mut stream: TcpStream, counted: Counted, watcher: Watcher) {
        if let Some(connections) = &counted.connections
            && counted.over_limit
        {
            // Best effort: the peer may be gone.
            let _ = timeout(Duration::from_secs(1), refuse(&mut stream, &connections.refusal)).await;
            return;
        }
        // Tokens are small and must not wait for each other. A socket that cannot do it still works.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => match timeout(self.limits.header_timeout, self.protocol(&stream)).await {
                Ok(Ok(Some(protocol))) => self.serve(stream, protocol, None, watcher).await,
                // The listener ends, and nothing was sent that could be answered.
                Ok(Ok(None)) => {}
                Ok(Err(e)) => tracing::debug!(error = %e, "a connection ended early"),
                Err(_) => {
                    // Bytes that nobody reads would turn the end of the connection into a reset.
                    let _ = stream.try_read(&mut [0; PREFACE.len()]);
                    tracing::debug!("a connection sent no request in time");
                }
            },
            Some(tls) => match timeout(self.limits.header_timeout, tls.accept(stream)).await {
                // Boxed, so that connections without TLS do not have the room for it.
                Ok(Ok(stream)) => {
                    let session = stream.get_ref().1;
                    let protocol = Protocol::agreed(session.alpn_protocol());
                    let peer = session.peer_certificates().and_then(<[_]>::first);
                    let peer =
                        peer.map(|certificate| PeerCertificate(Arc::new(certificate.clone().into_owned())));
                    Box::pin(self.serve(stream, protocol, peer, watcher)).await;
                }
                Ok(Err(e)) => tracing::debug!(error = %e, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
    }

    /// What the peer speaks; nothing if the listener ends before it has said anything.
    async fn protocol(&self, stream: &TcpStream) -> io::Result<Option<Protocol>> {
        let mut stop = self.stop.clone();
        tokio::select! {
            protocol = Protocol::of(stream) => protocol.map(Some),
            _ = stop.wait_for(|stop| *stop) => Ok(None),
        }
    }

    async fn serve<I>(&self, stream: I, protocol: Protocol, peer: Option<PeerCertificate>, watcher: Watcher)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Limits { header_timeout, max_header_bytes, h2_streams } = self.limits;
        let first_request = Arc::new(Notify::new());
        let service = {
            let service = self.service.clone();
            let first_request = Arc::clone(&first_request);
            service_fn(move |mut request: Request<Incoming>| {
                first_request.notify_one();
                if let Some(peer) = &peer {
                    request.extensions_mut().insert(peer.clone());
                }
                service.call(request)
            })
        };
        let stream = TokioIo::new(stream);
        // hyper's clock for headers starts with their first byte; a client that sends nothing at all never gets that far.
        let no_request_at_all = async {
            if timeout(header_timeout, first_request.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let ended = async {
            match protocol {
                Protocol::Http1 => {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(header_timeout)
                        .max_buf_size(max_header_bytes)
                        .serve_connection(stream, service);
                    watcher.watch(connection).await
                }
                // Boxed, so that the many connections of HTTP/1.1 do not have the room for it.
                Protocol::Http2 => {
                    let connection = http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .keep_alive_interval(H2_PING_EVERY)
                        .keep_alive_timeout(H2_PING_TIMEOUT)
                        .max_concurrent_streams(h2_streams)
                        .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX))
                        .serve_connection(stream, service);
                    Box::pin(watcher.watch(connection)).await
                }
            }
        };
        tokio::select! {
            result = ended => if let Err(e) = result {
                tracing::debug!(error = %e, "a connection ended early");
            },
            () = no_request_at_all => tracing::debug!("a connection sent no request in time"),
        }
    }
}

/// What a peer speaks. It is found out before hyper reads anything: hyper-util's own way gives hyper what it read to find out and the rest in two
/// pieces, for which hyper takes a buffer of twice the size, and keeps it for as long as an answer streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// How HTTP/2 begins (RFC 9113, section 3.4). All of it must be there: to half of it nobody answers in HTTP/2.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A beginning that came in pieces is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Protocol {
    /// As agreed in the TLS handshake. Without an agreement it is HTTP/1.1: over TLS nobody may begin HTTP/2 unasked (RFC 9113, section 3.2).
    fn agreed(alpn: Option<&[u8]>) -> Protocol {
        if alpn == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 }
    }

    /// By the first bytes of a connection, which stay unread.
    async fn of(stream: &TcpStream) -> io::Result<Protocol> {
        let mut first = [0; PREFACE.len()];
        loop {
            let count = stream.peek(&mut first).await?;
            if let Some(protocol) = Protocol::by(&first[..count]) {
                return Ok(protocol);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// None while it may be either. A peer that has closed is HTTP/1.1's to say farewell to.
    fn by(first: &[u8]) -> Option<Protocol> {
        match PREFACE.strip_prefix(first) {
            Some([]) => Some(Protocol::Http2),
            Some(_) if !first.is_empty() => None,
            Some(_) | None => Some(Protocol::Http1),
        }
    }
}

/// Says why, then reads until the peer closes: closing with unread data resets the connection, and the peer would
/// not see the answer.
async fn refuse(stream: &mut TcpStream, refusal: &Refusal) -> io::Result<()> {
    let Refusal { retry_after_seconds, body } = refusal;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {retry_after_seconds}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_peer_speaks() {
        let cases = [
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2)),
            ("PRI * HTTP/1.1\r\nhost: x", Some(Protocol::Http1)),
            ("PRI * HTT", None),
            ("POS", Some(Protocol::Http1)),
            ("PU", Some(Protocol::Http1)),
            ("G", Some(Protocol::Http1)),
            ("", Some(Protocol::Http1)),
            ("P", None),
            ("PR", None),
        ];
        for (first, protocol) in cases {
            assert_eq!(Protocol::by(first.as_bytes()), protocol, "{first:?}");
        }
        assert_eq!(Protocol::agreed(Some(b"h2")), Protocol::Http2);
        assert_eq!([Some(&b"http/1.1"[..]), None].map(Protocol::agreed), [Protocol::Http1; 2]);
    }
}
