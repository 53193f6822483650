//! Decides how ranks of one host pass sums on: through memory that all of them map.
//!
//! Every rank writes what it has reached into a slot of its own and says so by a counter. Of a chain, the rank behind waits for the
//! counter before it goes on, and everybody for that of the last rank; of an exchange, everybody for those of all. Slots take
//! turns: when a rank writes to the first of its two again, all others have begun what came in between, and so are done with what
//! it held: of an exchange it has seen so itself, and of a chain the last rank has a piece only after all before it had.
//!
//! Who waits spins for a moment, because the others are about to be there, and then sleeps on the counter.
#![expect(unsafe_code, reason = "memory that other processes write has no safe view")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::MmapRaw;
use wharf_engine::{BackendError, Grain, Ranks};

use crate::fate::{Ending, Fate};

/// Values that a slot holds.
const SLOT: usize = 256 << 10;

/// A counter is seen in a fraction of a microsecond, in which some ten outputs of a product are computed.
const GRAIN: Grain = Grain { least: 128, pieces: 8, room: SLOT };

/// Bytes in which counters are alone: two cache lines, which processors fetch together.
const LINE: usize = 128;

/// Ranks that fit into the page of counters, the line of sleepers left out.
const MOST_RANKS: usize = 4096 / LINE - 1;

/// Looks at a counter before sleeping on it: some tens of microseconds.
const SPINS: usize = 2000;

/// Longest sleep before the group's fate is looked at.
const NAP_NANOSECONDS: libc::c_long = 20_000_000;

/// Memory for a group, made by the leader before it starts the workers, which inherit it.
pub struct SharedMemory {
    file: File,
    ranks: usize,
}

impl SharedMemory {
    /// Memory for `ranks` ranks.
    ///
    /// # Errors
    /// When the operating system refuses, or there are too many ranks.
    pub fn new(ranks: usize) -> io::Result<SharedMemory> {
        if ranks > MOST_RANKS {
            return Err(io::Error::other(format!("shared memory serves at most {MOST_RANKS} ranks")));
        }
        // SAFETY: the name is a C string, and the result is checked. Without CLOEXEC, because workers inherit it.
        let fd = unsafe { libc::memfd_create(c"wharf-ranks".as_ptr(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len(ranks) as u64)?;
        Ok(SharedMemory { file, ranks })
    }

    /// The descriptor that workers inherit.
    pub fn descriptor(&self) -> u32 {
        self.file.as_raw_fd().unsigned_abs()
    }

    /// The leader's end.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn ranks(&self, fate: &Arc<Fate>) -> io::Result<Box<dyn Ranks>> {
        Ok(Box::new(SharedRanks::map(&self.file, self.ranks, 0, fate)?))
    }
}

/// Bytes for `ranks` ranks.
fn len(ranks: usize) -> usize {
    4096 + ranks * 2 * SLOT * size_of::<f32>()
}

/// One rank's end of the memory.
pub(crate) struct SharedRanks {
    map: MmapRaw,
    size: usize,
    rank: usize,
    /// Chains and exchanges that were begun: which slot it is.
    turn: u32,
    /// What every rank's counter is at the end of what was done last.
    shown: u32,
    chain: Chain,
    fate: Arc<Fate>,
}

/// How far this rank is in the chain at hand.
#[derive(Default)]
struct Chain {
    /// Pieces that it has shown, and values of them.
    shown: [usize; 2],
    /// Pieces of which it has the result, and values of them.
    results: [usize; 2],
}

impl SharedRanks {
    /// A worker's end, of memory that it has inherited as `descriptor`.
    pub(crate) fn inherited(
        descriptor: u32,
        size: usize,
        rank: usize,
        fate: &Arc<Fate>,
    ) -> io::Result<SharedRanks> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{descriptor}"))?;
        SharedRanks::map(&file, size, rank, fate)
    }

