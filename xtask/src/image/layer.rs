//! A layer of an image: a tree as a compressed tar file whose bytes follow from the tree alone.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Entries by path, without a leading slash. Folders above them need not be named.
pub(super) type Tree = BTreeMap<String, Entry>;

/// A file or a folder.
pub(super) struct Entry {
    mode: u32,
    owner: u64,
    /// None for folders.
    content: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn folder(mode: u32) -> Entry {
        Entry { mode, owner: 0, content: None }
    }

    pub(super) fn file(content: Vec<u8>) -> Entry {
        Entry { mode: 0o644, owner: 0, content: Some(content) }
    }

    pub(super) fn program(content: Vec<u8>) -> Entry {
        Entry { mode: 0o755, owner: 0, content: Some(content) }
    }

    /// It belongs to this user and its group.
    pub(super) fn of(self, owner: u64) -> Entry {
        Entry { owner, ..self }
    }
}

/// A layer, packed.
pub(super) struct Layer {
    /// What is in it, for people.
    pub(super) what: &'static str,
    /// Bytes of the compressed tar file.
    pub(super) compressed: Vec<u8>,
    /// SHA-256 of the tar file before it was compressed, in hexadecimal digits.
    pub(super) content_digest: String,
}

impl Layer {
    /// Packs a tree.
    pub(super) fn pack(what: &'static str, mut tree: Tree) -> anyhow::Result<Layer> {
        for path in tree.keys().cloned().collect::<Vec<_>>() {
            for (end, _) in path.match_indices('/') {
                tree.entry(path[..end].to_owned()).or_insert_with(|| Entry::folder(0o755));
            }
        }
        let packed = || -> io::Result<(Vec<u8>, String)> {
            let mut builder = Builder::new(Counted {
                into: GzEncoder::new(Vec::new(), Compression::default()),
                hash: Sha256::new(),
            });
            tree.iter().try_for_each(|(path, entry)| append(&mut builder, path, entry))?;
            let Counted { into, hash } = builder.into_inner()?;
            Ok((into.finish()?, hex(&hash.finalize())))
        };
        let (compressed, content_digest) =
            packed().with_context(|| format!("failed to pack the layer of {what}"))?;
        Ok(Layer { what, compressed, content_digest })
    }
}

/// Adds an entry that says nothing of when and by whom it was made.
pub(super) fn append(builder: &mut Builder<impl Write>, path: &str, entry: &Entry) -> io::Result<()> {
    let Entry { mode, owner, content } = entry;
    let mut header = Header::new_ustar();
    header.set_mode(*mode);
    header.set_uid(*owner);
    header.set_gid(*owner);
    header.set_mtime(0);
    match content {
        None => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Some(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_slice())
        }
    }
}

/// Digits of a digest.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Passes bytes on and takes their digest.
struct Counted<W> {
    into: W,
    hash: Sha256,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_layer_has_the_folders_above_its_files_before_them_and_no_times() {
        let tree = Tree::from([
            ("home/nonroot".to_owned(), Entry::folder(0o750).of(65532)),
            ("etc/ssl/x".to_owned(), Entry::file(b"hello".to_vec())),
        ]);
        let layer = Layer::pack("a test", tree).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(layer.compressed.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(layer.content_digest, hex(&Sha256::digest(&plain)));
        let mut seen = Vec::new();
        for entry in tar::Archive::new(plain.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            seen.push((
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
                header.uid().unwrap(),
            ));
        }
        let expected = [
            ("etc/", 0o755, 0),
            ("etc/ssl/", 0o755, 0),
            ("etc/ssl/x", 0o644, 0),
            ("home/", 0o755, 0),
            ("home/nonroot/", 0o750, 65532),
        ];
        assert_eq!(seen, expected.map(|(path, mode, owner)| (path.to_owned(), mode, owner)));
    }
}
