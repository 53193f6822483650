//! Decides how a fixed set of threads shares one loop after another: items are claimed from a counter, so
//! that a thread whose core is busy elsewhere takes fewer, and the caller never waits for a thread that
//! has not begun.
#![expect(
    unsafe_code,
    reason = "workers borrow the caller's closure and write disjoint chunks of its slices"
)]

use std::{
    any::Any,
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{Range, RangeInclusive},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
use crate::cpus;
use crate::cpus::{PinError, Placement};

/// How long a worker looks for the next loop before it gives its core away. A step of a model starts a
/// loop every few microseconds; parking costs tens.
const SPIN: Duration = Duration::from_micros(40);

/// Set in the state while workers may enter the loop.
const OPEN: u64 = 1 << 16;
/// Set once, when the team is dropped.
const STOP: u64 = 1 << 17;
/// One in the loop's number.
const EPOCH: u64 = 1 << 18;
/// How many workers are inside.
const INSIDE: u64 = OPEN - 1;

/// A team of threads: the caller of each loop and workers that wait in between.
pub struct Team {
    shared: Arc<Shared>,
    /// Held while a loop runs.
    busy: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// What a worker runs; the number is that of the thread.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    /// Epoch, `STOP`, `OPEN` and the number of workers inside.
    state: AtomicU64,
    job: UnsafeCell<Option<Job<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by the holder of `busy` while the state is closed and nobody is inside,
// and read only by workers that have entered, which the state's release and acquire order.
unsafe impl Sync for Shared {}

impl Team {
    /// A team of `threads`, of which the caller of each loop is one; at least the caller.
    pub fn new(threads: usize) -> Team {
        let threads = threads.clamp(1, 1 << 12);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            sleepers: (1..threads).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (1..threads)
            .map_while(|number| {
                let shared = Arc::clone(&shared);
                // Fewer threads than asked for are slower, not wrong.
                thread::Builder::new()
                    .name(format!("team-{number}"))
                    .spawn(move || work(&shared, number))
                    .ok()
            })
            .collect();
        Team { shared, busy: Mutex::new(()), workers }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        1 + self.workers.len()
    }

    /// Keeps every worker on a CPU of its own from now on. The first CPU is for the caller of loops, which stays as it
    /// is: it may be another thread than the one that made the team. After an error workers stay, or those that were not
    /// reached, where the system puts them.
    #[cfg(target_os = "linux")]
    pub fn pin(&self) -> Result<Placement, PinError> {
        let placement = cpus::place(self.threads(), cpus::with_siblings(&cpus::allowed()?)?)?;
        for (thread, worker) in (1..).zip(&self.workers) {
            cpus::pin_thread(worker, thread, placement.cpus[thread])?;
        }
        Ok(placement)
    }

    /// Refuses.
    #[cfg(not(target_os = "linux"))]
    pub fn pin(&self) -> Result<Placement, PinError> {
        Err(PinError::Unsupported)
    }

    /// Runs `job(i)` once for every `i` below `threads()`, on as many threads as are free.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        self.for_each(self.threads(), 1, &|range| range.for_each(job));
    }

    /// Runs `f` over ranges of at most `grain` items that together are `0..items`.
    ///
    /// A loop started from inside a loop of the same team, or while another thread's loop runs, is run by
    /// the caller alone. A panic of `f` is raised again here, once no thread is inside the loop any more.
    pub fn for_each(&self, items: usize, grain: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        self.claim(items, grain..=grain, &|_, range| f(range));
    }

    /// As [`Team::for_each`], over ranges that shrink from the largest to the smallest of `grains` as the items run out, so that
    /// the threads end at about the same time.
    pub fn for_each_shrinking(
        &self,
        items: usize,
        grains: RangeInclusive<usize>,
        f: &(dyn Fn(Range<usize>) + Sync),
    ) {
        self.claim(items, grains, &|_, range| f(range));
    }

    /// As [`Team::for_each`], with one of `scratch` lent to each thread.
    ///
    /// # Panics
    /// When there are fewer scratches than threads.
    pub fn for_each_with<S: Send>(
        &self,
        scratch: &mut [S],
        items: usize,
        grain: usize,
        f: &(dyn Fn(&mut S, Range<usize>) + Sync),
    ) {
        assert!(scratch.len() >= self.threads(), "a scratch for every thread");
        let scratch = Chunks::new(scratch, 1);
        self.claim(items, grain..=grain, &|thread, range| {
            // SAFETY: threads inside one loop have different numbers below the length.
            f(unsafe { &mut scratch.get(thread)[0] }, range);
        });
    }

    /// Runs `f(i, chunk)` for the consecutive chunks of `data` of `chunk` elements (the last may be
    /// shorter), of which a thread claims `grain` at a time.
    pub fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        grain: usize,
        f: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let chunks = Chunks::new(data, chunk);
        self.claim(chunks.count(), grain..=grain, &|_, range| {
            // SAFETY: every index is claimed once.
            range.for_each(|index| f(index, unsafe { chunks.get(index) }));
        });
    }

    /// As [`Team::for_each_chunk`], with one of `scratch` lent to each thread.
    ///
    /// # Panics
    /// When there are fewer scratches than threads.
    pub fn for_each_chunk_with<S: Send, T: Send>(
        &self,
        scratch: &mut [S],
        data: &mut [T],
        chunk: usize,
        grain: usize,
        f: &(dyn Fn(&mut S, usize, &mut [T]) + Sync),
    ) {
        let chunks = Chunks::new(data, chunk);
        self.for_each_with(scratch, chunks.count(), grain, &|scratch, range| {
            // SAFETY: every index is claimed once.
            range.for_each(|index| f(scratch, index, unsafe { chunks.get(index) }));
        });
    }

    /// Runs `f(i, part)` for consecutive parts of `data`, part `i` from where the last one ended to `ends[i]`, with one of `scratch`
    /// lent to each thread. The last part is claimed first.
    ///
    /// # Panics
    /// When the ends descend or the last is beyond `data`, or there are fewer scratches than threads.
    pub fn for_each_part_with<S: Send, T: Send>(
        &self,
        scratch: &mut [S],
        data: &mut [T],
        ends: &[usize],
        f: &(dyn Fn(&mut S, usize, &mut [T]) + Sync),
    ) {
        let data = &mut data[..ends.last().copied().unwrap_or(0)];
        assert!(ends.is_sorted(), "parts follow each other");
        let elements = Chunks::new(data, 1);
        self.for_each_with(scratch, ends.len(), 1, &|scratch, range| {
            for index in range.map(|index| ends.len() - 1 - index) {
                let first = index.checked_sub(1).map_or(0, |before| ends[before]);
                // SAFETY: ends ascend to the length, so the part is within the data; every index is claimed once, and
                // parts do not overlap.
                f(scratch, index, unsafe { elements.range(first..ends[index]) });
            }
        });
    }

    /// Claims until no items are left, on this thread and on every worker that comes in time.
    fn claim(&self, items: usize, grains: RangeInclusive<usize>, f: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let least = (*grains.start()).max(1);
        let most = (*grains.end()).max(least);
        if items == 0 {
            return;
        }
        let next = AtomicUsize::new(0);
        let job = |thread: usize| {
            let mut first = next.load(Ordering::Relaxed);
            while first < items {
                // Half of this thread's share of what is left.
                let grain = ((items - first) / (2 * self.threads())).clamp(least, most);
                let end = items.min(first + grain);
                match next.compare_exchange_weak(first, end, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        f(thread, first..end);
                        first = next.load(Ordering::Relaxed);
                    }
                    Err(now) => first = now,
                }
            }
        };
        if items <= least || self.workers.is_empty() {
            return job(0);
        }
        let _busy = match self.busy.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return job(0),
        };
        self.fork_join(&job);
    }

    /// Runs `job` here and on every worker that enters before it has returned here.
    fn fork_join(&self, job: Job<'_>) {
        let shared = &*self.shared;
        // A loop whose caller panicked too has left its worker's panic behind; it is not this loop's.
        shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: the reference is lengthened, but `Closing` lets nobody hold it beyond this function. No
        // worker is inside before the state opens, so nobody reads the cell while it is written.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<Job<'_>, Job<'static>>(job));
        }
        let open = (shared.state.load(Ordering::Relaxed) + EPOCH) | OPEN;
        // Sequentially consistent against `sleepers`: either we see the flag or the sleeper sees the state.
        shared.state.store(open, Ordering::SeqCst);
        for (flag, worker) in shared.sleepers.iter().zip(&self.workers) {
            if flag.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let closing = Closing(shared);
        job(0);
        drop(closing);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Closes the loop and waits until every worker has left, also when the caller's share panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut wait = Wait::new();
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            if !wait.spin() {
                thread::yield_now();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            Thread::unpark(worker.thread());
            // Workers catch every panic of a job, so joining cannot fail.
            worker.join().expect("a worker does not panic");
        }
    }
}

