//! What is refused and why, and what is left in the folder.

use std::time::UNIX_EPOCH;

use expect_test::{Expect, expect};
use wharf_kernels::{DType, PACK_LAYOUT, PackedMatrix, Part};

use super::*;

const IDENTITY: [u8; 32] = [7; 32];
/// Bytes before the payload.
const HEADER: usize = 4096;

fn matrix() -> (Vec<u8>, PackedMatrix) {
    let data: Vec<u8> = (0..=255u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let packed = PackedMatrix::pack(&[part(&data)], 8, &Team::new(1)).unwrap();
    (data, packed)
}

fn part(data: &[u8]) -> Part<'_> {
    Part { dtype: DType::F32, rows: 32, data }
}

/// A file with a matrix, three numbers and five bytes.
fn written(folder: &Path) -> PathBuf {
    let path = folder.join(format!("a.{ENDING}"));
    let mut writer = PackWriter::create(&path).unwrap();
    writer.append(matrix().1.as_bytes()).unwrap();
    let numbers: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    writer.append(&numbers).unwrap();
    writer.append(b"bytes").unwrap();
    let bytes = writer.commit(&path, &IDENTITY, &Team::new(2)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
    path
}

fn open(path: &Path, check: PackCheck) -> Result<Option<PackReader>, PackFault> {
    PackReader::open(path, &IDENTITY, check, &Team::new(2))
}

#[test]
fn what_was_written_is_read_in_the_same_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let mut reader = open(&path, PackCheck::Contents).unwrap().unwrap();
    let (data, packed) = matrix();
    assert_eq!(reader.matrix(&[part(&data)], 8).unwrap().as_bytes(), packed.as_bytes());
    assert_eq!(reader.floats(3).unwrap(), [1.5, -2.0, 0.25]);
    let (file, offset) = reader.bytes(5).unwrap();
    assert_eq!(&file[offset..offset + 5], b"bytes");
    reader.finish().unwrap();
    assert!(open(&folder.path().join("none"), PackCheck::Contents).unwrap().is_none());
}

#[test]
fn asking_for_more_or_less_than_there_is_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let reader = || open(&path, PackCheck::Sizes).unwrap().unwrap();
    assert!(matches!(reader().finish(), Err(PackFault::Sections)));
    for len in [1 << 12, usize::MAX / 4, usize::MAX] {
        assert!(matches!(reader().floats(len), Err(PackFault::Sections)), "{len}");
        assert!(matches!(reader().bytes(len), Err(PackFault::Sections)), "{len}");
    }
    let data = vec![0; 64 * 8 * 4];
    let large = Part { dtype: DType::F32, rows: 64, data: &data };
    assert!(matches!(reader().matrix(&[large], 8), Err(PackFault::Matrix(PackError::Outside { .. }))));
}

/// The reason why the file is refused after `damage`.
fn refused(check: PackCheck, damage: impl FnOnce(&mut Vec<u8>), expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let reason = open(&path, check).err().map(|fault| reasons(&fault));
    expected.assert_eq(&reason.unwrap_or("used".into()));
}

#[test]
fn a_damaged_file_is_refused_with_the_reason() {
    let sizes = PackCheck::Sizes;
    refused(sizes, |_| (), expect!["used"]);
    refused(sizes, Vec::clear, expect!["failed to open it: the file is empty"]);
    refused(sizes, |file| *file = b"PK\x03\x04".to_vec(), expect!["it does not hold packed weights"]);
    refused(sizes, |file| file[0] ^= 1, expect!["it does not hold packed weights"]);
    refused(sizes, |file| file[8] = 9, expect!["it is of format 9.2, this program reads 1.2"]);
    refused(sizes, |file| file[12] = 9, expect!["it is of format 1.9, this program reads 1.2"]);
    refused(sizes, |file| file.truncate(10), expect!["its header is damaged"]);
    refused(sizes, |file| file.truncate(100), expect!["its header is damaged"]);
    for at in [16, 48, 56, 100, HEADER - 1] {
        refused(sizes, |file| file[at] ^= 1, expect!["its header is damaged"]);
    }
    refused(sizes, |file| file.truncate(HEADER), expect!["it has 4096 bytes instead of 5248"]);
    refused(sizes, |file| file.truncate(5247), expect!["it has 5247 bytes instead of 5248"]);
    refused(sizes, |file| file.push(0), expect!["it has 5249 bytes instead of 5248"]);
    let contents = PackCheck::Contents;
    refused(contents, |_| (), expect!["used"]);
    for at in [HEADER, 5247] {
        refused(
            contents,
            |file| file[at] ^= 1,
            expect!["its contents do not have the digest that its header says: it is damaged"],
        );
        refused(sizes, |file| file[at] ^= 1, expect!["used"]);
    }
}

