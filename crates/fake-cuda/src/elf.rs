//! What of an ELF file is needed to read a cubin: its sections and its flags.

/// Bytes of the file's header and of one of a section (64 bits).
const HEADER: usize = 64;
const SECTION: usize = 64;
/// A section without bytes in the file.
const NO_BITS: u32 = 8;

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) flags: u32,
    sections: Vec<Section<'a>>,
}

#[derive(Debug)]
struct Section<'a> {
    name: &'a str,
    size: u64,
    /// Empty where the file has none.
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Nothing if it is not one, or not whole.
    pub(crate) fn parse(file: &'a [u8]) -> Option<Elf<'a>> {
        if file.len() < HEADER || !file.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let table = usize::try_from(u64_at(file, 40)?).ok()?;
        let count = usize::from(u16_at(file, 60)?);
        let names = usize::from(u16_at(file, 62)?);
        let header = |index: usize| {
            let start = table.checked_add(index * SECTION)?;
            file.get(start..start.checked_add(SECTION)?)
        };
        let bytes = |header: &[u8]| {
            let start = usize::try_from(u64_at(header, 24)?).ok()?;
            let size = usize::try_from(u64_at(header, 32)?).ok()?;
            match u32_at(header, 4)? {
                NO_BITS => Some(&file[..0]),
                _ => file.get(start..start.checked_add(size)?),
            }
        };
        let names = bytes(header(names)?)?;
        let section = |index| {
            let header = header(index)?;
            let name = names.get(u32_at(header, 0)? as usize..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let name = std::str::from_utf8(name).ok()?;
            Some(Section { name, size: u64_at(header, 32)?, bytes: bytes(header)? })
        };
        Some(Elf { flags: u32_at(file, 48)?, sections: (0..count).map(section).collect::<Option<_>>()? })
    }

    /// How many bytes the file must have, from its first ones; nothing if it is none.
    pub(crate) fn length(header: &[u8]) -> Option<usize> {
        if header.len() < HEADER || !header.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        // Sections' headers come last in a cubin, but for the program's.
        let end = |place: usize, size: usize, count: usize| {
            let start = usize::try_from(u64_at(header, place)?).ok()?;
            let bytes = usize::from(u16_at(header, size)?) * usize::from(u16_at(header, count)?);
            Some(start + bytes)
        };
        Some(end(40, 58, 60)?.max(end(32, 54, 56)?))
    }

    /// A section's bytes.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|section| section.name == name).map(|section| section.bytes)
    }

    /// A section's size, bytes or not.
    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        self.sections.iter().find(|section| section.name == name).map(|section| section.size)
    }

    /// What follows a beginning in the names of sections.
    pub(crate) fn named<'s>(&'s self, beginning: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.sections.iter().filter_map(move |section| section.name.strip_prefix(beginning))
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
