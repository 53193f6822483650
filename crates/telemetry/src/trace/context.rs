//! W3C Trace Context: the header `traceparent`, read and written.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The whole trace's; not zero.
    pub trace_id: u128,
    /// A span's; not zero.
    pub span_id: u64,
    /// The trace is kept.
    pub sampled: bool,
}

impl Context {
    /// Reads a header. One that breaks the rules counts as none, as the specification wants it.
    pub fn parse(header: &[u8]) -> Option<Context> {
        let text = std::str::from_utf8(header).ok()?.trim_matches([' ', '\t']);
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may have more after the flags.
        let rest_fits = version != "00" || parts.next().is_none();
        let lengths = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
        let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !rest_fits
            || version == "ff"
            || lengths.iter().any(|(part, length)| part.len() != *length || !is_hex(part))
        {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Context { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// The trace's id as the header and log lines have it.
    pub fn trace_hex(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's id likewise.
    pub fn span_hex(self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The header.
    pub fn header(self) -> String {
        let Context { trace_id, span_id, sampled } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(sampled))
    }
}

/// Random: two processes must not make the same.
pub(super) fn new_trace_id() -> u128 {
    u128::from(new_span_id()) << 64 | u128::from(new_span_id())
}

/// Random and not zero: the standard library keys each `RandomState` from the system's randomness, and the counter makes two calls differ.
pub(super) fn new_span_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_as_the_specification_says() {
        let id = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let good = Context {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        };
        assert_eq!(Context::parse(format!("00-{id}-01").as_bytes()), Some(good));
        assert_eq!(
            Context::parse(format!("00-{id}-00").as_bytes()),
            Some(Context { sampled: false, ..good })
        );
        assert_eq!(Context::parse(format!("cc-{id}-01-what the future brings").as_bytes()), Some(good));
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let long = format!("00-{id}-01-more");
        let upper = format!("00-{}-01", id.to_uppercase());
        let other = format!("ff-{id}-01");
        for bad in [zero_trace, zero_span, &long, &upper, &other, "", "00", "00-abc-def-01", "é"] {
            assert_eq!(Context::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Context::parse(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1u128.., span_id in 1u64.., sampled in any::<bool>()) {
            let context = Context { trace_id, span_id, sampled };
            prop_assert_eq!(Context::parse(context.header().as_bytes()), Some(context));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Context::parse(&bytes);
        }
    }
}