#[test]
fn what_is_no_file_or_of_other_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fault = open(folder.path(), PackCheck::Sizes).err().unwrap();
    assert_eq!(reasons(&fault), "failed to open it: not a regular file");
    let path = written(folder.path());
    let fault = PackReader::open(&path, &[8; 32], PackCheck::Sizes, &Team::new(1)).err().unwrap();
    assert!(matches!(fault, PackFault::Stale));
}

#[test]
fn a_digest_depends_on_every_slice_and_on_their_order_not_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let commit = |payload: &[u8], threads| {
        let path = folder.path().join(format!("a.{ENDING}"));
        let mut writer = PackWriter::create(&path).unwrap();
        writer.append(payload).unwrap();
        writer.commit(&path, &IDENTITY, &Team::new(threads)).unwrap();
        fs::read(&path).unwrap()[56..88].to_vec()
    };
    let mut payload = vec![0; (2 << 20) + 100];
    payload[5] = 1;
    let one = commit(&payload, 1);
    assert_eq!(commit(&payload, 3), one);
    payload.swap(5, 5 + (1 << 20));
    assert_ne!(commit(&payload, 1), one);
}

#[test]
fn an_unfinished_file_leaves_nothing_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let before = fs::read(&path).unwrap();
    let (first, second) = (PackWriter::create(&path).unwrap(), PackWriter::create(&path).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    drop((first, second));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_nobody_uses_any_more_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let (hour, day) = (3600, 24 * 3600);
    let place = |name: &str| folder.path().join(name);
    for (name, age) in [
        ("new.wharfpack", 29 * day),
        ("old.wharfpack", 31 * day),
        ("mine.wharfpack", 31 * day),
        ("a.1-0.wharfpack-tmp", hour / 2),
        ("b.1-0.wharfpack-tmp", 2 * hour),
        ("old.pack", 999 * day),
        ("old", 999 * day),
    ] {
        let file = File::create(place(name)).unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }
    sweep(folder.path(), &place("mine.wharfpack"), now);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a.1-0.wharfpack-tmp", "mine.wharfpack", "new.wharfpack", "old", "old.pack"]);
}

#[test]
fn a_use_is_marked_so_that_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { path: written(folder.path()), identity: IDENTITY };
    File::open(&place.path).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert!(place.open(PackCheck::Sizes, &Team::new(1)).is_some());
    assert!(fs::metadata(&place.path).unwrap().modified().unwrap() > UNIX_EPOCH + UNUSED);
}

#[test]
fn names_are_for_people_and_differ_with_the_folder() {
    let name = file_name(Path::new("/models/Qwen2.5 (0.5B).gguf"), "");
    assert!(name.starts_with("Qwen2.5__0.5B_-") && name.ends_with(".wharfpack"), "{name}");
    assert_ne!(name, file_name(Path::new("/other/Qwen2.5 (0.5B).gguf"), ""));
    assert_eq!(file_name(Path::new("a"), ""), file_name(&std::path::absolute("a").unwrap(), ""));
    assert!(file_name(Path::new(&"x".repeat(250)), "").len() < 100);
    assert_eq!(PACK_LAYOUT, 2, "the expected formats above name the layout");
}
