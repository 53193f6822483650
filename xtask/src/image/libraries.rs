//! Which libraries a program needs at run time and where they are: those that it names, those that these name, and so on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::elf::{Machine, Program};

/// What the C library opens by itself to resolve names, where it is not part of it (before glibc 2.34).
const OPENED: [&str; 3] = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"];

/// Files by their paths in the image, without a leading slash.
pub(super) fn of(program: &Program, sysroot: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let Some(loader) = &program.loader else { return Ok(found) };
    let loader = loader.trim_start_matches('/');
    let name = loader.rsplit('/').next().unwrap_or(loader);
    let file = [sysroot.join(loader)]
        .into_iter()
        .chain(search(program.machine, sysroot, name).map(|(_, file)| file));
    let file =
        file.into_iter().find(|file| file.is_file()).with_context(|| format!("there is no {loader}"))?;
    found.insert(loader.to_owned(), file);

    let mut wanted = program.libraries.clone();
    let mut opened: Vec<&str> = OPENED.to_vec();
    loop {
        let required = wanted.pop();
        let Some(library) = required.clone().or_else(|| opened.pop().map(str::to_owned)) else {
            return Ok(found);
        };
        if library == name || found.keys().any(|path| path.ends_with(&format!("/{library}"))) {
            continue;
        }
        match search(program.machine, sysroot, &library).find(|(_, file)| file.is_file()) {
            Some((place, file)) => {
                let bytes =
                    std::fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
                let own =
                    Program::parse(&bytes).with_context(|| format!("{} is no library", file.display()))?;
                if own.machine != program.machine {
                    bail!("{} is for {}", file.display(), own.machine.oci());
                }
                wanted.extend(own.libraries);
                found.insert(place, file);
            }
            None if required.is_none() => {}
            None => bail!("there is no {library} in {}", sysroot.display()),
        }
    }
}

/// Where a library may be, as a path in the image and here, in the order in which loaders look.
fn search<'a>(machine: Machine, sysroot: &'a Path, name: &'a str) -> impl Iterator<Item = (String, PathBuf)> {
    let triple = machine.triple();
    let own = [
        format!("lib/{triple}"),
        format!("usr/lib/{triple}"),
        "lib64".into(),
        "usr/lib64".into(),
        "lib".into(),
        "usr/lib".into(),
    ];
    let own = own.into_iter().map(|folder| (folder.clone(), folder));
    // Debian's cross compilers keep libraries of other machines here; the loader among them looks where it would on such a machine.
    let cross = [(format!("lib/{triple}"), format!("usr/{triple}/lib"))];
    own.chain(cross).map(move |(place, folder)| (format!("{place}/{name}"), sysroot.join(folder).join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_all_libraries_of_this_test_are_found() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = Program::parse(&bytes).unwrap();
        let found = of(&program, Path::new("/")).unwrap();
        let has = |name: &str| found.keys().any(|path| path.ends_with(name));
        assert!(
            program.libraries.iter().all(|name| has(name))
                && has(program.loader.as_ref().unwrap().as_str().trim_start_matches('/'))
        );
        assert!(found.values().all(|file| file.is_file()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let program = Program {
            machine: Machine::Arm,
            loader: Some("/lib/ld-linux-aarch64.so.1".into()),
            libraries: vec!["libc.so.6".into()],
        };
        assert!(of(&program, empty.path()).unwrap_err().to_string().contains("lib/ld-linux-aarch64.so.1"));
        let is_static = Program { machine: Machine::Arm, loader: None, libraries: Vec::new() };
        assert!(of(&is_static, empty.path()).unwrap().is_empty());
    }
}
