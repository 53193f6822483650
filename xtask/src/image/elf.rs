//! What a program says that it needs: its machine, its loader and its libraries, from the headers of an ELF file (System V ABI, 64 bits,
//! little-endian, as all machines of ours are).

use anyhow::{Context, bail, ensure};

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const NEEDED: u64 = 1;
const STRINGS: u64 = 5;

/// A kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86,
    Arm,
}

impl Machine {
    /// As images call it.
    pub(super) fn oci(self) -> &'static str {
        match self {
            Machine::X86 => "amd64",
            Machine::Arm => "arm64",
        }
    }

    /// As Debian calls folders of it.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Machine::X86 => "x86_64-linux-gnu",
            Machine::Arm => "aarch64-linux-gnu",
        }
    }
}

/// What a program needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) machine: Machine,
    /// Path of the dynamic loader; static programs have none.
    pub(super) loader: Option<String>,
    /// Names of the libraries that it is linked with.
    pub(super) libraries: Vec<String>,
}

/// A part of the file that is mapped into memory.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Program {
    /// Reads the headers.
    ///
    /// # Errors
    /// When these are not the bytes of a program or library of a machine that we know.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Program> {
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "it is not an ELF file of 64 bits, little-endian");
        let machine = match number::<2>(bytes, 18)? {
            62 => Machine::X86,
            183 => Machine::Arm,
            other => bail!("it is for the machine {other} of the ELF standard, which has no image"),
        };
        let segments = segments(bytes)?;
        let find = |kind: u32| segments.iter().find(|segment| segment.kind == kind);
        let loader = find(INTERPRETER).map(|segment| text(bytes, segment.offset)).transpose()?;
        let libraries = find(DYNAMIC)
            .map(|dynamic| libraries(bytes, &segments, dynamic))
            .transpose()?
            .unwrap_or_default();
        Ok(Program { machine, loader, libraries })
    }
}

fn segments(bytes: &[u8]) -> anyhow::Result<Vec<Segment>> {
    let (table, size, count) = (number::<8>(bytes, 32)?, number::<2>(bytes, 54)?, number::<2>(bytes, 56)?);
    (0..count)
        .map(|index| {
            let at = table.checked_add(index * size).context("its table of segments lies outside of it")?;
            let kind = u32::try_from(number::<4>(bytes, at)?).context("a kind of segment has four bytes")?;
            let [offset, address, size] =
                [8, 16, 32].map(|field| number::<8>(bytes, at.saturating_add(field)));
            Ok(Segment { kind, offset: offset?, address: address?, size: size? })
        })
        .collect()
}

fn libraries(bytes: &[u8], segments: &[Segment], dynamic: &Segment) -> anyhow::Result<Vec<String>> {
    let mut entries = Vec::new();
    for index in 0..dynamic.size / 16 {
        let at = dynamic.offset.saturating_add(index * 16);
        match number::<8>(bytes, at)? {
            0 => break,
            tag => entries.push((tag, number::<8>(bytes, at.saturating_add(8))?)),
        }
    }
    let of = |tag: u64| entries.iter().filter(move |entry| entry.0 == tag).map(|entry| entry.1);
    let Some(strings) = of(STRINGS).next() else { return Ok(Vec::new()) };
    let home = segments
        .iter()
        .find(|one| one.kind == LOAD && strings >= one.address && strings - one.address < one.size);
    let home = home.context("its names of libraries lie outside of it")?;
    let strings = home.offset.saturating_add(strings - home.address);
    of(NEEDED).map(|name| text(bytes, strings.saturating_add(name))).collect()
}

/// A number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: u64) -> anyhow::Result<u64> {
    let found = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(N)?));
    let mut whole = [0; 8];
    whole[..N].copy_from_slice(found.context("it is cut off")?);
    Ok(u64::from_le_bytes(whole))
}

/// A text that ends with a zero.
fn text(bytes: &[u8], at: u64) -> anyhow::Result<String> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).context("it is cut off")?;
    let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(std::str::from_utf8(text).context("a name in it is no text")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    fn own() -> (String, Vec<u8>) {
        let path = std::env::current_exe().unwrap();
        (path.display().to_string(), std::fs::read(path).unwrap())
    }

    #[test]
    fn this_test_needs_what_the_loader_says_that_it_needs() {
        let (path, bytes) = own();
        let program = Program::parse(&bytes).unwrap();
        let loader = program.loader.unwrap();
        let said = shell::read(std::process::Command::new(loader).args(["--list", &path])).unwrap();
        assert!(!program.libraries.is_empty());
        for name in &program.libraries {
            assert!(said.contains(name), "{name} is not in {said}");
        }
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_is_refused() {
        let (_, bytes) = own();
        for wrong in [&b"#!/bin/sh\n"[..], &[], &bytes[..20], &bytes[..60], &bytes[..100]] {
            assert!(Program::parse(wrong).is_err());
        }
        let mut other = bytes.clone();
        other[18] = 243;
        assert!(Program::parse(&other).unwrap_err().to_string().contains("machine 243"));
    }
}
