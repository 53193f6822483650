//! Decides when a rank that is not heard of is lost, and tells the others that this one is still there, or how it ends.
//!
//! Beats have connections and threads of their own: a rank that computes for long is not a rank that hangs.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fate::{Ending, Fate};
use crate::link::reasons;
use crate::wire::{self, FrameKind, WireError};

/// Beats that fit into the time after which a rank is lost.
const BEATS: u32 = 5;

/// Longest reason that is read.
const MOST_REASON: usize = 64 << 10;

/// The threads that watch.
pub(crate) struct Vigil {
    fate: Arc<Fate>,
    sender: Option<JoinHandle<()>>,
}

impl Vigil {
    /// Watches `peers`, by name, until the group ends.
    pub(crate) fn begin(
        fate: &Arc<Fate>,
        peers: Vec<(String, TcpStream)>,
        patience: Duration,
    ) -> io::Result<Vigil> {
        let mut sending = Vec::with_capacity(peers.len());
        for (name, stream) in peers {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            sending.push(stream.try_clone()?);
            let fate = Arc::clone(fate);
            std::thread::Builder::new().name("vigil".into()).spawn(move || listen(&fate, &name, stream))?;
        }
        let of = Arc::clone(fate);
        let sender = std::thread::Builder::new()
            .name("beats".into())
            .spawn(move || send(&of, &mut sending, patience / BEATS))?;
        Ok(Vigil { fate: Arc::clone(fate), sender: Some(sender) })
    }

    /// Ends the group if it has not ended, and returns when the others have been told.
    pub(crate) fn end(mut self, ending: Ending) -> Ending {
        let ending = self.fate.end(ending);
        self.join();
        ending
    }

    fn join(&mut self) {
        if let Some(sender) = self.sender.take()
            && sender.join().is_err()
        {
            tracing::error!("the thread that sends beats panicked");
        }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.fate.end(Ending::Lost("this rank gave up".into()));
        self.join();
    }
}

/// Hears one peer until the group ends.
fn listen(fate: &Fate, name: &str, mut stream: TcpStream) {
    let mut payload = Vec::new();
    loop {
        let ending = match wire::read(&mut stream, &mut payload, MOST_REASON) {
            Ok(FrameKind::Beat) => continue,
            Ok(FrameKind::Goodbye) => Ending::Orderly,
            Ok(FrameKind::Failed) => {
                Ending::Lost(format!("{name} has ended: {}", String::from_utf8_lossy(&payload)))
            }
            Ok(found) => {
                let error = WireError::Unexpected { found, expected: FrameKind::Beat };
                Ending::Lost(format!("{name} is lost: {error}"))
            }
            Err(error) => Ending::Lost(silence(name, &error, &stream)),
        };
        fate.end(ending);
        return;
    }
}

/// Why nothing came.
fn silence(name: &str, error: &WireError, stream: &TcpStream) -> String {
    match error {
        WireError::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            let patience = stream.read_timeout().ok().flatten().unwrap_or_default();
            format!("{name} is lost: it has not been heard of for {} s", patience.as_secs_f64())
        }
        WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("{name} is lost: it has closed its connection")
        }
        error => format!("{name} is lost: {}", reasons(error)),
    }
}

/// Beats until the group ends, then says how.
fn send(fate: &Fate, peers: &mut [TcpStream], every: Duration) {
    let tell = |peers: &mut [TcpStream], kind, payload: &[u8]| {
        for peer in peers {
            // Who cannot be told is found out by whoever listens.
            let _ = wire::write(peer, kind, payload);
        }
    };
    let ending = loop {
        tell(peers, FrameKind::Beat, &[]);
        if let Some(ending) = fate.wait(every) {
            break ending;
        }
    };
    match ending {
        Ending::Orderly => tell(peers, FrameKind::Goodbye, &[]),
        Ending::Lost(reason) => tell(peers, FrameKind::Failed, reason.as_bytes()),
    }
    for peer in peers {
        // Closed by the other side: nothing is left to be ended.
        let _ = peer.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    const PATIENT: Duration = Duration::from_secs(60);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn watch(stream: TcpStream, name: &str, patience: Duration) -> (Arc<Fate>, Vigil) {
        let fate = Arc::new(Fate::default());
        let vigil = Vigil::begin(&fate, vec![(name.into(), stream)], patience).unwrap();
        (fate, vigil)
    }

    #[test]
    fn an_end_reaches_the_other_side_with_its_reason() {
        for (ending, expected) in [
            (Ending::Orderly, Ending::Orderly),
            (Ending::Lost("out of paper".into()), Ending::Lost("rank 0 has ended: out of paper".into())),
        ] {
            let (one, two) = pair();
            let (_, leader) = watch(one, "rank 1", PATIENT);
            let (fate, worker) = watch(two, "rank 0", PATIENT);
            assert_eq!(leader.end(ending.clone()), ending);
            assert_eq!(fate.wait(PATIENT), Some(expected.clone()));
            assert_eq!(worker.end(Ending::Orderly), expected);
        }
    }

    #[test]
    fn a_closed_connection_is_a_lost_rank() {
        let (one, two) = pair();
        let (fate, _vigil) = watch(one, "rank 1", PATIENT);
        drop(two);
        let lost = Ending::Lost("rank 1 is lost: it has closed its connection".into());
        assert_eq!(fate.wait(PATIENT), Some(lost));
    }

    #[test]
    fn a_silent_rank_is_lost_and_one_that_beats_is_not() {
        let patience = Duration::from_millis(300);
        let (one, _silent) = pair();
        let (fate, _vigil) = watch(one, "rank 1", patience);
        let lost = Ending::Lost("rank 1 is lost: it has not been heard of for 0.3 s".into());
        let (three, four) = pair();
        let (beating, _leader) = watch(three, "rank 1", patience * 40);
        let (_, _worker) = watch(four, "rank 0", patience * 40);
        assert_eq!(fate.wait(PATIENT), Some(lost));
        assert_eq!(beating.ending(), None);
    }
}
