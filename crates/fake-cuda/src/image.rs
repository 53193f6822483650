//! What a module says of its kernels. Cubins say it in sections `.nv.info`, whose records NVIDIA does not document but which have been the same for
//! ten years; PTX says it in words.

use crate::elf::{Elf, u16_at, u32_at};
use crate::errors::{INVALID_IMAGE, NO_BINARY_FOR_GPU, UNSUPPORTED_PTX_VERSION};

/// `EIATTR_…`, in records whose size is said: what a kernel's argument is, the most threads it was compiled for, registers of a thread.
const ARGUMENT: u8 = 0x17;
const MOST_THREADS: u8 = 0x05;
const REGISTERS: u8 = 0x2f;
/// A record with a size; others have two bytes.
const SIZED: u8 = 0x04;

/// A kernel of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Bytes of each argument.
    pub(crate) arguments: Vec<usize>,
    /// Of each thread, where the module says so.
    pub(crate) registers: Option<u32>,
    /// Of a block, where the sources say so.
    pub(crate) most_threads: Option<u32>,
    /// Bytes that each block has in any case.
    pub(crate) shared: u32,
}

/// What a GPU of this capability, with a driver of this CUDA, finds in a module; or what it answers.
pub(crate) fn read(image: &[u8], capability: (u32, u32), cuda: i32) -> Result<Vec<Kernel>, u32> {
    match Elf::parse(image) {
        Some(elf) => cubin(&elf, capability),
        None => ptx(std::str::from_utf8(image).map_err(|_| INVALID_IMAGE)?, capability, cuda),
    }
}

fn cubin(elf: &Elf<'_>, (major, minor): (u32, u32)) -> Result<Vec<Kernel>, u32> {
    let made_for = elf.flags & 0xff;
    if made_for / 10 != major || made_for % 10 > minor {
        return Err(NO_BINARY_FOR_GPU);
    }
    let kernel = |name: &str| {
        let records = records(elf.section(&format!(".nv.info.{name}"))?)?;
        let mut arguments: Vec<(u16, usize)> = Vec::new();
        let mut most_threads = None;
        for (kind, bytes) in records {
            match kind {
                ARGUMENT => arguments.push((u16_at(bytes, 4)?, (u32_at(bytes, 8)? >> 18) as usize)),
                MOST_THREADS => {
                    most_threads = Some(u32_at(bytes, 0)? * u32_at(bytes, 4)? * u32_at(bytes, 8)?)
                }
                _ => {}
            }
        }
        arguments.sort_unstable();
        let shared = elf.size(&format!(".nv.shared.{name}")).unwrap_or(0);
        Some(Kernel {
            name: name.to_owned(),
            arguments: arguments.into_iter().map(|(_, bytes)| bytes).collect(),
            registers: registers(elf, name),
            most_threads,
            shared: u32::try_from(shared).ok()?,
        })
    };
    elf.named(".nv.info.").map(kernel).collect::<Option<_>>().ok_or(INVALID_IMAGE)
}

/// Kinds and contents of the records of a section.
fn records(section: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut records = Vec::new();
    let mut rest = section;
    while !rest.is_empty() {
        let (format, kind, size) = (*rest.first()?, *rest.get(1)?, usize::from(u16_at(rest, 2)?));
        let size = if format == SIZED { size } else { 0 };
        records.push((kind, rest.get(4..4 + size)?));
        rest = &rest[4 + size..];
    }
    Some(records)
}