/// What every worker does until the team is dropped.
fn work(shared: &Shared, number: usize) {
    let mut done = 0;
    loop {
        let state = next_loop(shared, number, done);
        if state & STOP != 0 {
            return;
        }
        let entered =
            shared.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !entered {
            continue;
        }
        done = state / EPOCH;
        // SAFETY: we are inside, so the caller keeps the job alive and does not write the cell.
        let job = unsafe { *shared.job.get() }.expect("an open loop has a job");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(number))) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a loop after number `done` to open, or the end: first looking, then asleep.
fn next_loop(shared: &Shared, number: usize, done: u64) -> u64 {
    let ready = |state: u64| state & STOP != 0 || (state & OPEN != 0 && state / EPOCH != done);
    let mut wait = Wait::new();
    loop {
        let state = shared.state.load(Ordering::Acquire);
        if ready(state) {
            return state;
        }
        if wait.spin() {
            continue;
        }
        let asleep = &shared.sleepers[number - 1];
        asleep.store(true, Ordering::SeqCst);
        while !ready(shared.state.load(Ordering::SeqCst)) {
            thread::park();
        }
        asleep.store(false, Ordering::Relaxed);
    }
}

/// Busy waiting for at most [`SPIN`].
struct Wait {
    looks: u32,
    since: Option<Instant>,
}

