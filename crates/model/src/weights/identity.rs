//! Decides what tells the weights of one model from those of another without reading the tensors.
//!
//! A file that was fetched has its digest for a name, and the digest says it all, wherever the file is now. Any other is
//! known by its size, inode, time of change and everything before its tensors; tensors that are changed in place and given
//! their old time back go unseen.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Slot, Weights};
use crate::mmap::{MappedFile, Stamp};
use crate::role::Role;

impl Weights {
    /// Gives `feed` bytes that are the same if and only if the weights are, as far as can be told: what the files are, and
    /// which bytes of them are the weight for which role.
    pub fn identify(&self, feed: &mut dyn FnMut(&[u8])) {
        for (index, file) in self.files.iter().enumerate() {
            let tensors = self.tensors.iter().filter(|tensor| tensor.file == index);
            let header = tensors.map(|tensor| tensor.offset).min().unwrap_or(file.len());
            identify_file(file, &file[..header], feed);
        }
        let layers = self.slots.keys().filter_map(|(layer, _)| *layer).max().map_or(0, |last| last + 1);
        for layer in std::iter::once(None).chain((0..layers).map(Some)) {
            for role in Role::ALL {
                let Some(slot) = self.slots.get(&(layer, role)) else {
                    feed(&[0]);
                    continue;
                };
                let Slot { tensor, first_row, rows, cols } = *slot;
                let tensor = &self.tensors[tensor];
                feed(&[1]);
                feed(tensor.dtype.name().as_bytes());
                for number in [tensor.file, tensor.offset, first_row, rows, cols] {
                    feed(&(number as u64).to_le_bytes());
                }
            }
        }
    }
}

impl Weights {
    /// Gives `feed` bytes that tell these weights from those of another model on another machine: shape, type and some of the
    /// values of every tensor. It is no proof of equality: who changes a few values on purpose goes unseen.
    pub fn sample(&self, feed: &mut dyn FnMut(&[u8])) {
        const SAMPLE: usize = 64;
        let mut keys: Vec<_> = self.slots.keys().copied().collect();
        keys.sort_unstable();
        for (layer, role) in keys {
            let Some(view) = self.optional(layer, role) else { continue };
            feed(view.dtype.name().as_bytes());
            for number in [layer.map_or(0, |layer| layer + 1), role as usize, view.rows, view.cols] {
                feed(&(number as u64).to_le_bytes());
            }
            let last = view.data.len().saturating_sub(SAMPLE);
            for first in [0, last / 2, last] {
                feed(&view.data[first..view.data.len().min(first + SAMPLE)]);
            }
        }
    }
}

fn identify_file(file: &MappedFile, header: &[u8], feed: &mut dyn FnMut(&[u8])) {
    let stamp = file.stamp();
    feed(&stamp.len.to_le_bytes());
    if let Some(digest) = recorded_digest(file.path(), stamp) {
        feed(digest.as_bytes());
        return;
    }
    let Stamp { len: _, modified, inode } = stamp;
    // Before 1970 there were no models; a time that says so is as good as none.
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    feed(&modified.map_or(0, |time| time.as_nanos()).to_le_bytes());
    feed(&inode.to_le_bytes());
    feed(&(header.len() as u64).to_le_bytes());
    feed(header);
}

/// The SHA-256 that a blob of our cache (`blobs/sha256/<digest>`) was checked against before it got its name.
fn recorded_digest(path: &Path, opened: Stamp) -> Option<String> {
    // A path that cannot be followed any more names no blob.
    let blob = path.canonicalize().ok()?;
    let folder = blob.parent()?;
    let name = blob.file_name()?.to_str()?;
    let is_digest = name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // A link may lead elsewhere by now than when the file was opened.
    let is_opened = Stamp::of(&fs::metadata(&blob).ok()?) == opened;
    (folder.ends_with("blobs/sha256") && is_digest && is_opened).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use wharf_testkit::TinyModel;

    use super::*;
    use crate::Model;

    fn identity(path: &Path) -> Vec<u8> {
        let mut identity = Vec::new();
        Model::open(path).unwrap().weights.identify(&mut |bytes| identity.extend_from_slice(bytes));
        identity
    }

    fn set_modified(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    fn other_tensors(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_file_is_known_by_size_inode_time_and_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        TinyModel::default().write(&path).unwrap();
        set_modified(&path, 1000);
        let first = identity(&path);
        assert_eq!(identity(&path), first);

        set_modified(&path, 1001);
        assert_ne!(identity(&path), first, "another time");
        set_modified(&path, 1000);
        assert_eq!(identity(&path), first);

        // As long as the first name.
        TinyModel { name: "tony".into(), ..TinyModel::default() }.write(&path).unwrap();
        set_modified(&path, 1000);
        assert_ne!(identity(&path), first, "another header");

        TinyModel::default().write(&path).unwrap();
        set_modified(&path, 1000);
        assert_eq!(identity(&path), first);
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        set_modified(&path, 1000);
        assert_ne!(identity(&path), first, "another inode");
    }

    #[test]
    fn a_fetched_file_is_known_by_its_digest_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let blob = |root: &str, digest: &str| {
            let blobs = folder.path().join(root).join("blobs/sha256");
            fs::create_dir_all(&blobs).unwrap();
            let blob = blobs.join(digest);
            TinyModel::default().write(&blob).unwrap();
            blob
        };
        let digest = "b1".repeat(32);
        let one = blob("one", &digest);
        set_modified(&one, 1000);
        let two = blob("two", &digest);
        assert_eq!(identity(&one), identity(&two));
        #[cfg(unix)]
        {
            let link = folder.path().join("latest.gguf");
            std::os::unix::fs::symlink(&one, &link).unwrap();
            assert_eq!(identity(&link), identity(&one), "by way of a link");
        }
        assert_ne!(identity(&blob("one", &"b2".repeat(32))), identity(&one), "another digest");
        let no_digest = blob("one", &"b3".repeat(31));
        set_modified(&no_digest, 1000);
        let before = identity(&no_digest);
        other_tensors(&no_digest);
        set_modified(&no_digest, 2000);
        assert_ne!(identity(&no_digest), before, "a name that is no digest says nothing");
    }

    #[test]
    fn a_sample_knows_the_weights_and_not_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let sample = |name: &str, tiny: TinyModel| {
            let path = folder.path().join(name);
            tiny.write(&path).unwrap();
            let mut sample = Vec::new();
            Model::open(&path).unwrap().weights.sample(&mut |bytes| sample.extend_from_slice(bytes));
            sample
        };
        let first = sample("a.gguf", TinyModel::default());
        assert_eq!(sample("b.gguf", TinyModel { name: "other".into(), ..TinyModel::default() }), first);
        assert_ne!(sample("c.gguf", TinyModel { seed: 2, ..TinyModel::default() }), first);
        assert_ne!(sample("d.gguf", TinyModel { n_layers: 3, ..TinyModel::default() }), first);
    }

    #[test]
    fn it_matters_which_rows_have_which_role() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        TinyModel::default().write(&path).unwrap();
        let mut model = Model::open(&path).unwrap();
        let fed = |model: &Model| {
            let mut identity = Vec::new();
            model.weights.identify(&mut |bytes| identity.extend_from_slice(bytes));
            identity
        };
        let before = fed(&model);
        let slots = &mut model.weights.slots;
        let (k, v) = (slots[&(Some(1), Role::K)], slots[&(Some(1), Role::V)]);
        slots.insert((Some(1), Role::K), v);
        slots.insert((Some(1), Role::V), k);
        assert_ne!(fed(&model), before);
    }
}
