//! Decides how ranks pass sums on over connections: the leader gives every worker what the one before has reached, and in the end
//! everybody what the last one has. A star needs no connection between workers, who know the leader's address alone.
//!
//! A worker gets a piece only when the leader has taken the one before from it. So no two of them ever write to each other at
//! the same time, and no piece is too large for what connections hold.

use std::collections::VecDeque;

use wharf_engine::{BackendError, Grain, Ranks};

use crate::link::Link;
use crate::wire::{FrameKind, WireError, put_values, values};

/// A message takes tens of microseconds, in which some ten thousand outputs of a product are computed.
const GRAIN: Grain = Grain { least: 16 << 10, pieces: 4, room: 16 << 20 };

/// The leader's end.
pub(crate) struct Center {
    links: Vec<Link>,
    /// Values of the piece that each worker has.
    under_way: Vec<Option<usize>>,
    /// What the last rank has reached of pieces that nobody else has heard of.
    results: VecDeque<Vec<f32>>,
}

/// A worker's end.
pub(crate) struct Ray {
    link: Link,
    /// Nobody is behind this rank.
    last: bool,
}

impl Center {
    pub(crate) fn new(links: Vec<Link>) -> Center {
        Center { under_way: vec![None; links.len()], links, results: VecDeque::new() }
    }

    /// Moves every piece on by one rank, those furthest ahead first.
    fn advance(&mut self) -> Result<(), BackendError> {
        for rank in (0..self.links.len()).rev() {
            let Some(len) = self.under_way[rank].take() else { continue };
            let reached: Vec<f32> = receive(&mut self.links[rank], len)?.collect();
            self.give(rank + 1, &reached)?;
        }
        Ok(())
    }

    /// Gives a worker, counted from the first one, what the rank before has reached; behind the last one that is a result.
    fn give(&mut self, worker: usize, reached: &[f32]) -> Result<(), BackendError> {
        let Some(link) = self.links.get_mut(worker) else {
            self.results.push_back(reached.to_vec());
            return Ok(());
        };
        self.under_way[worker] = Some(reached.len());
        link.send(FrameKind::Values, |to| put_values(to, reached))
    }
}

impl Ray {
    pub(crate) fn new(link: Link, last: bool) -> Ray {
        Ray { link, last }
    }

    fn replace(&mut self, values: &mut [f32]) -> Result<(), BackendError> {
        let found = receive(&mut self.link, values.len())?;
        values.iter_mut().zip(found).for_each(|(value, found)| *value = found);
        Ok(())
    }

    fn show(&mut self, values: &[f32]) -> Result<(), BackendError> {
        self.link.send(FrameKind::Values, |to| put_values(to, values))
    }
}

/// The values of a frame that has to have `len` of them.
fn receive(link: &mut Link, len: usize) -> Result<impl Iterator<Item = f32> + '_, BackendError> {
    let bytes = link.receive(FrameKind::Values, 4 * len)?.len();
    if bytes != 4 * len {
        return Err(link.lost(&WireError::Payload("piece of a sum")));
    }
    Ok(values(link.received()))
}

impl Ranks for Center {
    fn grain(&self) -> Grain {
        GRAIN
    }

    fn before(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        piece.fill(0.0);
        Ok(())
    }

    fn after(&mut self, piece: &[f32]) -> Result<(), BackendError> {
        self.advance()?;
        self.give(0, piece)
    }

    fn result(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        while self.under_way.iter().any(Option::is_some) {
            self.advance()?;
        }
        let result = self.results.pop_front().expect("every piece that is given comes back");
        piece.copy_from_slice(&result);
        // The last one has it.
        let others = self.links.len().saturating_sub(1);
        let mut others = self.links[..others].iter_mut();
        others.try_for_each(|link| link.send(FrameKind::Values, |to| put_values(to, piece)))
    }

    fn largest(&mut self, values: &mut [f32]) -> Result<(), BackendError> {
        for link in &mut self.links {
            let found = receive(link, values.len())?;
            values.iter_mut().zip(found).for_each(|(value, found)| *value = value.max(found));
        }
        self.links.iter_mut().try_for_each(|link| link.send(FrameKind::Values, |to| put_values(to, values)))
    }

    fn gather(&mut self, mine: &[f32], lens: &[usize], all: &mut Vec<f32>) -> Result<(), BackendError> {
        all.clear();
        all.extend_from_slice(mine);
        for (link, len) in self.links.iter_mut().zip(&lens[1..]) {
            all.extend(receive(link, *len)?);
        }
        Ok(())
    }
}

impl Ranks for Ray {
    fn grain(&self) -> Grain {
        GRAIN
    }

    fn before(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        self.replace(piece)
    }

    fn after(&mut self, piece: &[f32]) -> Result<(), BackendError> {
        self.show(piece)
    }

    fn result(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        if self.last { Ok(()) } else { self.replace(piece) }
    }

    fn largest(&mut self, values: &mut [f32]) -> Result<(), BackendError> {
        self.show(values)?;
        self.replace(values)
    }

    fn gather(&mut self, mine: &[f32], _: &[usize], _: &mut Vec<f32>) -> Result<(), BackendError> {
        self.show(mine)
    }
}
