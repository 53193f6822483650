//! Which replicas of a version start and which go, so that there are as many as there should be. Pure.

/// A replica as far as this decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) ready: bool,
    pub(crate) draining: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// So many more start.
    pub(crate) start: usize,
    /// These, by their place in the list, take nothing new and go.
    pub(crate) drain: Vec<usize>,
}

/// `replicas` are in the order in which they were started. Of too many, those go that do not answer yet, then the youngest: the
/// oldest have the most cached.
pub(crate) fn converge(replicas: &[Standing], wanted: usize) -> Change {
    let staying: Vec<usize> = (0..replicas.len()).filter(|index| !replicas[*index].draining).collect();
    let excess = staying.len().saturating_sub(wanted);
    let mut goes = staying.clone();
    goes.sort_by_key(|index| (replicas[*index].ready, std::cmp::Reverse(*index)));
    goes.truncate(excess);
    Change { start: wanted.saturating_sub(staying.len()), drain: goes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Standing = Standing { ready: true, draining: false };
    const STARTING: Standing = Standing { ready: false, draining: false };
    const DRAINING: Standing = Standing { ready: true, draining: true };

    #[test]
    fn there_are_as_many_as_there_should_be_and_those_that_drain_do_not_count() {
        let start = |start| Change { start, drain: vec![] };
        let drain = |drain: &[usize]| Change { start: 0, drain: drain.to_vec() };
        assert_eq!(converge(&[], 2), start(2));
        assert_eq!(converge(&[READY, DRAINING], 2), start(1));
        assert_eq!(converge(&[READY, STARTING], 2), start(0));
        // The one that does not answer yet goes first, then the youngest.
        assert_eq!(converge(&[READY, STARTING, READY], 1), drain(&[1, 2]));
        assert_eq!(converge(&[READY, READY, DRAINING], 0), drain(&[1, 0]));
    }
}