/// Registers are told by the number of the kernel's symbol.
fn registers(elf: &Elf<'_>, kernel: &str) -> Option<u32> {
    const SYMBOL: usize = 24;
    let (symbols, names) = (elf.section(".symtab")?, elf.section(".strtab")?);
    let number = symbols.chunks_exact(SYMBOL).position(|symbol| {
        let name = u32_at(symbol, 0).and_then(|at| names.get(at as usize..));
        name.and_then(|name| name.strip_prefix(kernel.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    })?;
    let records = records(elf.section(".nv.info")?)?;
    let of = |(kind, bytes): &(u8, &[u8])| {
        (*kind == REGISTERS && u32_at(bytes, 0) == u32::try_from(number).ok()).then(|| u32_at(bytes, 4))?
    };
    records.iter().find_map(of)
}

fn ptx(text: &str, capability: (u32, u32), cuda: i32) -> Result<Vec<Kernel>, u32> {
    let directive = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let version = directive(".version ").and_then(|version| version.split_once('.'));
    let version = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let target = directive(".target sm_").and_then(|target| target.parse::<u32>().ok());
    let (Some(version), Some(target)) = (version, target) else { return Err(INVALID_IMAGE) };
    if cuda < first_with(version) {
        return Err(UNSUPPORTED_PTX_VERSION);
    }
    if (target / 10, target % 10) > capability {
        return Err(NO_BINARY_FOR_GPU);
    }
    text.split(".visible .entry ").skip(1).map(|entry| entry_of(entry).ok_or(INVALID_IMAGE)).collect()
}

/// The first CUDA whose drivers read this version of PTX, as `cuDriverGetVersion` says it
/// (<https://docs.nvidia.com/cuda/parallel-thread-execution/#release-notes>).
fn first_with(version: (u32, u32)) -> i32 {
    match version {
        (8, minor @ 0..=5) => 12_000 + 10 * minor.cast_signed(),
        (8, 6) => 12_070,
        (8, 7) => 12_080,
        (8, _) => 12_090,
        (major, _) if major < 8 => 11_000,
        (_, minor) => 13_000 + 10 * minor.cast_signed(),
    }
}

/// `name(.param .u64 a, .param .align 8 .b8 b[24]) .maxntid 128, 1, 1 {…`
fn entry_of(entry: &str) -> Option<Kernel> {
    let (name, rest) = entry.split_once('(')?;
    let (parameters, rest) = rest.split_once(')')?;
    let size = |parameter: &str| {
        let words: Vec<&str> = parameter.split_whitespace().collect();
        let kind =
            words.iter().find(|word| word.starts_with(".") && word.ends_with(|c: char| c.is_ascii_digit()));
        let bits: usize = kind?.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
        let count = match words.last()?.split_once('[') {
            Some((_, count)) => count.trim_end_matches(']').parse().ok()?,
            None => 1,
        };
        Some(bits / 8 * count)
    };
    let parameters = parameters.split(',').filter(|parameter| !parameter.trim().is_empty());
    let most_threads = rest.split('{').next()?.split_once(".maxntid ").and_then(|(_, threads)| {
        let threads = threads.lines().next()?.split(',').map(|number| number.trim().parse::<u32>());
        threads.product::<Result<u32, _>>().ok()
    });
    Some(Kernel {
        name: name.trim().to_owned(),
        arguments: parameters.map(size).collect::<Option<_>>()?,
        most_threads,
        ..Kernel::default()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::LazyLock;

    use super::*;

    fn object(compressed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut bytes).unwrap();
        bytes
    }

    static SM_80: LazyLock<Vec<u8>> =
        LazyLock::new(|| object(include_bytes!("../../cuda/objects/sm_80.cubin.gz")));
    static SM_90: LazyLock<Vec<u8>> =
        LazyLock::new(|| object(include_bytes!("../../cuda/objects/sm_90.cubin.gz")));
    static PTX: LazyLock<Vec<u8>> =
        LazyLock::new(|| object(include_bytes!("../../cuda/objects/wharf.ptx.gz")));

    fn fill(kernels: &[Kernel]) -> &Kernel {
        kernels.iter().find(|kernel| kernel.name == "wharf_fill").unwrap()
    }

    #[test]
    fn all_objects_say_the_same_of_arguments() {
        let read = [read(&SM_80, (8, 6), 12_000), read(&SM_90, (9, 0), 12_000), read(&PTX, (12, 0), 12_090)];
        for kernels in read {
            assert_eq!(fill(&kernels.unwrap()).arguments, [8, 4, 4]);
        }
    }

    #[test]
    fn all_objects_have_the_same_kernels() {
        let names = |kernels: Result<Vec<Kernel>, u32>| {
            let mut names: Vec<(String, Vec<usize>)> =
                kernels.unwrap().into_iter().map(|kernel| (kernel.name, kernel.arguments)).collect();
            names.sort_unstable();
            names
        };
        let first = names(read(&SM_80, (8, 0), 12_000));
        assert_eq!(names(read(&SM_90, (9, 0), 12_000)), first);
        assert_eq!(names(read(&PTX, (9, 0), 13_000)), first);
    }

    #[test]
    fn cubins_tell_registers() {
        let registers = fill(&read(&SM_90, (9, 0), 12_000).unwrap()).registers.unwrap();
        assert!((4..=255).contains(&registers), "{registers}");
    }

    #[test]
    fn objects_are_for_some_gpus_and_drivers() {
        assert_eq!(read(&SM_80, (9, 0), 12_000), Err(NO_BINARY_FOR_GPU));
        assert_eq!(read(&SM_90, (8, 9), 12_000), Err(NO_BINARY_FOR_GPU));
        assert_eq!(read(&PTX, (7, 5), 12_090), Err(NO_BINARY_FOR_GPU));
        assert_eq!(read(&PTX, (10, 0), 12_080), Err(UNSUPPORTED_PTX_VERSION));
        assert_eq!(read(b"something else", (9, 0), 12_090), Err(INVALID_IMAGE));
        assert_eq!(read(&SM_90[..100], (9, 0), 12_090), Err(INVALID_IMAGE));
    }

    #[test]
    fn ptx_tells_arrays_and_launch_bounds() {
        let entry =
            "k(\n\t.param .align 8 .b8 k_param_0[24],\n\t.param .f32 k_param_1\n)\n.maxntid 128, 1, 1\n{";
        let kernel = entry_of(entry).unwrap();
        assert_eq!((kernel.arguments, kernel.most_threads), (vec![24, 4], Some(128)));
    }
}
