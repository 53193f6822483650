//! What is in the image's root: who nobody is, whom TLS trusts, libraries, the binary, and folders that a container needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::layer::{Entry, Tree};

/// The user that everything runs as, as in the pods of services; no account of a host has this number.
pub(super) const NOBODY: u64 = 65532;
/// Where the binary is.
pub(super) const BINARY: &str = "usr/local/bin/wharf";
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";
/// Where distributions keep certificates of authorities.
const KEPT: [&str; 4] = [
    CERTIFICATES,
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// The certificates that a machine trusts.
pub(super) fn certificates(sysroot: &Path) -> anyhow::Result<PathBuf> {
    KEPT.iter().map(|place| sysroot.join(place)).find(|file| file.is_file()).with_context(|| {
        format!("there are no certificates of authorities in {}; give --certificates", sysroot.display())
    })
}

/// Everything but the binary.
pub(super) fn system(libraries: BTreeMap<String, PathBuf>, certificates: &Path) -> anyhow::Result<Tree> {
    let read =
        |file: &Path| std::fs::read(file).with_context(|| format!("failed to read {}", file.display()));
    let mut tree = Tree::new();
    for (place, file) in libraries {
        tree.insert(place, Entry::program(read(&file)?));
    }
    tree.insert(CERTIFICATES.to_owned(), Entry::file(read(certificates)?));
    let texts = [
        (
            "etc/passwd",
            format!(
                "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NOBODY}:{NOBODY}:nonroot:/home/nonroot:/sbin/nologin\n"
            ),
        ),
        ("etc/group", format!("root:x:0:\nnonroot:x:{NOBODY}:\n")),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
    ];
    for (place, text) in texts {
        tree.insert(place.to_owned(), Entry::file(text.into_bytes()));
    }
    // A container's runtime mounts onto these, and cannot make them in a root that cannot be written.
    for place in ["dev", "proc", "sys"] {
        tree.insert(place.to_owned(), Entry::folder(0o755));
    }
    tree.insert("tmp".to_owned(), Entry::folder(0o1777));
    tree.insert("home/nonroot".to_owned(), Entry::folder(0o750).of(NOBODY));
    Ok(tree)
}

/// The binary.
pub(super) fn program(bytes: Vec<u8>) -> Tree {
    Tree::from([(BINARY.to_owned(), Entry::program(bytes))])
}
