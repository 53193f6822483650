//! NVRTC, as far as it is needed to compile one unit from memory: <https://docs.nvidia.com/cuda/nvrtc/>.

#![expect(unsafe_code, reason = "NVRTC is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context, bail};
use libloading::{Library, Symbol};

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int) -> *const c_char;

/// The compiler.
pub(super) struct Nvrtc(Library);

/// A file, as others include it.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// What is wanted of a compilation.
#[derive(Clone, Copy)]
pub(super) enum Output {
    /// Machine code of one GPU.
    Cubin,
    /// What drivers compile.
    Ptx,
}

/// What came of a compilation.
pub(super) struct Compiled {
    pub(super) bytes: Vec<u8>,
    pub(super) log: String,
}

impl Nvrtc {
    pub(super) fn open(library: &Path) -> anyhow::Result<Nvrtc> {
        // SAFETY: NVIDIA's library, in the version that is pinned.
        let opened = unsafe { Library::new(library) };
        opened.map(Nvrtc).with_context(|| format!("failed to open {}", library.display()))
    }

    /// Compiles a unit that may include other files by their names.
    pub(super) fn compile(
        &self,
        unit: &Source,
        others: &[&Source],
        options: &[&str],
        output: Output,
    ) -> anyhow::Result<Compiled> {
        let unit = (CString::new(unit.text.as_str())?, CString::new(unit.name.as_str())?);
        let texts = strings(others.iter().map(|source| source.text.as_str()))?;
        let names = strings(others.iter().map(|source| source.name.as_str()))?;
        let options = strings(options.iter().copied())?;
        let (texts, names, options) = (pointers(&texts), pointers(&names), pointers(&options));
        let program = self.create(&unit, &texts, &names)?;
        // SAFETY: as `nvrtc.h` says, with as many options as are counted.
        let code = unsafe {
            let compile: Symbol<'_, Compile> = self.0.get("nvrtcCompileProgram")?;
            compile(program.program, c_int::try_from(options.len())?, options.as_ptr())
        };
        let log = program.get("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if code != 0 {
            bail!("{} does not compile: {}\n{}", unit.1.to_string_lossy(), self.error(code)?, log.trim_end());
        }
        let mut bytes = match output {
            Output::Cubin => program.get("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
            Output::Ptx => program.get("nvrtcGetPTXSize", "nvrtcGetPTX")?,
        };
        if let (Output::Ptx, Some(0)) = (output, bytes.last()) {
            // A text file; who embeds it adds the end that the driver wants.
            bytes.pop();
        }
        Ok(Compiled { bytes, log })
    }

    fn create(
        &self,
        (text, name): &(CString, CString),
        texts: &[*const c_char],
        names: &[*const c_char],
    ) -> anyhow::Result<Unit<'_>> {
        let mut program = ptr::null_mut();
        let count = c_int::try_from(texts.len())?;
        // SAFETY: as `nvrtc.h` says, with as many texts and names as are counted.
        let code = unsafe {
            let create: Symbol<'_, Create> = self.0.get("nvrtcCreateProgram")?;
            create(&raw mut program, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr())
        };
        if code != 0 {
            bail!("failed to start a compilation: {}", self.error(code)?);
        }
        Ok(Unit { nvrtc: self, program })
    }

    fn error(&self, code: c_int) -> anyhow::Result<String> {
        // SAFETY: gives a text that the library keeps.
        let text = unsafe {
            let text: Symbol<'_, ErrorText> = self.0.get("nvrtcGetErrorString")?;
            CStr::from_ptr(text(code))
        };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// A compilation, which ends with this.
struct Unit<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Unit<'_> {
    fn get(&self, size: &str, get: &str) -> anyhow::Result<Vec<u8>> {
        // SAFETY: as `nvrtc.h` says: one function tells how many bytes the other writes.
        unsafe {
            let (size, get): (Symbol<'_, Size>, Symbol<'_, Get>) =
                (self.nvrtc.0.get(size)?, self.nvrtc.0.get(get)?);
            let mut length = 0;
            let mut code = size(self.program, &raw mut length);
            let mut bytes = vec![0_u8; length];
            if code == 0 {
                code = get(self.program, bytes.as_mut_ptr().cast());
            }
            if code != 0 {
                bail!("failed to read what was compiled: {}", self.nvrtc.error(code)?);
            }
            Ok(bytes)
        }
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, and not destroyed before. A library without this function keeps the memory.
        unsafe {
            if let Ok(destroy) = self.nvrtc.0.get::<Destroy>("nvrtcDestroyProgram") {
                destroy(&raw mut self.program);
            }
        }
    }
}

fn strings<'a>(texts: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<CString>> {
    texts.map(|text| CString::new(text).context("a text has a zero byte")).collect()
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}
