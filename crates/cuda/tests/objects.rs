//! The compiled kernels are those of the sources that lie beside them. Whether the compiler agrees is what `cargo xtask cuda-kernels --check` looks at.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

const STALE: &str = "run `cargo xtask cuda-kernels`, which compiles the kernels and says of what";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// SHA-256 of the files that have one of these extensions, by name; of what `read` reads of each.
fn digests(folder: &Path, extensions: &[&str], read: fn(&Path) -> Vec<u8>) -> BTreeMap<String, String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let wanted =
        paths.filter(|path| extensions.iter().any(|wanted| path.extension().is_some_and(|e| e == *wanted)));
    wanted
        .map(|path| {
            let digest = Sha256::digest(read(&path));
            let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.trim_end_matches(".gz").to_owned(), digest)
        })
        .collect()
}

fn told(what: &str) -> BTreeMap<String, String> {
    let manifest = fs::read_to_string(folder("objects/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    serde_json::from_value(manifest[what].clone()).unwrap()
}

#[test]
fn objects_are_made_of_the_sources() {
    assert_eq!(
        told("sources"),
        digests(&folder("kernels"), &["cu", "cuh"], |path| fs::read(path).unwrap()),
        "{STALE}"
    );
}

#[test]
fn objects_are_as_they_were_made() {
    let decompressed = |path: &Path| {
        let mut bytes = Vec::new();
        GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(told("objects"), digests(&folder("objects"), &["gz"], decompressed), "{STALE}");
}
