//! Kept packs change no bit, are used without reading the model's tensors, and never when something is wrong with them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::UNIX_EPOCH;

use expect_test::expect;
use wharf_engine::cpu::{CpuBackend, CpuOptions, PackCache, PackCheck};
use wharf_engine::{Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::DType;
use wharf_model::Model;
use wharf_testkit::{TinyModel, fixtures};

fn tiny(dtype: DType, tied: bool) -> TinyModel {
    TinyModel { dtype, embedding_dtype: dtype, tied, ..TinyModel::default() }
}

fn cache(folder: &Path) -> Option<PackCache> {
    Some(PackCache { folder: folder.to_owned(), check: PackCheck::Sizes })
}

fn verified(folder: &Path) -> Option<PackCache> {
    Some(PackCache { folder: folder.to_owned(), check: PackCheck::Contents })
}

/// Logits of a few tokens, as bits.
fn logits(model: &Path, pack_cache: Option<PackCache>) -> Vec<u32> {
    let options = CpuOptions { threads: 2, kv_tokens: 32, pack_cache, ..CpuOptions::default() };
    let mut backend = CpuBackend::load(Model::open(model).unwrap(), &options, &mut |_, _| {}).unwrap();
    let mut logits = Logits::default();
    let chunk = Chunk {
        tokens: &[3, 1, 4, 1, 5, 9, 2, 6],
        start: 0,
        blocks: &[BlockId(1), BlockId(0)],
        logits: LogitsFor::All,
    };
    backend.forward(&[chunk], &mut logits).unwrap();
    logits.values().iter().map(|x| x.to_bits()).collect()
}

/// A model, a folder for its packs, and the logits without one.
struct Case {
    folder: tempfile::TempDir,
    model: PathBuf,
    expected: Vec<u32>,
}

impl Case {
    fn new(tiny: &TinyModel) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        tiny.write(&model).unwrap();
        let expected = logits(&model, None);
        Case { folder, model, expected }
    }

    /// Does not exist at first.
    fn packs(&self) -> PathBuf {
        self.folder.path().join("packs/here")
    }

    /// The one file in the folder.
    fn pack(&self) -> PathBuf {
        let entries: Vec<PathBuf> =
            fs::read_dir(self.packs()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    }
}

/// Overwrites every tensor, in place and unseen: whoever reads one computes nonsense.
fn spoil_tensors(path: &Path) {
    let opened = Model::open(path).unwrap();
    let first = opened.weights.tensors().map(|tensor| tensor.offset).min().unwrap();
    drop(opened);
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[first..].fill(0x55);
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn the_second_start_reads_no_tensor_and_gives_the_same_bits() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1] {
        for tied in [true, false] {
            let case = Case::new(&tiny(dtype, tied));
            assert_eq!(logits(&case.model, cache(&case.packs())), case.expected, "{dtype} first");
            spoil_tensors(&case.model);
            assert_ne!(logits(&case.model, None), case.expected, "the tensors are spoilt");
            assert_eq!(logits(&case.model, cache(&case.packs())), case.expected, "{dtype} second");
            assert_eq!(logits(&case.model, verified(&case.packs())), case.expected, "{dtype} verified");
        }
    }
}

#[test]
fn every_architecture_gives_the_same_bits_from_its_pack() {
    let mut checked = 0;
    for entry in fs::read_dir(fixtures::models()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let packs = tempfile::tempdir().unwrap();
        let expected = logits(&path, None);
        for start in ["first", "second"] {
            assert_eq!(logits(&path, cache(packs.path())), expected, "{} {start}", path.display());
        }
        checked += 1;
    }
    assert!(checked >= 12, "fixtures are missing");
}

#[test]
fn a_pack_that_is_not_in_order_is_packed_again() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("empty", Vec::clear),
        ("cut off", |file| file.truncate(file.len() / 2)),
        ("foreign", |file| *file = b"something else entirely".to_vec()),
        ("of another layout", |file| file[12] ^= 2),
        ("with a damaged header", |file| file[20] ^= 1),
    ];
    let case = Case::new(&tiny(DType::Q8_0, false));
    logits(&case.model, cache(&case.packs()));
    let good = fs::read(case.pack()).unwrap();
    for (what, damage) in damages {
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(case.pack(), bytes).unwrap();
        assert_eq!(logits(&case.model, cache(&case.packs())), case.expected, "{what}");
        assert_eq!(fs::read(case.pack()).unwrap(), good, "{what}: it is written anew");
    }
}

