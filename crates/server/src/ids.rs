//! Random identifiers: unpredictable enough to be unique, not secrets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// 64 random bits: the standard library keys each `RandomState` from the operating system's randomness, and
/// the counter makes two calls differ.
pub(crate) fn random_u64() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// `prefix` and 128 random bits in hex.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random_u64(), random_u64())
}

/// The client's request id if it is fit for headers and logs, else a new one.
pub(crate) fn request_id(header: Option<&[u8]>) -> String {
    match header.map(std::str::from_utf8) {
        Some(Ok(id)) if (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
            id.to_owned()
        }
        _ => new_id(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_request_ids_are_taken_over() {
        assert_eq!(request_id(Some(b"abc-1")), "abc-1");
        for bad in [&b""[..], b"a b", b"a\nb", b"\xff", &[b'a'; 129]] {
            assert_eq!(request_id(Some(bad)).len(), 32);
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
