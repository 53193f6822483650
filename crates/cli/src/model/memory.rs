//! Decides how many tokens the KV cache holds and how long a sequence may be, from the memory there is.

use std::path::Path;

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Configured bytes of KV cache.
    pub(super) cache_bytes: Option<u64>,
    /// Configured longest sequence.
    pub(super) max_model_len: Option<usize>,
    /// Longest sequence that the model was made for.
    pub(super) context_length: usize,
    /// Requests computed at the same time.
    pub(super) max_num_seqs: usize,
    /// Bytes that one token's keys and values take.
    pub(super) bytes_per_token: usize,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KvPlan {
    pub(super) tokens: usize,
    pub(super) max_model_len: usize,
}

/// Share of the free memory that the cache takes when nobody says how much: weights, buffers and the rest of
/// the machine need theirs.
const SHARE: u64 = 3;

/// `room` bytes are there for the cache. Nothing is reserved that no request could use. A length that the user asked for
/// is never lowered; the engine refuses it when the cache is too small.
pub(super) fn plan(wanted: Wanted, room: u64) -> KvPlan {
    let Wanted { cache_bytes, max_model_len, context_length, max_num_seqs, bytes_per_token } = wanted;
    let longest = max_model_len.unwrap_or(context_length);
    let useful = longest.saturating_mul(max_num_seqs);
    let budget = cache_bytes.unwrap_or(room) / bytes_per_token.max(1) as u64;
    let tokens = usize::try_from(budget).unwrap_or(usize::MAX).min(useful);
    let max_model_len = max_model_len.unwrap_or(context_length.min(tokens));
    KvPlan { tokens, max_model_len }
}

/// Bytes of the machine's memory that are there for the cache.
pub(super) fn room() -> u64 {
    free() / SHARE
}

/// Bytes that this process may still take: what the kernel has available, within the container's limit.
pub(crate) fn free() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let machine = read("/proc/meminfo").and_then(|text| available(&text));
    let container = read("/sys/fs/cgroup/memory.max").zip(read("/sys/fs/cgroup/memory.current"));
    let container = container.and_then(|(max, current)| headroom(&max, &current));
    // Where neither is known (not Linux), a modest guess.
    [machine, container].into_iter().flatten().min().unwrap_or(4 << 30)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `None` without a limit (`max`).
fn headroom(max: &str, current: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    Some(max.saturating_sub(current.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        cache_bytes: None,
        max_model_len: None,
        context_length: 1000,
        max_num_seqs: 4,
        bytes_per_token: 10,
    };

    #[test]
    fn the_cache_follows_memory_and_use() {
        let kv = |tokens, max_model_len| KvPlan { tokens, max_model_len };
        // Plenty of memory: no more than all requests at full length can use.
        assert_eq!(plan(WANTED, u64::MAX), kv(4000, 1000));
        // Little memory: shorter sequences rather than no start.
        assert_eq!(plan(WANTED, 5000), kv(500, 500));
        // Asked for: taken at the user's word.
        assert_eq!(plan(Wanted { cache_bytes: Some(2000), ..WANTED }, 0), kv(200, 200));
        assert_eq!(plan(Wanted { max_model_len: Some(800), ..WANTED }, 5000), kv(500, 800));
    }

    #[test]
    fn linux_files_are_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), Some(2048));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!(headroom("max\n", "5\n"), None);
        assert_eq!(headroom("7\n", "5\n"), Some(2));
    }
}