#[test]
fn a_damaged_payload_is_found_when_it_is_verified() {
    let case = Case::new(&tiny(DType::F32, true));
    logits(&case.model, cache(&case.packs()));
    let good = fs::read(case.pack()).unwrap();
    let mut bytes = good.clone();
    // The exponent of a weight in the middle.
    let middle = bytes.len() / 2 / 4 * 4 + 3;
    bytes[middle] ^= 0x08;
    fs::write(case.pack(), bytes).unwrap();
    assert_eq!(logits(&case.model, verified(&case.packs())), case.expected);
    assert_eq!(fs::read(case.pack()).unwrap(), good);
}

#[test]
fn a_changed_model_replaces_its_pack() {
    let case = Case::new(&tiny(DType::F32, true));
    logits(&case.model, cache(&case.packs()));
    let before = case.pack();
    TinyModel { seed: 2, ..tiny(DType::F32, true) }.write(&case.model).unwrap();
    File::options().write(true).open(&case.model).unwrap().set_modified(UNIX_EPOCH).unwrap();
    let expected = logits(&case.model, None);
    assert_ne!(expected, case.expected);
    assert_eq!(logits(&case.model, cache(&case.packs())), expected);
    assert_eq!(case.pack(), before, "one file for the model");
    // And it is the new weights that are in it.
    spoil_tensors(&case.model);
    assert_eq!(logits(&case.model, cache(&case.packs())), expected);
}

#[test]
fn models_share_a_folder() {
    let (one, two) = (Case::new(&tiny(DType::F32, true)), Case::new(&tiny(DType::Q8_0, true)));
    logits(&one.model, cache(&one.packs()));
    logits(&two.model, cache(&one.packs()));
    assert_eq!(fs::read_dir(one.packs()).unwrap().count(), 2);
    spoil_tensors(&one.model);
    spoil_tensors(&two.model);
    assert_eq!(logits(&one.model, cache(&one.packs())), one.expected);
    assert_eq!(logits(&two.model, cache(&one.packs())), two.expected);
}

#[test]
fn a_cache_that_cannot_be_written_fails_no_start() {
    let case = Case::new(&tiny(DType::F32, true));
    let file = case.folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    assert_eq!(logits(&case.model, cache(&file)), case.expected, "a file where the folder should be");
    assert_eq!(logits(&case.model, cache(&file.join("below"))), case.expected, "a file above it");
    // A folder where the file should be: the rename at the end fails.
    logits(&case.model, cache(&case.packs()));
    let pack = case.pack();
    fs::remove_file(&pack).unwrap();
    fs::create_dir(&pack).unwrap();
    assert_eq!(logits(&case.model, cache(&case.packs())), case.expected);
    assert_eq!(case.pack(), pack, "nothing unfinished is left");
}

#[cfg(unix)]
#[test]
fn a_pack_is_used_from_a_folder_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let case = Case::new(&tiny(DType::F32, true));
    fs::create_dir_all(case.packs()).unwrap();
    let allow = |mode| fs::set_permissions(case.packs(), fs::Permissions::from_mode(mode)).unwrap();
    // Root may write all the same; the result is the same for whoever runs this.
    allow(0o555);
    assert_eq!(logits(&case.model, cache(&case.packs())), case.expected);
    allow(0o755);
    logits(&case.model, cache(&case.packs()));
    allow(0o555);
    spoil_tensors(&case.model);
    let found = logits(&case.model, cache(&case.packs()));
    allow(0o755);
    assert_eq!(found, case.expected);
}

#[test]
fn starts_at_the_same_time_agree() {
    let case = Case::new(&tiny(DType::Q4_0, false));
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            logits(&case.model, cache(&case.packs()))
        };
        let starts = [(); 4].map(|()| scope.spawn(start));
        for start in starts {
            assert_eq!(start.join().unwrap(), case.expected);
        }
    });
    case.pack();
    spoil_tensors(&case.model);
    assert_eq!(logits(&case.model, verified(&case.packs())), case.expected);
}

/// Packs outlive the program that wrote them: when this changes and the versions (two numbers after the magic) do not, a new
/// program would take an old file's bytes for something else.
#[test]
fn the_bytes_of_a_pack_are_those_of_its_version() {
    let case = Case::new(&tiny(DType::Q4_1, false));
    logits(&case.model, cache(&case.packs()));
    let file = fs::read(case.pack()).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let found = format!("{}\n{} bytes\n{}", hex(&file[8..16]), file.len(), hex(&file[56..88]));
    expect![[r#"
        0100000002000000
        74496 bytes
        842e860bd4cbf08339d731682fa00981bb4f92ec82761de3da320b1c973a9fe1"#]]
    .assert_eq(&found);
}
