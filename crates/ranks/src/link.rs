//! One connection to another rank. Whatever goes wrong on it is the end of the group.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use wharf_engine::BackendError;

use crate::fate::Fate;
use crate::wire::{self, FrameKind};

/// How long the reason for a broken connection is waited for.
const REASON: Duration = Duration::from_secs(1);

/// A connection to a rank, for frames.
pub(crate) struct Link {
    stream: TcpStream,
    /// Who is at the other end, for errors.
    peer: String,
    fate: Arc<Fate>,
    frame: Vec<u8>,
    payload: Vec<u8>,
}

impl Link {
    pub(crate) fn new(stream: TcpStream, peer: String, fate: &Arc<Fate>) -> io::Result<Link> {
        stream.set_nodelay(true)?;
        // From here on the group's end is what ends waiting.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        fate.guard(&stream)?;
        Ok(Link { stream, peer, fate: Arc::clone(fate), frame: Vec::new(), payload: Vec::new() })
    }

    /// Another handle on the same connection: one of them writes, the other reads.
    pub(crate) fn split(&self) -> io::Result<Link> {
        Ok(Link {
            stream: self.stream.try_clone()?,
            peer: self.peer.clone(),
            fate: Arc::clone(&self.fate),
            frame: Vec::new(),
            payload: Vec::new(),
        })
    }

    pub(crate) fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// Sends a frame whose payload `fill` appends.
    pub(crate) fn send(
        &mut self,
        kind: FrameKind,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), BackendError> {
        wire::begin(&mut self.frame, kind);
        fill(&mut self.frame);
        wire::finish(&mut self.frame);
        let sent = io::Write::write_all(&mut self.stream, &self.frame);
        sent.map_err(|error| self.lost(&error))
    }

    /// Receives a frame of a kind with at most `most` bytes.
    pub(crate) fn receive(&mut self, kind: FrameKind, most: usize) -> Result<&[u8], BackendError> {
        match wire::expect(&mut self.stream, kind, &mut self.payload, most) {
            Ok(()) => Ok(&self.payload),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// The payload that was received last.
    pub(crate) fn received(&self) -> &[u8] {
        &self.payload
    }

    /// Receives any frame.
    pub(crate) fn receive_any(&mut self, most: usize) -> Result<(FrameKind, &[u8]), BackendError> {
        match wire::read(&mut self.stream, &mut self.payload, most) {
            Ok(kind) => Ok((kind, &self.payload)),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Ends the group because of what this peer has done. A connection that breaks has a reason, which another connection
    /// brings at nearly the same time.
    pub(crate) fn lost(&self, why: &dyn std::error::Error) -> BackendError {
        self.fate.wait(REASON);
        self.fate.lost(format!("{} is lost: {}", self.peer, reasons(why)))
    }
}

/// An error and its causes on one line.
pub(crate) fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
