//! Memory that ends at a page which nobody may touch, so that one byte too many ends the program, with a page like that in front. What is between the front
//! page and its beginning is looked at when it is freed. Fresh memory is no number: all bits are set, which as a float of any size is NaN.

#![expect(unsafe_code, reason = "maps pages")]

use std::ptr;

/// What ends of allocations are rounded up to: the widest loads of kernels.
const ROUNDED: usize = 16;
/// No number.
const JUNK: u8 = 0xff;

/// Pages, of which the first and the last may not be touched.
#[derive(Debug)]
pub(crate) struct Guarded {
    base: *mut u8,
    mapped: usize,
    /// Of what may be used.
    start: *mut u8,
    bytes: usize,
}

// SAFETY: pages belong to the process.
unsafe impl Send for Guarded {}

impl Guarded {
    /// Nothing if the system has no room.
    pub(crate) fn new(bytes: usize) -> Option<Guarded> {
        let page = page();
        let rounded = bytes.checked_next_multiple_of(ROUNDED)?;
        let inner = rounded.checked_next_multiple_of(page)?;
        let mapped = inner.checked_add(2 * page)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new pages, wherever there is room.
        let base = unsafe { libc::mmap(ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = base.cast::<u8>();
        // SAFETY: the pages between the first and the last one are ours.
        let start = unsafe {
            if libc::mprotect(base.add(page).cast(), inner, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                libc::munmap(base.cast(), mapped);
                return None;
            }
            base.add(page).write_bytes(JUNK, inner);
            base.add(page + inner - rounded)
        };
        Some(Guarded { base, mapped, start, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all of a range lies in it.
    pub(crate) fn has(&self, address: u64, bytes: usize) -> bool {
        let Some(offset) = address.checked_sub(self.address()) else { return false };
        usize::try_from(offset).is_ok_and(|offset| offset <= self.bytes && bytes <= self.bytes - offset)
    }

    /// Whether somebody wrote in front of it, or into what it was rounded up by.
    pub(crate) fn spoilt(&self) -> bool {
        let page = page();
        // SAFETY: between the guards everything may be read.
        let (front, behind) = unsafe {
            let first = self.base.add(page);
            let behind = self.start.add(self.bytes);
            let last = self.base.add(self.mapped - page);
            (
                std::slice::from_raw_parts(first, self.start.offset_from_unsigned(first)),
                std::slice::from_raw_parts(behind, last.offset_from_unsigned(behind)),
            )
        };
        front.iter().chain(behind).any(|byte| *byte != JUNK)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}

fn page() -> usize {
    // SAFETY: asks the system for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_number_and_ends_at_a_guard() {
        let memory = Guarded::new(1000).unwrap();
        // SAFETY: within it.
        assert!(unsafe { memory.start.add(996).cast::<f32>().read_unaligned() }.is_nan());
        assert_eq!((memory.address() as usize + 1008) % page(), 0);
        assert!(memory.has(memory.address() + 999, 1) && !memory.has(memory.address() + 999, 2));
        assert!(!memory.has(memory.address() - 1, 1));
    }

    #[test]
    fn what_is_written_beside_it_shows() {
        for offset in [-1, 1000] {
            let memory = Guarded::new(1000).unwrap();
            assert!(!memory.spoilt());
            // SAFETY: not within it, but on its pages.
            unsafe { memory.start.offset(offset).write(0) };
            assert!(memory.spoilt(), "{offset}");
        }
    }
}
