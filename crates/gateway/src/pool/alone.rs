//! A connection for one request whose body still arrives: it serves no other, and ends with this.
//!
//! An endpoint that refuses a body in the middle answers and closes. What it had not read makes writing fail, and hyper would give up the
//! connection with the answer unread; so failed writes wait here, and reading says how it ends.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::{ConnectError, builder, open};
use crate::upload::Sending;

/// A connection that is closed when this is dropped, whatever is on its way.
pub(crate) struct Alone {
    pub(crate) sender: SendRequest<Sending>,
    task: AbortHandle,
}

impl Alone {
    /// A new connection: one that was kept could be closed at the moment in which the body goes out, of which there may be no second copy.
    pub(crate) async fn open(address: &str, limit: Duration) -> Result<Alone, ConnectError> {
        let socket = Socket { stream: open(address, limit).await?, broken: false };
        let (sender, connection) =
            builder().handshake(TokioIo::new(socket)).await.map_err(ConnectError::Handshake)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an endpoint ended early");
            }
        });
        Ok(Alone { sender, task: task.abort_handle() })
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket on which a write that fails never ends.
struct Socket {
    stream: TcpStream,
    broken: bool,
}

impl Socket {
    fn write(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Pending;
        }
        match ready!(write(Pin::new(&mut self.stream))) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(_) => {
                self.broken = true;
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
