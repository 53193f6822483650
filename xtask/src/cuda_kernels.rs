//! `cargo xtask cuda-kernels`: compiles the kernels for GPUs into `crates/cuda/objects`, which are checked in, so that nobody else needs anything of NVIDIA's.
//!
//! The compiler is NVRTC, from its package for Python: it needs no GPU, no driver and no toolkit. The same version makes the same bytes of the same
//! sources, which is what `--check` relies on.

mod nvrtc;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::environment;
use crate::python::Python;
use nvrtc::{Nvrtc, Output, Source};

/// Compile the kernels for NVIDIA GPUs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask cuda-kernels             after touching crates/cuda/kernels: compiles them and writes crates/cuda/objects
  cargo xtask cuda-kernels --verbose   says what each kernel takes of registers and memory, and what it spills
  cargo xtask cuda-kernels --check     exits with 1 when crates/cuda/objects is not what the kernels compile to")]
pub(crate) struct Args {
    /// Compare with what is checked in instead of writing it
    #[arg(long)]
    check: bool,
    /// Print what the assembler says of each kernel
    #[arg(long)]
    verbose: bool,
}

const PACKAGE: &str = "nvidia-cuda-nvrtc-cu12";
/// The last of CUDA 12, whose machine code drivers since 525 run.
const VERSION: &str = "12.9.86";

/// What the only unit of compilation is called; it includes the other files.
const UNIT: &str = "wharf.cu";
const OPTIONS: [&str; 2] = ["--std=c++17", "-DWHARF_DEVICE"];

/// Files, what they are for, and what they are: `wharf_cuda::objects` says which GPU runs which.
const OBJECTS: [(&str, &str, Output); 3] = [
    ("sm_80.cubin", "sm_80", Output::Cubin),
    ("sm_90.cubin", "sm_90", Output::Cubin),
    ("wharf.ptx", "compute_80", Output::Ptx),
];
const MANIFEST: &str = "manifest.json";

/// What objects were made of. A test of `wharf-cuda` compares it with what is there.
#[derive(Serialize)]
struct Manifest<'a> {
    nvrtc: &'a str,
    options: &'a [&'a str],
    /// SHA-256 by the name of a file in `kernels`.
    sources: BTreeMap<&'a str, String>,
    /// SHA-256 by the name of a file in `objects`.
    objects: BTreeMap<&'a str, String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let python = Python::find().context(Python::MISSING)?;
    if !args.check {
        for (name, bytes) in make(&python, args.verbose)? {
            let (path, bytes) = (path(&name), compressed(&name, bytes)?);
            fs::write(&path, bytes).with_context(|| format!("failed to write {}", path.display()))?;
            println!("wrote {}", path.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let stale = stale(&python, args.verbose)?;
    Ok(if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names of files in `objects` that are not what the kernels compile to, which are also printed.
pub(crate) fn stale(python: &Python, verbose: bool) -> anyhow::Result<Vec<String>> {
    let made = make(python, verbose)?;
    let differs = |(name, bytes): &(String, Vec<u8>)| checked_in(name).ok().as_ref() != Some(bytes);
    let stale: Vec<String> = made.iter().filter(|file| differs(file)).map(|(name, _)| name.clone()).collect();
    match stale.is_empty() {
        true => println!("{} files in crates/cuda/objects are what the kernels compile to", made.len()),
        false => {
            println!("crates/cuda/objects is stale ({}): run `cargo xtask cuda-kernels`", stale.join(", "));
        }
    }
    Ok(stale)
}

/// What `objects` has to hold.
fn make(python: &Python, verbose: bool) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let packages = python.packages(&Cache::open()?, &format!("{PACKAGE}=={VERSION}"))?;
    let nvrtc = Nvrtc::open(&packages.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12"))?;
    let sources = sources(&environment::root().join("crates/cuda/kernels"))?;
    let Some(unit) = sources.iter().find(|source| source.name == UNIT) else {
        bail!("there is no {UNIT} among the kernels");
    };
    let others: Vec<&Source> = sources.iter().filter(|source| source.name != UNIT).collect();
    let compile = |(_, architecture, output): (&str, &str, Output)| {
        let architecture = format!("--gpu-architecture={architecture}");
        let mut options = vec![architecture.as_str()];
        options.extend(OPTIONS);
        if verbose {
            options.push("--ptxas-options=-v");
        }
        nvrtc.compile(unit, &others, &options, output)
    };
    // Each takes half a minute of one CPU.
    let compiled = std::thread::scope(|scope| {
        let compilations = OBJECTS.map(|object| scope.spawn(move || compile(object)));
        compilations.map(|compilation| compilation.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let mut files = Vec::new();
    for ((name, _, _), compiled) in OBJECTS.into_iter().zip(compiled) {
        let compiled = compiled?;
        if !compiled.log.is_empty() {
            println!("{name}:\n{}", compiled.log.trim_end());
        }
        files.push((name.to_owned(), compiled.bytes));
    }
    let manifest = Manifest {
        nvrtc: VERSION,
        options: &OPTIONS,
        sources: sources
            .iter()
            .map(|source| (source.name.as_str(), digest(source.text.as_bytes())))
            .collect(),
        objects: files.iter().map(|(name, bytes)| (name.as_str(), digest(bytes))).collect(),
    };
    let manifest = serde_json::to_string_pretty(&manifest).context("failed to write the manifest")? + "\n";
    files.push((MANIFEST.to_owned(), manifest.into_bytes()));
    Ok(files)
}

/// All sources in the folder, by name.
fn sources(folder: &Path) -> anyhow::Result<Vec<Source>> {
    let reading = || format!("failed to read {}", folder.display());
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if !path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).with_context(reading)?;
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        sources.push(Source { name: name.to_owned(), text });
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}

/// Where a file is checked in: objects by gzip.
fn path(name: &str) -> PathBuf {
    let name = if name == MANIFEST { name.to_owned() } else { format!("{name}.gz") };
    environment::root().join("crates/cuda/objects").join(name)
}

fn compressed(name: &str, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if name == MANIFEST {
        return Ok(bytes);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    encoder.finish()
}

/// A file as it was before it was compressed.
fn checked_in(name: &str) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path(name))?;
    if name == MANIFEST {
        return Ok(bytes);
    }
    let mut whole = Vec::new();
    GzDecoder::new(&bytes[..]).read_to_end(&mut whole)?;
    Ok(whole)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
