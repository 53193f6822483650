//! Files as they are written, opened again: values, metadata, interruptions, refusals.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use wharf_kernels::{DType, block};
use wharf_model::export::RowOrder;
use wharf_model::gguf::write::entries;
use wharf_model::{Model, ModelConfig, Role};
use wharf_testkit::TinyModel;

use super::*;

mod calibrated;

static GO_ON: AtomicBool = AtomicBool::new(false);

struct Case {
    folder: TempDir,
    source: PathBuf,
}

impl Case {
    fn new(model: &TinyModel) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source.gguf");
        model.write(&source).unwrap();
        Case { folder, source }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, scheme: &str, out: &Path) -> Result<Vec<TensorReport>, RunError> {
        self.run_watched(scheme, out, &GO_ON, &mut |_| {})
    }

    fn run_watched(
        &self,
        scheme: &str,
        out: &Path,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<TensorReport>, RunError> {
        let model = Model::open(&self.source).unwrap();
        let plan = Plan::new(&model, scheme.parse().unwrap()).unwrap();
        let written = run(&model, &plan, out, RunOptions { threads: 2, calibration: None, stop }, progress)?;
        let tensors = written.tensors.clone();
        written.commit().map(|()| tensors)
    }
}

fn wide() -> TinyModel {
    TinyModel { hidden_size: 256, ffn_size: 512, n_layers: 3, ..TinyModel::default() }
}

#[test]
fn every_scheme_makes_a_file_that_opens_as_the_same_model() {
    let case = Case::new(&wide());
    let source = Model::open(&case.source).unwrap();
    for (name, scheme) in SCHEMES {
        if matches!(scheme, Scheme::Compressed(_)) {
            continue;
        }
        let out = case.out(name);
        let reports = case.run(name, &out).unwrap();
        let model = Model::open(&out).unwrap();
        assert_eq!(model.config, source.config);
        assert_eq!(reports.len(), model.weights.tensors().len());
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&out) < size(&case.source) / 2, "{name}");
        for report in &reports {
            let bound = if report.to == "F32" { 0.0 } else { 0.12 };
            assert!(report.relative_error <= bound, "{name}: {report:?}");
        }
    }
}

#[test]
fn what_is_written_is_each_row_rounded() {
    let case = Case::new(&wide());
    let out = case.out("q8.gguf");
    case.run("q8_0", &out).unwrap();
    let (before, after) = (Model::open(&case.source).unwrap(), Model::open(&out).unwrap());
    for (old, new) in before.weights.tensors().zip(after.weights.tensors()) {
        let (old_bytes, new_bytes) = (before.weights.bytes(old), after.weights.bytes(new));
        if old.shape.len() == 1 {
            assert_eq!(old_bytes, new_bytes, "{}", old.name);
            continue;
        }
        let mut x = vec![0.0; old.elements()];
        block::dequantize(old.dtype, old_bytes, &mut x).unwrap();
        assert_eq!(new.dtype, DType::Q8_0);
        assert_eq!(block::quantize(DType::Q8_0, &x).unwrap(), new_bytes, "{}", old.name);
    }
}

#[test]
fn metadata_stays_as_it_was_but_for_the_type() {
    let case = Case::new(&wide());
    let out = case.out("q4.gguf");
    case.run("q4_k_m", &out).unwrap();
    let before = entries(&fs::read(&case.source).unwrap()).unwrap();
    let after = entries(&fs::read(&out).unwrap()).unwrap();
    let own = ["general.file_type", "general.quantization_version"];
    let kept: Vec<_> = after.iter().filter(|entry| !own.contains(&entry.key.as_str())).collect();
    let expected: Vec<_> = before.iter().filter(|entry| !own.contains(&entry.key.as_str())).collect();
    assert_eq!(kept, expected);
    let wharf_model::Source::Gguf(metadata) = Model::open(&out).unwrap().source else {
        panic!("a GGUF file was written")
    };
    assert_eq!(metadata.u64("general.file_type"), Some(15));
}

