//! Python with pip, for what only the Python package index carries. Packages go into folders of our cache:
//! nothing is installed into the user's Python, and no virtual environment module is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::shell;

/// A Python 3 that has pip.
pub(crate) struct Python {
    program: &'static str,
}

impl Python {
    /// `None` when the machine has none.
    pub(crate) fn find() -> Option<Python> {
        ["python3", "python"]
            .into_iter()
            .find(|program| {
                let modern = ["-c", "import sys, pip; assert sys.version_info >= (3, 9)"];
                shell::works(Command::new(program).args(modern))
            })
            .map(|program| Python { program })
    }

    /// What to tell a user without one.
    pub(crate) const MISSING: &str =
        "no Python 3.9 or later with pip found (on Debian: apt install python3 python3-pip)";

    /// The interpreter.
    pub(crate) fn command(&self) -> Command {
        Command::new(self.program)
    }

    /// Downloads the wheel of exactly this requirement into `folder`, without its dependencies.
    pub(crate) fn download(&self, requirement: &str, folder: &Path) -> anyhow::Result<()> {
        let mut pip = self.pip("download");
        shell::run(pip.args(["--no-deps", "--only-binary=:all:", "--dest"]).arg(folder).arg(requirement))
    }

    /// A folder for `PYTHONPATH` with this requirement and its dependencies, installed at most once for each
    /// version of Python.
    pub(crate) fn packages(&self, cache: &Cache, requirement: &str) -> anyhow::Result<PathBuf> {
        self.wheels(cache, requirement, &[requirement])
    }

    /// As [`Python::packages`], for several requirements under a name.
    pub(crate) fn wheels(&self, cache: &Cache, name: &str, requirements: &[&str]) -> anyhow::Result<PathBuf> {
        self.install(cache, name, &[&["--only-binary=:all:"], requirements].concat())
    }

    /// As [`Python::packages`], for what pip has to compile: with every instruction that this machine has.
    pub(crate) fn compiled(
        &self,
        cache: &Cache,
        name: &str,
        requirements: &[&str],
    ) -> anyhow::Result<PathBuf> {
        self.install(cache, name, requirements)
    }

    fn install(&self, cache: &Cache, name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
        let mut tag = self.command();
        let tag = shell::read(tag.args(["-c", "import sys; print('py%d.%d' % sys.version_info[:2])"]))?;
        let folder = Path::new("python").join(format!("{}-{}", name.replace("==", "-"), tag.trim()));
        cache.filled(&folder, |folder| {
            let mut pip = self.pip("install");
            // Without it a build of several hundred files starts a compiler for each at once.
            let jobs = std::thread::available_parallelism().map_or(1, usize::from);
            pip.env("CMAKE_BUILD_PARALLEL_LEVEL", jobs.to_string());
            shell::run(pip.args(["--upgrade", "--target"]).arg(folder).args(arguments))
        })
    }

    fn pip(&self, what: &str) -> Command {
        let mut pip = self.command();
        pip.args(["-m", "pip", "--disable-pip-version-check", what]);
        pip
    }
}
