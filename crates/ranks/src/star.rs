//! Decides how ranks add over connections: the leader collects from everybody, adds in the order of ranks, and sends the sum back.
//! A star needs no connection between workers, who know the leader's address alone.

use wharf_engine::{BackendError, Ranks};

use crate::link::Link;
use crate::wire::{FrameKind, WireError, put_values, values};

/// The leader's end.
pub(crate) struct Center {
    links: Vec<Link>,
}

/// A worker's end.
pub(crate) struct Ray {
    link: Link,
}

impl Center {
    pub(crate) fn new(links: Vec<Link>) -> Center {
        Center { links }
    }
}

impl Ray {
    pub(crate) fn new(link: Link) -> Ray {
        Ray { link }
    }
}

/// The values of a frame that has to have `len` of them.
fn receive(link: &mut Link, len: usize) -> Result<impl Iterator<Item = f32> + '_, BackendError> {
    let bytes = link.receive(FrameKind::Values, 4 * len)?.len();
    if bytes != 4 * len {
        return Err(link.lost(&WireError::Payload("sum")));
    }
    Ok(values(link.received()))
}

impl Ranks for Center {
    fn sum(&mut self, sum: &mut [f32]) -> Result<(), BackendError> {
        for link in &mut self.links {
            let values = receive(link, sum.len())?;
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        self.links.iter_mut().try_for_each(|link| link.send(FrameKind::Values, |to| put_values(to, sum)))
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
    fn sum(&mut self, sum: &mut [f32]) -> Result<(), BackendError> {
        self.link.send(FrameKind::Values, |to| put_values(to, sum))?;
        let values = receive(&mut self.link, sum.len())?;
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum = value);
        Ok(())
    }

    fn gather(&mut self, mine: &[f32], _: &[usize], _: &mut Vec<f32>) -> Result<(), BackendError> {
        self.link.send(FrameKind::Values, |to| put_values(to, mine))
    }
}