    fn map(file: &File, size: usize, rank: usize, fate: &Arc<Fate>) -> io::Result<SharedRanks> {
        if size > MOST_RANKS || rank >= size || file.metadata()?.len() != len(size) as u64 {
            return Err(io::Error::other("the shared memory is not that of this group"));
        }
        let map = MmapRaw::map_raw(file)?;
        let chain = Chain::default();
        Ok(SharedRanks { map, size, rank, turn: 0, shown: 0, chain, fate: Arc::clone(fate) })
    }

    /// The counter at a line of the first page.
    fn counter(&self, line: usize) -> &AtomicU32 {
        assert!(line <= MOST_RANKS);
        // SAFETY: the line lies in the first page, which is mapped as long as `self` lives, and is aligned; all processes use
        // these four bytes as an atomic counter only.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(line * LINE).cast()) }
    }

    /// How many ranks sleep.
    fn sleepers(&self) -> &AtomicU32 {
        self.counter(MOST_RANKS)
    }

    /// Where value `at` of a rank's slot is this turn; `len` values from there on are in the slot.
    fn slot(&self, rank: usize, at: usize, len: usize) -> *mut f32 {
        assert!(rank < self.size && at <= SLOT && len <= SLOT - at);
        let index = rank * 2 + (self.turn % 2) as usize;
        // SAFETY: there are two slots for every rank behind the first page, and the value lies in one.
        unsafe { self.map.as_mut_ptr().add(4096).cast::<f32>().add(index * SLOT + at) }
    }

