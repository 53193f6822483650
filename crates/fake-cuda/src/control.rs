//! What a test holds: a library of its own, with a file of its own.

#![expect(unsafe_code, reason = "opens a library")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::file;
use crate::machine::{FakeGpu, Machine};

/// The names by which programs ask for the driver.
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// A library in a folder, and its machine.
#[derive(Clone, Debug)]
pub struct FakeCuda {
    folder: PathBuf,
}

impl FakeCuda {
    /// Puts a library into a folder. A process that has the folder in `LD_LIBRARY_PATH` opens it, and no other that the machine may have.
    ///
    /// # Errors
    /// When the folder cannot be written, or the library was not built: cargo builds it for whoever depends on this crate.
    pub fn install(folder: &Path, machine: &Machine) -> io::Result<FakeCuda> {
        FakeCuda::install_without(folder, machine, &[])
    }

    /// As [`FakeCuda::install`], from a library that lacks these functions.
    ///
    /// # Errors
    /// As [`FakeCuda::install`], and when a function was not there in the first place.
    pub fn install_without(folder: &Path, machine: &Machine, missing: &[&str]) -> io::Result<FakeCuda> {
        let mut bytes = std::fs::read(built()?)?;
        for name in missing {
            forget(&mut bytes, name)?;
        }
        let [file, link] = NAMES;
        std::fs::write(folder.join(file), bytes)?;
        std::os::unix::fs::symlink(file, folder.join(link))?;
        let fake = FakeCuda { folder: folder.to_owned() };
        file::write(&fake.file(), machine)?;
        Ok(fake)
    }

    /// Makes a folder that, in `LD_LIBRARY_PATH`, hides whatever driver the machine has: libraries that no loader takes.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn hide(folder: &Path) -> io::Result<()> {
        NAMES.iter().try_for_each(|name| std::fs::write(folder.join(name), "no library"))
    }

    /// The library of this process: installed and opened with the first call, with one GPU. Whatever asks for the driver by its name gets it from then on, if it has not
    /// asked before. Tests that want something of a GPU [add](FakeCuda::add) one of their own, as others run meanwhile.
    ///
    /// # Panics
    /// As [`FakeCuda::install`] and [`FakeCuda::open`] fail.
    pub fn of_this_process() -> &'static FakeCuda {
        static FAKE: OnceLock<FakeCuda> = OnceLock::new();
        FAKE.get_or_init(|| {
            let folder = std::env::temp_dir().join(format!("wharf-fake-cuda-{}", std::process::id()));
            // Of a process with the same number that crashed.
            let _ = std::fs::remove_dir_all(&folder);
            let made = std::fs::create_dir_all(&folder);
            let fake = made.and_then(|()| FakeCuda::install(&folder, &Machine::of(1)));
            let fake = fake.and_then(|fake| fake.open().map(|()| fake));
            let fake = fake.unwrap_or_else(|error| panic!("the fake libcuda cannot be used: {error}"));
            // SAFETY: removes a folder, for which it needs nothing that may be gone by then.
            unsafe { libc::atexit(clean) };
            fake
        })
    }

    /// Opens the library in this process, for as long as the process lives.
    ///
    /// # Errors
    /// When the loader refuses it.
    pub fn open(&self) -> io::Result<()> {
        let library = CString::new(self.library().as_os_str().as_bytes())?;
        // SAFETY: a library of ours, which does nothing when it is loaded.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        match handle.is_null() {
            true => Err(io::Error::other(format!("failed to open {}", self.library().display()))),
            false => Ok(()),
        }
    }

    /// Where the library is.
    pub fn library(&self) -> PathBuf {
        self.folder.join(NAMES[0])
    }

    /// For `LD_LIBRARY_PATH`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The machine as it is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn machine(&self) -> io::Result<Machine> {
        file::read(&self.file())
    }

    /// Changes the machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> io::Result<T> {
        file::change(&self.file(), change)
    }

    /// Adds a GPU and says which it is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, gpu: FakeGpu) -> io::Result<usize> {
        self.change(|machine| {
            machine.gpus.push(gpu);
            machine.gpus.len() - 1
        })
    }

    fn file(&self) -> PathBuf {
        file::beside(&self.library())
    }
}

extern "C" fn clean() {
    let folder = FakeCuda::of_this_process().folder();
    // What stays is in the system's folder for such things.
    let _ = std::fs::remove_dir_all(folder);
}

/// Cargo puts it where programs' dependencies are: beside a test, or beside an example's folder.
fn built() -> io::Result<PathBuf> {
    const NAME: &str = "libwharf_fake_cuda.so";
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let candidates = folders.flat_map(|folder| [folder.join(NAME), folder.join("deps").join(NAME)]);
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no {NAME} was built beside {}", program.display()))
    })
}

/// Spoils a name in the table of names, so that the loader does not find it.
fn forget(library: &mut [u8], name: &str) -> io::Result<()> {
    let wanted: Vec<u8> = [b"\0", name.as_bytes(), b"\0"].concat();
    let places: Vec<usize> =
        library.windows(wanted.len()).enumerate().filter(|(_, w)| *w == wanted).map(|(at, _)| at).collect();
    for at in &places {
        library[at + 1] = b'_';
    }
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the library has no {name}"));
    if places.is_empty() { Err(missing()) } else { Ok(()) }
}