#[test]
fn a_path_that_exists_is_left_alone() {
    let case = Case::new(&TinyModel::default());
    let out = case.out("there.gguf");
    fs::write(&out, "mine").unwrap();
    let error = case.run("q8_0", &out).unwrap_err();
    assert!(matches!(error, RunError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    assert_eq!(fs::read_dir(case.folder.path()).unwrap().count(), 2, "nothing else was written");
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let mut file = TinyModel::default().build();
    let bad = file.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up.weight").unwrap();
    // Row 3, column 5 of 64.
    bad.data[4 * (3 * 64 + 5)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let case = Case::new(&TinyModel::default());
    fs::write(&case.source, file.bytes()).unwrap();
    let out = case.out("out.gguf");
    let error = case.run("q8_0", &out).unwrap_err().to_string();
    assert!(error.contains("row 3, column 5 of tensor \"blk.1.ffn_up.weight\" is NaN"), "{error}");
    let left = fs::read_dir(case.folder.path()).unwrap().count();
    assert_eq!(left, 1, "what can never be a file does not stay");
}

#[test]
fn a_norm_that_is_not_finite_is_refused_though_it_is_only_copied() {
    let mut file = TinyModel::default().build();
    let bad = file.tensors.iter_mut().find(|tensor| tensor.name == "output_norm.weight").unwrap();
    bad.data[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let case = Case::new(&TinyModel::default());
    fs::write(&case.source, file.bytes()).unwrap();
    let error = case.run("q8_0", &case.out("out.gguf")).unwrap_err();
    assert!(matches!(error, RunError::NotFinite { col: 2, .. }), "{error}");
}

#[test]
fn a_run_that_was_stopped_goes_on_and_gives_the_same_file() {
    let case = Case::new(&wide());
    let whole = case.out("whole.gguf");
    let reports = case.run("q4_k_m", &whole).unwrap();

    let out = case.out("out.gguf");
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    let error = case
        .run_watched("q4_k_m", &out, &stop, &mut |_| {
            seen += 1;
            stop.store(seen >= 8, Ordering::Relaxed);
        })
        .unwrap_err();
    assert!(matches!(error, RunError::Stopped { .. }), "{error}");
    assert!(!out.exists());

    let mut first = None;
    let resumed = case
        .run_watched("q4_k_m", &out, &GO_ON, &mut |progress| {
            first.get_or_insert(progress.done);
        })
        .unwrap();
    assert!(first.unwrap() > 0, "what was done counts");
    assert_eq!(fs::read(&out).unwrap(), fs::read(&whole).unwrap());
    assert_eq!(resumed, reports);
    let left: Vec<_> = fs::read_dir(case.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no partial file is left: {left:?}");
}

#[test]
fn what_another_scheme_began_is_not_gone_on_with() {
    let case = Case::new(&wide());
    let out = case.out("out.gguf");
    let stop = AtomicBool::new(false);
    case.run_watched("q4_0", &out, &stop, &mut |_| stop.store(true, Ordering::Relaxed)).unwrap_err();
    case.run("q8_0", &out).unwrap();
    let other = case.out("other.gguf");
    case.run("q8_0", &other).unwrap();
    assert_eq!(fs::read(&out).unwrap(), fs::read(&other).unwrap());
}

#[test]
fn compressed_tensors_open_as_the_same_model_with_the_numbers_that_were_written() {
    let case = Case::new(&wide());
    let source = Model::open(&case.source).unwrap();
    for (name, kinds) in [
        ("int8", [DType::Q8_0]),
        ("int8-weight", [DType::Q8_0]),
        ("int4", [DType::Q4_0]),
        ("fp8", [DType::BF16]),
    ] {
        let out = case.out(name);
        let reports = case.run(name, &out).unwrap();
        let model = Model::open(&out).unwrap();
        let ModelConfig { architecture: _, rope_layout: _, ropes, .. } = &model.config;
        assert_eq!(ropes, &source.config.ropes);
        assert_eq!(model.config.n_heads, source.config.n_heads);
        for role in [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down] {
            let (old, new) =
                (source.weights.matrix(Some(1), role).unwrap(), model.weights.matrix(Some(1), role).unwrap());
            assert_eq!((new.rows, new.cols), (old.rows, old.cols));
            assert!(kinds.contains(&new.dtype), "{name}: {role} is {}", new.dtype);
            let numbers = |dtype, data| {
                let mut x = vec![0.0; old.rows * old.cols];
                block::dequantize(dtype, data, &mut x).unwrap();
                x
            };
            let (old_numbers, new_numbers) = (numbers(old.dtype, old.data), numbers(new.dtype, new.data));
            // GGUF alternates the halves of each head of Q and K.
            let head_dim = source.config.head_dim;
            let order = match role {
                Role::Q | Role::K => RowOrder::Separate { head_dim },
                _ => RowOrder::Same,
            };
            let mut squares = (0.0, 0.0);
            for (row, new) in new_numbers.chunks(new.cols).enumerate() {
                let old = &old_numbers[order.source(row) * old.cols..][..old.cols];
                for (x, y) in old.iter().zip(new) {
                    squares.0 += f64::from(x - y).powi(2);
                    squares.1 += f64::from(*x).powi(2);
                }
            }
            let found = (squares.0 / squares.1).sqrt();
            let report = reports
                .iter()
                .find(|report| {
                    report.shape == [old.rows, old.cols]
                        && report.name.contains(".1.")
                        && report.name.contains(hf(role))
                })
                .unwrap();
            assert!(
                (found - report.relative_error).abs() < 1e-3 * found + 1e-6,
                "{name}: {role}: {found}, reported {}",
                report.relative_error
            );
            assert!(found < if name == "int4" { 0.13 } else { 0.03 }, "{name}: {role}: {found}");
        }
    }
}

#[test]
fn a_folder_too_large_for_one_file_has_several_and_goes_on_as_one() {
    const MOST: u64 = 200_000;
    let case = Case::new(&wide());
    let (one, several) = (case.out("one"), case.out("several"));
    let reports = case.run("int8", &one).unwrap();
    let source = Model::open(&case.source).unwrap();
    let plan = Plan::in_files(&source, "int8".parse().unwrap(), MOST).unwrap();
    let stop = AtomicBool::new(false);
    let options = RunOptions { threads: 2, calibration: None, stop: &stop };
    let mut seen = 0;
    let stopped = run(&source, &plan, &several, options, &mut |_| {
        seen += 1;
        stop.store(seen >= 8, Ordering::Relaxed);
    });
    assert!(matches!(stopped, Err(RunError::Stopped { .. })));
    stop.store(false, Ordering::Relaxed);
    let mut first = None;
    let written = run(&source, &plan, &several, options, &mut |progress| {
        first.get_or_insert(progress.done);
    });
    let written = written.unwrap();
    assert!(first.unwrap() > 0, "what was done counts");
    assert_eq!(written.tensors, reports);
    written.commit().unwrap();
    let names: Vec<String> =
        fs::read_dir(&several).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let files: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert!(files.len() > 3 && names.iter().any(|name| name == "model.safetensors.index.json"), "{names:?}");
    assert!(files.iter().all(|name| name.ends_with(&format!("-of-{:05}.safetensors", files.len()))));
    let (one, several) = (Model::open(&one).unwrap(), Model::open(&several).unwrap());
    assert_eq!(several.config, one.config);
    for tensor in one.weights.tensors() {
        let other = several.weights.tensors().find(|other| other.name == tensor.name).unwrap();
        assert_eq!(several.weights.bytes(other), one.weights.bytes(tensor), "{}", tensor.name);
    }
}

fn hf(role: Role) -> &'static str {
    match role {
        Role::Q => "q_proj",
        Role::K => "k_proj",
        Role::V => "v_proj",
        Role::O => "o_proj",
        Role::Gate => "gate_proj",
        Role::Up => "up_proj",
        Role::Down => "down_proj",
        other => panic!("{other} is no matrix of a layer"),
    }
}

#[test]
fn a_folder_becomes_the_gguf_file_that_it_was_made_from() {
    let case = Case::new(&wide());
    let folder = case.out("folder");
    case.run("int8-weight", &folder).unwrap();
    let model = Model::open(&folder).unwrap();
    let plan = Plan::new(&model, "q8_0".parse().unwrap()).unwrap();
    let back = case.out("back.gguf");
    let options = RunOptions { threads: 1, calibration: None, stop: &GO_ON };
    run(&model, &plan, &back, options, &mut |_| {}).unwrap().commit().unwrap();
    let (source, back) = (Model::open(&case.source).unwrap(), Model::open(&back).unwrap());
    assert_eq!(back.config, source.config);
    for tensor in source.weights.tensors() {
        let other = back.weights.tensors().find(|other| other.name == tensor.name).unwrap();
        assert_eq!(other.shape, tensor.shape);
        let numbers = |model: &Model, tensor: &wharf_model::StoredTensor| {
            let mut x = vec![0.0; tensor.elements()];
            block::dequantize(tensor.dtype, model.weights.bytes(tensor), &mut x).unwrap();
            x
        };
        let (old, new) = (numbers(&source, tensor), numbers(&back, other));
        let most = old.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (x, y) in old.iter().zip(&new) {
            assert!((x - y).abs() <= most / 50.0, "{}: {x} became {y}", tensor.name);
        }
    }
    let texts = |model: &Model| match &model.source {
        wharf_model::Source::Gguf(metadata) => wharf_model::Tokenizer::from_gguf(metadata).unwrap(),
        wharf_model::Source::Folder(_) => panic!("a GGUF file was written"),
    };
    let (old, new) = (texts(&source), texts(&back));
    for text in ["once upon a time", "12 345 <|im_end|> ü\n\n  x", ""] {
        let options = wharf_model::EncodeOptions { add_special: true, parse_special: true };
        assert_eq!(old.encode(text, options), new.encode(text, options));
    }
}
