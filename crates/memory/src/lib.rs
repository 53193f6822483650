//! Decides what a process gives back of its memory. What it needed for a moment (to load a model, the first lists of a cluster, the code of its start)
//! should not stay with it for days; that matters for processes that are many, or idle for most of their lives
//! (docs/decisions/0040-operator-memory.md).
//!
//! glibc keeps an arena for each thread, and freed pages between those in use, for the next time. The kernel maps 64 kB around every page of
//! the program that is used, and what was used once, at the start, stays mapped. Both are given back here; what is used again comes from the kernel at the cost of a
//! page fault, and no disk is read as long as the program's file is in the page cache. Other C libraries and systems do as they do.
//!
//! A process that takes and frees the same large pieces at every step is the other case: each would be zeroed by the kernel again.

/// Pieces from this size on are the system's own, and so much may be free at the heap's end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 64 << 10;

/// Sets the allocator up for one thread that works little: one arena, large pieces come from the system and go back to it at once. Call it before
/// other threads start.
pub fn be_frugal() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set([(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]);
}

/// Sets the allocator up for steps that take the same large pieces again and again: what is freed stays with the process, whichever thread takes it
/// next. Call it from the first thread, before others start.
pub fn keep_freed() {
    // Arenas of threads hold no large piece, and -1 is never.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set([(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1)]);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(settings: [(i32, i32); 3]) {
    for (parameter, value) in settings {
        #[expect(unsafe_code, reason = "FFI: glibc's malloc has no other interface")]
        // SAFETY: mallopt takes two numbers and locks the allocator itself.
        let taken = unsafe { libc::mallopt(parameter, value) };
        if taken == 0 {
            tracing::debug!(parameter, value, "the allocator refuses a setting");
        }
    }
}

/// Gives back what the allocator holds free, and the pages of the program and of the C library that are as in their files.
pub fn hand_back() {
    trim();
    #[cfg(target_os = "linux")]
    if let Err(error) = program::let_go() {
        tracing::debug!(%error, "the program's pages stay mapped");
    }
}

/// Freed pages go back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    #[expect(unsafe_code, reason = "FFI: glibc's malloc has no other interface")]
    // SAFETY: malloc_trim takes a number and locks the allocator itself; memory in use stays where it is.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(target_os = "linux")]
mod program;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    /// Bytes of one kind that this process has in memory: `RssAnon` or `RssFile`.
    pub(super) fn resident(kind: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(kind));
        let line = line.expect("it has a line of this kind");
        let kilobytes = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB");
        kilobytes.parse::<usize>().expect("it is a number") << 10
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_freed_between_what_is_in_use_goes_back_to_the_system() {
        // Small pieces, with one that stays after every page of those that go: glibc itself gives none of it back.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..32_768_usize).map(|_| Some(vec![1; 1000])).collect();
        for (number, piece) in pieces.iter_mut().enumerate() {
            if number % 32 != 0 {
                *piece = None;
            }
        }
        let before = resident("RssAnon");
        super::hand_back();
        let after = resident("RssAnon");
        assert!(after + (16 << 20) < before, "{before} bytes before, {after} after");
        assert_eq!(pieces.iter().flatten().count(), 1024);
    }
}
