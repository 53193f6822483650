//! Places for requests being computed, and the queue before them: first come, first served, also when the number changes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::wire::lock;

/// The places of one engine.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    limit: usize,
    running: usize,
    most: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// A place; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0.0).running -= 1;
        self.0.admit();
    }
}

/// The queue is full.
#[derive(Debug)]
pub(crate) struct Full;

impl Slots {
    /// Changes the number of places; requests that have one keep it.
    pub(crate) fn resize(self: &Arc<Self>, limit: usize) {
        lock(&self.0).limit = limit;
        self.admit();
    }

    /// Takes a place in the queue, which may be at its end already.
    pub(crate) fn line_up(self: &Arc<Self>, queue: usize) -> Result<oneshot::Receiver<Slot>, Full> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = lock(&self.0);
            state.waiting.retain(|waiting| !waiting.is_closed());
            let free = state.limit.saturating_sub(state.running + state.waiting.len());
            if free == 0 && state.waiting.len() >= queue {
                return Err(Full);
            }
            state.waiting.push_back(sender);
        }
        self.admit();
        Ok(receiver)
    }

    pub(crate) fn running(&self) -> usize {
        lock(&self.0).running
    }

    pub(crate) fn most_running(&self) -> usize {
        lock(&self.0).most
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0).waiting.iter().filter(|waiting| !waiting.is_closed()).count()
    }

    fn admit(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = lock(&self.0);
                if state.running >= state.limit {
                    return;
                }
                let Some(next) = state.waiting.pop_front() else { return };
                state.running += 1;
                state.most = state.most.max(state.running);
                next
            };
            // Outside the lock: a slot that nobody waits for any more is dropped, which takes the lock.
            drop(next.send(Slot(Arc::clone(self))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_in_order_and_a_full_queue_refuses() {
        let slots = Arc::new(Slots::default());
        slots.resize(1);
        let mut first = slots.line_up(1).unwrap();
        let mut second = slots.line_up(1).unwrap();
        assert!(slots.line_up(1).is_err());
        let slot = first.try_recv().unwrap();
        assert!(second.try_recv().is_err());
        assert_eq!((slots.running(), slots.waiting()), (1, 1));
        drop(slot);
        assert!(second.try_recv().is_ok());
        assert_eq!((slots.running(), slots.most_running()), (0, 1));
    }

    #[test]
    fn who_left_the_queue_is_passed_over() {
        let slots = Arc::new(Slots::default());
        slots.resize(1);
        let mut first = slots.line_up(9).unwrap();
        let second = slots.line_up(9).unwrap();
        let mut third = slots.line_up(9).unwrap();
        drop(second);
        drop(first.try_recv().unwrap());
        assert!(third.try_recv().is_ok());
    }

    #[test]
    fn more_places_let_more_in() {
        let slots = Arc::new(Slots::default());
        let mut first = slots.line_up(9).unwrap();
        assert!(first.try_recv().is_err());
        slots.resize(1);
        assert!(first.try_recv().is_ok());
    }
}
