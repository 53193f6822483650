//! Decides that a group ends once, for one reason, and that everybody in this process who waits for another rank hears of it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wharf_engine::BackendError;

/// How a group has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The leader has said so.
    Orderly,
    /// A rank is lost, or has failed; a sentence says which and why.
    Lost(String),
}

/// Hears of the end, once.
type Listener = Box<dyn FnOnce(&Ending) + Send>;

/// The group's fate as this process knows it.
pub struct Fate {
    state: Mutex<State>,
    changed: Condvar,
    /// The same as `state.ending.is_some()`, for loops that spin.
    over: AtomicBool,
}

struct State {
    ending: Option<Ending>,
    /// Shut down at the end, so that whoever reads from them stops waiting.
    sockets: Vec<TcpStream>,
    listeners: Vec<Listener>,
}

impl Default for Fate {
    fn default() -> Fate {
        let state = State { ending: None, sockets: Vec::new(), listeners: Vec::new() };
        Fate { state: Mutex::new(state), changed: Condvar::new(), over: AtomicBool::new(false) }
    }
}

impl Fate {
    /// Ends the group, unless it has ended before. Returns how it has ended.
    pub fn end(&self, ending: Ending) -> Ending {
        let mut state = self.lock();
        if let Some(ending) = &state.ending {
            return ending.clone();
        }
        state.ending = Some(ending.clone());
        self.over.store(true, Ordering::Release);
        for socket in state.sockets.drain(..) {
            // One that is closed already is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let listeners = std::mem::take(&mut state.listeners);
        drop(state);
        self.changed.notify_all();
        listeners.into_iter().for_each(|listener| listener(&ending));
        ending
    }

    /// How the group has ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.lock().ending.clone()
    }

    /// Has `listener` called when the group ends, at once if it has ended.
    pub fn on_end(&self, listener: impl FnOnce(&Ending) + Send + 'static) {
        let mut state = self.lock();
        match state.ending.clone() {
            Some(ending) => {
                drop(state);
                listener(&ending);
            }
            None => state.listeners.push(Box::new(listener)),
        }
    }

    /// Whether the group has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the end, but no longer than `time`.
    pub fn wait(&self, time: Duration) -> Option<Ending> {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| state.ending.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.ending.clone()
    }

    /// Has the end of the group shut this socket down.
    pub(crate) fn guard(&self, socket: &TcpStream) -> io::Result<()> {
        let socket = socket.try_clone()?;
        let mut state = self.lock();
        if state.ending.is_some() {
            return socket.shutdown(Shutdown::Both);
        }
        state.sockets.push(socket);
        Ok(())
    }

    /// Ends the group because of `reason`; the error names the reason that came first.
    pub(crate) fn lost(&self, reason: String) -> BackendError {
        self.end(Ending::Lost(reason)).into()
    }
}

impl From<Ending> for BackendError {
    fn from(ending: Ending) -> BackendError {
        BackendError::Lost(match ending {
            Ending::Orderly => "the group of ranks has ended".into(),
            Ending::Lost(reason) => reason,
        })
    }
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_first_end_counts_and_everybody_hears_of_it() {
        let fate = Fate::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        fate.guard(&socket).unwrap();
        let (told, hears) = mpsc::channel();
        let early = told.clone();
        fate.on_end(move |ending| early.send(ending.clone()).unwrap());
        assert_eq!(fate.wait(Duration::ZERO), None);
        let lost = Ending::Lost("rank 1 is gone".into());
        assert_eq!(fate.end(lost.clone()), lost);
        assert_eq!(fate.end(Ending::Orderly), lost);
        assert_eq!(fate.lost("later".into()).to_string(), "rank 1 is gone");
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "the socket was shut down");
        fate.on_end(move |ending| told.send(ending.clone()).unwrap());
        assert_eq!(hears.iter().collect::<Vec<_>>(), [lost.clone(), lost]);
        assert!(fate.is_over() && fate.wait(Duration::MAX).is_some());
    }
}
