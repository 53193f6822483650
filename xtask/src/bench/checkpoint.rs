//! Finished rows, kept so that an interrupted run goes on where it stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::peers::REQUIREMENTS;
use super::stats::{Probe, Work};
use crate::demo_files::short_digest;
use crate::environment;
use crate::shell;

/// Everything that was seen of a row. Verdicts are drawn from it anew each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) row: String,
    /// Name of the engine to its samples; the n-th samples of all engines were taken together.
    pub(crate) samples: BTreeMap<String, Vec<f64>>,
    /// Name of the engine to the setting that was best for it.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) probe: Probe,
    /// What one measurement of ours asks of the machine, where that is known.
    pub(crate) work: Option<Work>,
}

/// What a checkpoint must not be mixed across.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Circumstances {
    pub(crate) commit: String,
    /// Empty for a clean tree.
    pub(crate) changes: String,
    pub(crate) machine: String,
    pub(crate) threads: usize,
}

impl Circumstances {
    pub(crate) fn now(threads: usize) -> anyhow::Result<Circumstances> {
        let git = |args: &[&str]| {
            shell::read(std::process::Command::new("git").args(args).current_dir(environment::root()))
        };
        // What the run itself writes says nothing about what is measured.
        let scope = ["--", ".", ":!docs"];
        let status = git(&[&["status", "--porcelain"], &scope[..]].concat())?;
        let diff = git(&[&["diff", "HEAD"], &scope[..]].concat())?;
        let changes = if status.is_empty() { String::new() } else { short_digest(&(status + &diff)) };
        let cpu = std::fs::read_to_string("/proc/cpuinfo").context("failed to read /proc/cpuinfo")?;
        Ok(Circumstances {
            commit: git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned(),
            changes,
            machine: machine(&cpu),
            threads,
        })
    }

    /// Names the checkpoint of a row.
    pub(crate) fn key(&self, row: &str, file: &str, pairs: usize) -> String {
        let Circumstances { commit, changes, machine, threads } = self;
        let peers = REQUIREMENTS.join(" ");
        short_digest(
            &[commit, changes, machine, &threads.to_string(), &pairs.to_string(), row, file, &peers]
                .join("\n"),
        )
    }
}

impl std::fmt::Display for Circumstances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Circumstances { commit, changes, machine: _, threads } = self;
        let changed = if changes.is_empty() { "" } else { " with changes" };
        write!(f, "commit {commit}{changed}, {threads} threads")
    }
}

/// Model and instruction sets of the processor as `/proc/cpuinfo` tells them.
fn machine(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let known = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"];
    let flags: Vec<&str> = field("flags").split(' ').filter(|flag| known.contains(flag)).collect();
    format!(
        "{cores} x {} (family {} model {}): {}",
        field("model name"),
        field("cpu family"),
        field("model"),
        flags.join(" ")
    )
}

/// The folder of checkpoints.
pub(crate) struct Checkpoints {
    pub(crate) folder: PathBuf,
}

impl Checkpoints {
    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    /// `None` when the row was not finished under this key.
    pub(crate) fn load(&self, key: &str) -> anyhow::Result<Option<Measured>> {
        let path = self.path(key);
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("failed to read the checkpoint {}", path.display())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("the checkpoint {} is damaged: remove it", path.display())),
        }
    }

    /// Keeps a finished row; a file with the final name is always whole.
    pub(crate) fn save(&self, key: &str, measured: &Measured) -> anyhow::Result<()> {
        let (path, partial) = (self.path(key), self.path(&format!("{key}-partial")));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            std::fs::write(&partial, serde_json::to_vec_pretty(measured)?)?;
            std::fs::rename::<&Path, &Path>(&partial, &path)
        };
        write().with_context(|| format!("failed to write the checkpoint {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances() -> Circumstances {
        Circumstances { commit: "abc".into(), changes: String::new(), machine: "m".into(), threads: 2 }
    }

    #[test]
    fn another_commit_change_machine_row_file_or_number_of_pairs_is_another_key() {
        let here = circumstances();
        let key = here.key("r", "f", 7);
        assert_eq!(key, circumstances().key("r", "f", 7));
        assert_ne!(key, Circumstances { commit: "abd".into(), ..circumstances() }.key("r", "f", 7));
        assert_ne!(key, Circumstances { changes: "x".into(), ..circumstances() }.key("r", "f", 7));
        assert_ne!(key, Circumstances { machine: "n".into(), ..circumstances() }.key("r", "f", 7));
        assert_ne!(key, Circumstances { threads: 3, ..circumstances() }.key("r", "f", 7));
        assert_ne!(key, here.key("s", "f", 7));
        assert_ne!(key, here.key("r", "g", 7));
        assert_ne!(key, here.key("r", "f", 8));
    }

    #[test]
    fn a_finished_row_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints { folder: folder.path().join("rows") };
        let probe = Probe { int8_gmacs: 1.0, f32_gmacs: 2.0, bf16_gmacs: None, dram_gbs: 3.0 };
        let measured = Measured {
            row: "start/Q4_0".into(),
            samples: BTreeMap::from([("ours".into(), vec![1.0, 2.5])]),
            settings: BTreeMap::new(),
            probe,
            work: Some(Work { tokens: 1.0, macs: 2.0, bytes: 3.0 }),
        };
        assert_eq!(checkpoints.load("k").unwrap(), None);
        checkpoints.save("k", &measured).unwrap();
        assert_eq!(checkpoints.load("k").unwrap(), Some(measured));
        assert_eq!(checkpoints.load("l").unwrap(), None);
    }

    #[test]
    fn a_damaged_checkpoint_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("k.json"), "{").unwrap();
        let error = Checkpoints { folder: folder.path().into() }.load("k").unwrap_err();
        assert!(error.to_string().contains("damaged"));
    }

    #[test]
    fn the_machine_is_its_processor_and_what_that_can_do() {
        let cpu = "processor\t: 0\nmodel name\t: X 9\ncpu family\t: 25\nmodel\t\t: 1\nflags\t\t: fpu avx2 avx512f\n\
                   processor\t: 1\nmodel name\t: X 9\n";
        assert_eq!(machine(cpu), "2 x X 9 (family 25 model 1): avx2 avx512f");
    }
}