    /// Writes values to this rank's slot from value `at` on and sets its counter.
    fn show(&mut self, values: &[f32], at: usize, count: u32) {
        let slot = self.slot(self.rank, at, values.len());
        // SAFETY: the values lie in the slot, and nobody reads there: the counter has not said yet that they can be read, and what
        // the slot held two turns ago was read by all before they showed anything of the last turn, which this rank has seen.
        unsafe { slot.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        self.counter(self.rank).store(count, Ordering::SeqCst);
        if self.sleepers().load(Ordering::SeqCst) > 0 {
            futex(self.counter(self.rank), libc::FUTEX_WAKE, i32::MAX.unsigned_abs());
        }
    }

    /// What a rank has shown this turn when its counter was `count`: `len` values from value `at` on.
    fn seen(&self, rank: usize, at: usize, len: usize, count: u32) -> Result<&[f32], BackendError> {
        self.wait(rank, count)?;
        // SAFETY: the values lie in the slot. Its owner has written them before its counter said so, and does not write there again
        // before this rank has shown something of the next turn, for which it needs `&mut self`. Any bytes are values.
        Ok(unsafe { std::slice::from_raw_parts(self.slot(rank, at, len), len) })
    }

    /// Waits until a rank's counter is `count`.
    fn wait(&self, rank: usize, count: u32) -> Result<(), BackendError> {
        let counter = self.counter(rank);
        // Counters wrap; ranks are never more than two turns apart.
        let there = |found: u32| found.wrapping_sub(count) <= u32::MAX / 2;
        for _ in 0..SPINS {
            if there(counter.load(Ordering::Acquire)) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        loop {
            self.sleepers().fetch_add(1, Ordering::SeqCst);
            let found = counter.load(Ordering::SeqCst);
            let arrived = there(found);
            if !arrived {
                futex(counter, libc::FUTEX_WAIT, found);
            }
            self.sleepers().fetch_sub(1, Ordering::SeqCst);
            if arrived {
                return Ok(());
            }
            if self.fate.is_over() {
                return Err(self.fate.end(Ending::Orderly).into());
            }
        }
    }

    /// Shows this rank's values to all and returns when those of all can be seen.
    fn exchange(&mut self, mine: &[f32]) -> Result<(), BackendError> {
        self.turn = self.turn.wrapping_add(1);
        self.shown = self.shown.wrapping_add(1);
        self.show(mine, 0, self.shown);
        (0..self.size).try_for_each(|rank| self.wait(rank, self.shown))
    }

    /// Where the next piece of the chain at hand begins, and what a counter is when it is shown.
    fn piece(&self) -> (usize, u32) {
        let [pieces, values] = self.chain.shown;
        (values, self.shown.wrapping_add(pieces as u32 + 1))
    }
}

impl Ranks for SharedRanks {
    fn grain(&self) -> Grain {
        GRAIN
    }

    fn before(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        if self.chain.shown[0] == 0 {
            self.turn = self.turn.wrapping_add(1);
        }
        let Some(before) = self.rank.checked_sub(1) else {
            piece.fill(0.0);
            return Ok(());
        };
        let (at, count) = self.piece();
        piece.copy_from_slice(self.seen(before, at, piece.len(), count)?);
        Ok(())
    }

    fn after(&mut self, piece: &[f32]) -> Result<(), BackendError> {
        let (at, count) = self.piece();
        self.show(piece, at, count);
        let [pieces, values] = &mut self.chain.shown;
        (*pieces, *values) = (*pieces + 1, *values + piece.len());
        Ok(())
    }

    fn result(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
        let [pieces, values] = self.chain.results;
        let last = self.size - 1;
        if self.rank != last {
            let count = self.shown.wrapping_add(pieces as u32 + 1);
            piece.copy_from_slice(self.seen(last, values, piece.len(), count)?);
        }
        self.chain.results = [pieces + 1, values + piece.len()];
        if self.chain.results == self.chain.shown {
            self.shown = self.shown.wrapping_add(pieces as u32 + 1);
            self.chain = Chain::default();
        }
        Ok(())
    }

    fn largest(&mut self, values: &mut [f32]) -> Result<(), BackendError> {
        for piece in values.chunks_mut(SLOT) {
            self.exchange(piece)?;
            for rank in 0..self.size {
                let shown = self.seen(rank, 0, piece.len(), self.shown)?;
                piece.iter_mut().zip(shown).for_each(|(value, shown)| *value = value.max(*shown));
            }
        }
        Ok(())
    }

    fn gather(&mut self, mine: &[f32], lens: &[usize], all: &mut Vec<f32>) -> Result<(), BackendError> {
        let begins: Vec<usize> =
            lens.iter().scan(0, |at, len| Some(std::mem::replace(at, *at + len))).collect();
        if self.rank == 0 {
            all.clear();
            all.resize(lens.iter().sum(), 0.0);
        }
        let piece = |len: usize, at: usize| at.min(len)..(at + SLOT).min(len);
        for at in (0..lens.iter().copied().max().unwrap_or(0)).step_by(SLOT) {
            self.exchange(&mine[piece(mine.len(), at)])?;
            if self.rank == 0 {
                for (rank, (begin, len)) in begins.iter().zip(lens).enumerate() {
                    let piece = piece(*len, at);
                    let shown = self.seen(rank, 0, piece.len(), self.shown)?;
                    all[begin + piece.start..begin + piece.end].copy_from_slice(shown);
                }
            }
        }
        Ok(())
    }
}

/// Wakes who sleeps on a counter, or sleeps on it while it is `value`. Either may fail to happen (the counter has changed, the
/// time is over, a signal came): callers look at the counter again.
fn futex(counter: &AtomicU32, operation: libc::c_int, value: u32) {
    let nap = libc::timespec { tv_sec: 0, tv_nsec: NAP_NANOSECONDS };
    // SAFETY: the counter is mapped for the time of the call, and the kernel reads the time.
    unsafe { libc::syscall(libc::SYS_futex, counter.as_ptr(), operation, value, &raw const nap) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `f` as every rank at once.
    fn each<T: Send>(ranks: usize, f: impl Fn(usize, SharedRanks) -> T + Sync) -> Vec<T> {
        let memory = SharedMemory::new(ranks).unwrap();
        let fate = Arc::new(Fate::default());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..ranks)
                .map(|rank| {
                    let end = SharedRanks::inherited(memory.descriptor(), ranks, rank, &fate).unwrap();
                    let f = &f;
                    scope.spawn(move || f(rank, end))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn chains_go_through_all_ranks_in_their_order() {
        // Pieces of a chain, a slot together at most; values whose sum depends on the order.
        let chains = [vec![1], vec![576], vec![16; 8], vec![SLOT / 8; 8], vec![SLOT - 5, 3, 2]];
        let value = |rank: usize, i: usize| [1e8, 1.0, -1e8][rank] * (1.0 + (i % 7) as f32);
        let results = each(3, |rank, mut ranks| {
            let mut run = |turn: usize| {
                let mut pieces: Vec<Vec<f32>> = chains[turn % 5].iter().map(|len| vec![0.5; *len]).collect();
                for piece in &mut pieces {
                    ranks.before(piece).unwrap();
                    piece.iter_mut().enumerate().for_each(|(i, sum)| *sum += value(rank, i + turn));
                    ranks.after(piece).unwrap();
                }
                pieces.iter_mut().for_each(|piece| ranks.result(piece).unwrap());
                // What comes in between takes turns with chains.
                let mut most = [(10 * turn + rank) as f32, -(rank as f32)];
                if turn % 3 == 1 {
                    ranks.largest(&mut most).unwrap();
                    assert_eq!(most, [(10 * turn + 2) as f32, 0.0]);
                }
                pieces
            };
            (0..15).map(&mut run).collect::<Vec<_>>()
        });
        assert!(results[0] == results[1] && results[1] == results[2]);
        for (turn, pieces) in results[0].iter().enumerate() {
            for piece in pieces {
                for (i, sum) in piece.iter().enumerate() {
                    let expected = 0.0 + value(0, i + turn) + value(1, i + turn) + value(2, i + turn);
                    assert_eq!(sum.to_bits(), expected.to_bits());
                }
            }
        }
    }

    #[test]
    fn rank_0_has_everybodys_values() {
        let lens = [3, SLOT + 1, 2];
        let gathered = each(3, |rank, mut ranks| {
            let mut all = Vec::new();
            for turn in 0..3 {
                let mine: Vec<f32> = (0..lens[rank]).map(|i| (1000 * rank + i % 100 + turn) as f32).collect();
                ranks.gather(&mine, &lens, &mut all).unwrap();
            }
            all
        });
        assert!(gathered[1].is_empty() && gathered[2].is_empty());
        let expected =
            (0..3).flat_map(|rank| (0..lens[rank]).map(move |i| (1000 * rank + i % 100 + 2) as f32));
        assert!(gathered[0] == expected.collect::<Vec<_>>());
    }

    /// What a rank does that waits for another.
    type Wait = fn(&mut SharedRanks) -> Result<(), BackendError>;

    #[test]
    fn who_waits_for_a_lost_rank_hears_of_it() {
        // The first waits for the last, one behind the first for the first, and both for an exchange.
        let waits: [(usize, Wait); 4] = [
            (0, |ranks| {
                ranks.before(&mut [1.0]).and_then(|()| ranks.after(&[1.0]))?;
                ranks.result(&mut [1.0])
            }),
            (1, |ranks| ranks.before(&mut [1.0])),
            (0, |ranks| ranks.largest(&mut [1.0])),
            (1, |ranks| ranks.gather(&[1.0], &[1, 1], &mut Vec::new())),
        ];
        for (rank, wait) in waits {
            let memory = SharedMemory::new(2).unwrap();
            let fate = Arc::new(Fate::default());
            let mut ranks = SharedRanks::inherited(memory.descriptor(), 2, rank, &fate).unwrap();
            let waiting = std::thread::spawn(move || wait(&mut ranks).unwrap_err().to_string());
            fate.end(Ending::Lost("another rank is gone".into()));
            assert_eq!(waiting.join().unwrap(), "another rank is gone");
        }
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let (memory, fate) = (SharedMemory::new(2).unwrap(), Arc::new(Fate::default()));
        assert!(SharedRanks::inherited(memory.descriptor(), 3, 1, &fate).is_err());
        assert!(SharedRanks::inherited(u32::MAX - 1, 2, 1, &fate).is_err());
    }
}