impl Wait {
    fn new() -> Wait {
        Wait { looks: 0, since: None }
    }

    /// Whether it is still worth looking.
    fn spin(&mut self) -> bool {
        std::hint::spin_loop();
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(64) {
            return true;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() < SPIN
    }
}

/// A slice in chunks that different threads may hold at the same time.
struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: `get` hands out disjoint exclusive borrows of elements that may be sent (its contract).
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    fn new(data: &'a mut [T], chunk: usize) -> Chunks<'a, T> {
        Chunks { start: data.as_mut_ptr(), len: data.len(), chunk: chunk.max(1), data: PhantomData }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// # Safety
    /// `index` is below `count`, and no other borrow of the same chunk is alive.
    #[expect(clippy::mut_from_ref, reason = "the contract makes the borrows disjoint")]
    unsafe fn get(&self, index: usize) -> &mut [T] {
        let first = index * self.chunk;
        // SAFETY: the chunk is within the slice and borrowed by nobody else.
        unsafe { self.range(first..self.len.min(first + self.chunk)) }
    }

    /// # Safety
    /// The range is within the slice, and no other borrow of any of its elements is alive.
    #[expect(clippy::mut_from_ref, reason = "the contract makes the borrows disjoint")]
    unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: the caller promises what this needs.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests;
