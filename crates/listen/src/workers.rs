//! Threads that each serve their own connections.
//!
//! A proxy's request is short: the time goes into waking threads if the parts of one request run on several. Here a connection stays on one
//! thread with a runtime of its own, and so does everything that is done for it; new connections go to the thread that has the fewest.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// The threads. They end when this is dropped.
pub struct Workers {
    workers: Vec<Worker>,
    _stop: watch::Sender<()>,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the operating system refuses one.
    pub fn start(threads: usize) -> io::Result<Workers> {
        let (stop, stopped) = watch::channel(());
        let start = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let mut stopped = stopped.clone();
            // An error is the sender's end.
            let work = move || {
                runtime.block_on(async { while stopped.changed().await.is_ok() {} });
            };
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
            Ok(Worker { runtime: handle, connections: Arc::new(AtomicUsize::new(0)) })
        };
        let workers = (0..threads.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Workers { workers, _stop: stop })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The runtime of one of them.
    pub fn runtime(&self, worker: usize) -> &Handle {
        &self.workers[worker].runtime
    }

    /// Serves a connection on the worker with the fewest.
    pub(crate) fn spawn<R, F>(&self, stream: TcpStream, serve: impl FnOnce(usize) -> R)
    where
        R: FnOnce(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let load = |worker: &Worker| worker.connections.load(Ordering::Relaxed);
        let fewest = self.workers.iter().enumerate().min_by_key(|(_, worker)| load(worker));
        let Some((number, worker)) = fewest else { return };
        let serve = serve(number);
        // The stream was registered with the acceptor's runtime; it moves to the worker's.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(e) => return tracing::error!(error = %e, "failed to take a connection over"),
        };
        let counted = InUse::new(&worker.connections);
        worker.runtime.spawn(async move {
            let _counted = counted;
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(e) => tracing::error!(error = %e, "failed to take a connection over"),
            }
        });
    }
}

struct InUse(Arc<AtomicUsize>);

impl InUse {
    fn new(count: &Arc<AtomicUsize>) -> InUse {
        count.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(count))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
