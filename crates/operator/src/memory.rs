//! How the process deals with memory. An operator is idle for most of its life, and what it needed for a moment (the first lists, a release of
//! everything) should not stay with it for days.
//!
//! glibc keeps an arena for each thread, and freed pages between those in use, for the next time. Here there is one arena, large pieces come from the
//! system and go back to it at once, and freed pages are handed back now and then: they cost the node nothing until they are needed
//! again (docs/decisions/0040-operator-memory.md). Other C libraries do as they do.

use std::time::Duration;

/// How often freed pages are handed back.
const EVERY: Duration = Duration::from_secs(60);

/// Pieces from this size on are the system's own, and so much may be free at the heap's end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 64 << 10;

/// Sets the allocator up for one thread that works little. Call it before other threads start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn be_frugal() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        #[expect(unsafe_code, reason = "FFI: glibc's malloc has no other interface")]
        // SAFETY: mallopt takes two numbers and locks the allocator itself.
        let taken = unsafe { libc::mallopt(parameter, value) };
        if taken == 0 {
            tracing::debug!(parameter, value, "the allocator refuses a setting");
        }
    }
}

/// There is nothing to set up.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn be_frugal() {}

/// Hands freed pages back for as long as it is polled.
pub(crate) async fn hand_back() {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        trim();
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

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_is_freed_between_what_is_in_use_goes_back_to_the_system() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
        };
        // Small pieces, with one that stays after every page of those that go: glibc itself gives none of it back.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..32_768_usize).map(|_| Some(vec![1; 1000])).collect();
        for (number, piece) in pieces.iter_mut().enumerate() {
            if number % 32 != 0 {
                *piece = None;
            }
        }
        let before = resident();
        super::trim();
        let after = resident();
        assert!(after + (16 << 20) < before, "{before} bytes before, {after} after");
        assert_eq!(pieces.iter().flatten().count(), 1024);
    }
}
