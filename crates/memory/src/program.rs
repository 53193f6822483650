//! Lets go of pages of the program and of the C library that nobody has written to: they are the same in their files, from which (that is, from
//! the page cache) the kernel maps them again when they are used.

use std::io;
use std::ops::Range;
use std::path::Path;

/// Libraries that the program is linked with, under their names in glibc. Others may be unloaded, and what they were mapped at be another's.
const LINKED: [&str; 2] = ["libc.so.6", "libm.so.6"];

/// Marks those pages as not needed soon and unmaps them. Where the kernel refuses, they stay as they are.
///
/// # Errors
/// When the process cannot see its mappings, or one cannot be let go of.
pub(super) fn let_go() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    unwritten(&maps, &program).try_for_each(|pages| {
        // First, because pages that were used lately count as in use even when nobody has them mapped any more. Linux before 5.4 does not know it.
        let _ = advise(&pages, libc::MADV_COLD);
        advise(&pages, libc::MADV_DONTNEED)
    })
}

fn advise(pages: &Range<usize>, advice: libc::c_int) -> io::Result<()> {
    #[expect(unsafe_code, reason = "FFI: the kernel has no other interface")]
    // SAFETY: these are pages of the program's own image or of a library that it is linked with, which stay mapped as long as it runs. They cannot be
    // written to and never were, so that what is read there is what the file has, before and afterwards.
    let result = unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Private mappings of `program` and of [`LINKED`] that cannot be written to and of which no page was ever written, from `/proc/PID/smaps`. Relocated
/// pages (`.data.rel.ro`) cannot be written to either, but were once: they are anonymous, and what they hold is nowhere else.
fn unwritten<'a>(smaps: &'a str, program: &'a Path) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut lines = smaps.lines().peekable();
    std::iter::from_fn(move || {
        loop {
            let mapping = to_read(lines.next()?, program);
            let mut written = true;
            while let Some((name, value)) = lines.peek().and_then(|line| field(line)) {
                if name == "Anonymous" {
                    written = value != "0 kB";
                }
                lines.next();
            }
            if let (Some(pages), false) = (mapping, written) {
                return Some(pages);
            }
        }
    })
}

/// A line about a mapping: `Name:   value`. Heads have no colon before their first space.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    (!name.contains(' ')).then_some((name, value.trim()))
}

/// The addresses of a mapping whose head says that it is a private one of `program` or of [`LINKED`] and not to be written to (proc(5)):
/// `start-end permissions offset device inode path`.
fn to_read(head: &str, program: &Path) -> Option<Range<usize>> {
    let mut parts = head.splitn(6, ' ');
    let (start, end) = parts.next()?.split_once('-')?;
    let permissions = parts.next()?;
    let path = Path::new(parts.nth(3)?.trim_start());
    let linked = || path.file_name().is_some_and(|name| LINKED.iter().any(|linked| name == *linked));
    let address = |text| usize::from_str_radix(text, 16).ok();
    (matches!(permissions, "r--p" | "r-xp") && (path == program || linked()))
        .then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::resident;
    use super::*;

    const SMAPS: &str = "\
55d0a0000000-55d0a0100000 r--p 00000000 fe:00 1234                       /usr/bin/wharf 2
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0a0100000-55d0a0200000 r-xp 00100000 fe:00 1234                       /usr/bin/wharf 2
Anonymous:             0 kB
55d0a0200000-55d0a0280000 r--p 00200000 fe:00 1234                       /usr/bin/wharf 2
Anonymous:           512 kB
55d0a0280000-55d0a0290000 rw-p 00280000 fe:00 1234                       /usr/bin/wharf 2
Anonymous:             0 kB
7f0000000000-7f0000100000 r--s 00000000 fe:00 99                         /models/a: file.gguf
Anonymous:             0 kB
7f0000100000-7f0000200000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7fff00000000-7fff00004000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
7fff00004000-7fff00008000 r--p 00000000 fe:00 1234                       /usr/lib/libc.so.6
Anonymous:             0 kB
7fff00008000-7fff0000a000 r-xp 00004000 fe:00 1234                       /usr/lib/libc.so.6
Anonymous:             4 kB
7fff0000a000-7fff0000c000 r-xp 00000000 fe:00 1235                       /usr/lib/libcuda.so.1
Anonymous:             0 kB";

    #[test]
    fn only_what_is_the_same_in_a_file_that_stays_is_let_go() {
        let found: Vec<_> = unwritten(SMAPS, Path::new("/usr/bin/wharf 2")).collect();
        let expected = [
            0x55d0_a000_0000..0x55d0_a010_0000,
            0x55d0_a010_0000..0x55d0_a020_0000,
            0x7fff_0000_4000..0x7fff_0000_8000,
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_of_the_program_are_unmapped_and_come_back() {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let pages: Vec<_> = unwritten(&maps, &program).collect();
        for pages in &pages {
            advise(pages, libc::MADV_POPULATE_READ).unwrap();
        }
        let all: usize = pages.iter().map(ExactSizeIterator::len).sum();
        let before = resident("RssFile");
        let_go().unwrap();
        let after = resident("RssFile");
        // The program of a test is small: much of it is there again.
        assert!(after + all / 4 < before, "of {all} bytes: {before} bytes before, {after} after");
    }
}
