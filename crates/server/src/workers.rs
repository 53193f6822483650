//! How much text work runs at once, how much may wait for a turn, and that work whose client has gone is not begun.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wharf_api::{ApiError, ServeConfig};

use crate::state::RETRY_AFTER_SECONDS;

/// Turns for text work. The runtime's own queue has no bound, and what is in it runs even when nobody waits for it any
/// more; so work enters it only when a thread is free.
pub(crate) struct Workers {
    /// One permit per thread.
    threads: Arc<Semaphore>,
    /// One permit per work that runs or waits.
    places: Arc<Semaphore>,
}

impl Workers {
    /// `max_workers` threads; as many requests may wait for them as for the engine, `max_waiting`.
    pub(crate) fn new(config: &ServeConfig) -> Workers {
        let places = config.max_workers.saturating_add(config.max_waiting).min(Semaphore::MAX_PERMITS);
        Workers {
            threads: Arc::new(Semaphore::new(config.max_workers)),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Runs work on a thread, so that long texts do not keep the network waiting. Dropping the future gives up the
    /// place in the queue; work that has begun runs to its end and keeps its thread until then.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] when too many wait; the work's own error; [`ApiError::Internal`] when it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let full = |_| ApiError::Overloaded { retry_after_seconds: RETRY_AFTER_SECONDS };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        let thread = thread.expect("the semaphore is never closed");
        let job = move || {
            let _held_to_the_end = (place, thread);
            work()
        };
        match tokio::task::spawn_blocking(job).await {
            Ok(result) => result,
            Err(e) => Err(ApiError::Internal(format!("failed to process the text: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::task::Poll;

    use super::*;

    fn workers(max_workers: usize, max_waiting: usize) -> Workers {
        Workers::new(&ServeConfig { max_workers, max_waiting, ..ServeConfig::default() })
    }

    /// Polls once; the future must not be ready.
    async fn begin<F: Future>(mut future: std::pin::Pin<&mut F>) {
        poll_fn(|context| {
            assert!(future.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_stops_waiting_leaves_the_queue_and_its_work_never_runs() {
        let workers = workers(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let ran = Arc::new(AtomicBool::new(false));
        let mut busy = pin!(workers.run(move || {
            held.recv().unwrap();
            Ok(1)
        }));
        begin(busy.as_mut()).await;
        {
            let ran = Arc::clone(&ran);
            let mut left = pin!(workers.run(move || {
                ran.store(true, Ordering::SeqCst);
                Ok(())
            }));
            begin(left.as_mut()).await;
            let refused = workers.run(|| Ok(())).await.unwrap_err();
            assert_eq!((refused.status(), refused.retry_after_seconds()), (429, Some(1)));
        }
        let mut next = pin!(workers.run(|| Ok(2)));
        begin(next.as_mut()).await;
        release.send(()).unwrap();
        assert_eq!((busy.await.unwrap(), next.await.unwrap()), (1, 2));
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn work_that_has_begun_keeps_its_thread_when_its_client_goes() {
        let workers = workers(1, 1);
        let (release, held) = mpsc::channel::<()>();
        {
            let mut gone = pin!(workers.run(move || {
                held.recv().unwrap();
                Ok(())
            }));
            begin(gone.as_mut()).await;
        }
        let mut next = pin!(workers.run(|| Ok(2)));
        begin(next.as_mut()).await;
        assert_eq!(workers.threads.available_permits(), 0);
        release.send(()).unwrap();
        assert_eq!(next.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_frees_its_thread() {
        let workers = workers(1, 1);
        let panicked = workers.run(|| -> Result<(), ApiError> { panic!("the test asked for it") }).await;
        assert_eq!(panicked.unwrap_err().status(), 500);
        assert_eq!(workers.run(|| Ok(3)).await.unwrap(), 3);
    }
}
