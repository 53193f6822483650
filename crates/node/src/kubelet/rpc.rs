//! gRPC on a Unix socket, both sides of it, for services of a few calls.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use wharf_listen::grpc::{Answered, Asked};

/// Whoever is on this machine and takes longer than this is not well.
const PATIENCE: Duration = Duration::from_secs(10);
/// Accepting fails when file descriptors run out; trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connects to a socket.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(socket: &Path) -> Result<Channel, Status> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name is only for the header: HTTP/2 wants one.
    let endpoint = Endpoint::from_static("http://localhost");
    match timeout(PATIENCE, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Status::unavailable(format!(
            "failed to connect to {}: {}",
            socket.display(),
            wharf_telemetry::log::chain(&error)
        ))),
        Err(_) => Err(Status::deadline_exceeded(format!("{} did not accept a connection", socket.display()))),
    }
}

/// A call with one answer.
///
/// # Errors
/// The other side's, or that it did not answer.
pub async fn call<Q, A>(channel: Channel, path: &'static str, question: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    call_long(channel, path, question, 4 << 20).await
}

/// As [`call`], with an answer of so many bytes at most.
///
/// # Errors
/// As [`call`].
pub async fn call_long<Q, A>(
    channel: Channel,
    path: &'static str,
    question: Q,
    longest: usize,
) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(longest);
    let asking = async {
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await
    };
    match timeout(PATIENCE, asking).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded(format!("{path} was not answered"))),
    }
}

/// A call with many answers.
///
/// # Errors
/// As [`call`].
pub async fn follow<Q, A>(channel: Channel, path: &'static str, question: Q) -> Result<Streaming<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer =
        grpc.server_streaming(Request::new(question), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
}

/// Answers on a socket for as long as it is polled; all connections end with it.
pub async fn serve<F, R>(listener: UnixListener, answer: F)
where
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answered> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(connections.spawn(converse(stream, answer.clone()))),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection of kubelet's");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<F, R>(stream: UnixStream, answer: F)
where
    F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answered> + Send + 'static,
{
    let service = service_fn(move |asked: Asked| {
        let answering = answer(asked);
        async move { Ok::<_, io::Error>(answering.await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection of kubelet's ended early");
    }
}

/// Whether somebody listens on a socket.
pub async fn is_alive(socket: &Path) -> bool {
    matches!(timeout(PATIENCE, UnixStream::connect(socket)).await, Ok(Ok(_)))
}

/// Opens a socket, in place of a file that nobody listens on any more.
///
/// # Errors
/// When the folder cannot be written.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(socket)
}
