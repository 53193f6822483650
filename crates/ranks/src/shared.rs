//! Decides how ranks of one host add: through memory that all of them map.
//!
//! Every rank writes its values into a slot of its own and says so by a counter, waits until all counters are as high, and adds
//! all slots in the order of ranks itself, so that every rank has the same bits and nobody waits for a second message. Slots
//! take turns: when a rank writes to the first of its two again, all others have said that they are done with what it held.
//!
//! Who waits spins for a moment, because the others are about to be there, and then sleeps on the counter.
#![expect(unsafe_code, reason = "memory that other processes write has no safe view")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::MmapRaw;
use wharf_engine::{BackendError, Ranks};

use crate::fate::{Ending, Fate};

/// Values that a slot holds.
const SLOT: usize = 64 << 10;

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
    /// Times that values were exchanged, as the counters count.
    turn: u32,
    fate: Arc<Fate>,
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
        Ok(SharedRanks { map, size, rank, turn: 0, fate: Arc::clone(fate) })
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

    /// Where the slot of a rank begins this turn.
    fn slot(&self, rank: usize) -> *mut f32 {
        assert!(rank < self.size);
        let index = rank * 2 + (self.turn % 2) as usize;
        // SAFETY: there are two slots for every rank behind the first page.
        unsafe { self.map.as_mut_ptr().add(4096 + index * SLOT * size_of::<f32>()).cast() }
    }

    /// Shows this rank's values to all and returns when those of all can be read.
    fn exchange(&mut self, mine: &[f32]) -> Result<(), BackendError> {
        assert!(mine.len() <= SLOT);
        self.turn = self.turn.wrapping_add(1);
        // SAFETY: the slot has room, and nobody reads it: what it held two turns ago was read by all before they showed the
        // values of the last turn, which this rank has waited for.
        unsafe { self.slot(self.rank).copy_from_nonoverlapping(mine.as_ptr(), mine.len()) };
        self.counter(self.rank).store(self.turn, Ordering::SeqCst);
        if self.sleepers().load(Ordering::SeqCst) > 0 {
            futex(self.counter(self.rank), libc::FUTEX_WAKE, i32::MAX.unsigned_abs());
        }
        (0..self.size).filter(|rank| *rank != self.rank).try_for_each(|rank| self.wait(rank))
    }

    /// Waits until a rank has shown its values of this turn.
    fn wait(&self, rank: usize) -> Result<(), BackendError> {
        let counter = self.counter(rank);
        // Counters wrap; ranks are never more than one turn apart.
        let there = |count: u32| count.wrapping_sub(self.turn) <= 1;
        for _ in 0..SPINS {
            if there(counter.load(Ordering::Acquire)) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        loop {
            self.sleepers().fetch_add(1, Ordering::SeqCst);
            let count = counter.load(Ordering::SeqCst);
            let arrived = there(count);
            if !arrived {
                futex(counter, libc::FUTEX_WAIT, count);
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

    /// What a rank has shown this turn.
    fn shown(&self, rank: usize, len: usize) -> &[f32] {
        assert!(len <= SLOT);
        // SAFETY: its owner has written them before its counter said so, and does not write there again before this rank has
        // shown the values of the next turn, for which it needs `&mut self`. Any bytes are values.
        unsafe { std::slice::from_raw_parts(self.slot(rank), len) }
    }
}

impl Ranks for SharedRanks {
    fn sum(&mut self, values: &mut [f32]) -> Result<(), BackendError> {
        for piece in values.chunks_mut(SLOT) {
            self.exchange(piece)?;
            piece.copy_from_slice(self.shown(0, piece.len()));
            for rank in 1..self.size {
                let shown = self.shown(rank, piece.len());
                piece.iter_mut().zip(shown).for_each(|(sum, value)| *sum += value);
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
                    all[begin + piece.start..begin + piece.end]
                        .copy_from_slice(self.shown(rank, piece.len()));
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
    fn every_rank_has_the_sum_in_the_order_of_ranks() {
        // Lengths of less than a slot, a slot, and more; values whose sum depends on the order.
        let value = |rank: usize, i: usize| [1e8, 1.0, -1e8][rank] * (1.0 + (i % 7) as f32);
        let lens = [1, 576, SLOT, 2 * SLOT + 5];
        let sums = each(3, |rank, mut ranks| {
            (0..40)
                .map(|turn| {
                    let mut values: Vec<f32> = (0..lens[turn % 4]).map(|i| value(rank, i + turn)).collect();
                    ranks.sum(&mut values).unwrap();
                    values
                })
                .collect::<Vec<_>>()
        });
        assert!(sums[0] == sums[1] && sums[1] == sums[2]);
        for (turn, sum) in sums[0].iter().enumerate() {
            for (i, sum) in sum.iter().enumerate() {
                let expected = value(0, i + turn) + value(1, i + turn) + value(2, i + turn);
                assert_eq!(sum.to_bits(), expected.to_bits());
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

    #[test]
    fn who_waits_for_a_lost_rank_hears_of_it() {
        let memory = SharedMemory::new(2).unwrap();
        let fate = Arc::new(Fate::default());
        let mut ranks = memory.ranks(&fate).unwrap();
        let waiting = std::thread::spawn(move || ranks.sum(&mut [1.0]).unwrap_err().to_string());
        fate.end(Ending::Lost("rank 1 is gone".into()));
        assert_eq!(waiting.join().unwrap(), "rank 1 is gone");
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let (memory, fate) = (SharedMemory::new(2).unwrap(), Arc::new(Fate::default()));
        assert!(SharedRanks::inherited(memory.descriptor(), 3, 1, &fate).is_err());
        assert!(SharedRanks::inherited(u32::MAX - 1, 2, 1, &fate).is_err());
    }
}
