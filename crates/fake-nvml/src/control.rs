//! What a test holds: a library of its own, with a file of its own.

use std::io;
use std::path::{Path, PathBuf};

use crate::file;
use crate::machine::{Event, Machine};

/// A library in a folder, and its machine.
#[derive(Clone, Debug)]
pub struct FakeNvml {
    library: PathBuf,
}

impl FakeNvml {
    /// Puts a library into a folder. Each is loaded for itself, so one process can have several machines.
    ///
    /// # Errors
    /// When the folder cannot be written, or the library was not built: cargo builds it for whoever depends on this crate.
    pub fn install(folder: &Path, machine: &Machine) -> io::Result<FakeNvml> {
        FakeNvml::install_without(folder, machine, &[])
    }

    /// As [`FakeNvml::install`], from an older driver that lacks these functions.
    ///
    /// # Errors
    /// As [`FakeNvml::install`], and when a function was not there in the first place.
    pub fn install_without(folder: &Path, machine: &Machine, missing: &[&str]) -> io::Result<FakeNvml> {
        let mut bytes = std::fs::read(built()?)?;
        for name in missing {
            forget(&mut bytes, name)?;
        }
        let library = folder.join("libnvidia-ml.so.1");
        std::fs::write(&library, bytes)?;
        file::write(&file::beside(&library), machine)?;
        Ok(FakeNvml { library })
    }

    /// Where the library is.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The machine as it is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn machine(&self) -> io::Result<Machine> {
        file::read(&file::beside(&self.library))
    }

    /// Changes the machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> io::Result<T> {
        file::change(&file::beside(&self.library), change)
    }

    /// A GPU throws an XID.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn xid(&self, gpu: &str, xid: u64) -> io::Result<()> {
        self.change(|machine| {
            machine.happen(Event { gpu: gpu.to_owned(), data: xid, ..Event::default() });
        })
    }
}

/// Cargo puts it where programs' dependencies are: beside a test, or beside an example's folder.
fn built() -> io::Result<PathBuf> {
    const NAME: &str = "libwharf_fake_nvml.so";
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let candidates = folders.flat_map(|folder| [folder.join(NAME), folder.join("deps").join(NAME)]);
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no {NAME} was built beside {}", program.display()))
    })
}

/// Spoils a name in the table of names, so that the loader does not find it.
fn forget(library: &mut [u8], name: &str) -> io::Result<()> {
    let mut wanted = vec![0];
    wanted.extend_from_slice(name.as_bytes());
    wanted.push(0);
    let mut found = false;
    let places: Vec<usize> =
        library.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted).map(|(at, _)| at).collect();
    for at in places {
        library[at + 1] = b'_';
        found = true;
    }
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the library has no {name}"));
    if found { Ok(()) } else { Err(missing()) }
}
