//! One student in both formats: the same numbers, and a text side in each.

use std::path::Path;

use wharf_model::{ChatTemplate, EncodeOptions, Model, Source, Tokenizer};
use wharf_testkit::TinyModel;
use wharf_testkit::gguf::Builder;

use super::*;
use crate::distill::compute::Micro;
use crate::distill::layers::Kept;
use crate::distill::student::Width;
use crate::distill::teacher::Scorer;

const PRUNED: Student =
    Student::Pruned { layers: Kept::Busiest(2), width: Width { hidden: None, ffn: None, heads: None } };

fn teacher(folder: &Path, change: impl FnOnce(&mut Builder)) -> Model {
    let path = folder.join("teacher.gguf");
    let mut file = TinyModel { n_layers: 3, ..TinyModel::default() }.build();
    change(&mut file);
    std::fs::write(&path, file.bytes()).unwrap();
    Model::open(&path).unwrap()
}

/// A student of two layers, written in `format`.
fn written(folder: &Path, teacher: &Model, format: Format) -> (PathBuf, Vec<String>) {
    let out = folder.join(format.weights());
    let student = Parameters::from_model(teacher, "teacher").unwrap().keep_layers(&[0, 2]);
    let described = Described::read(teacher, &PRUNED, format, Path::new("some/pupil")).unwrap();
    rehearse(&out, &student, &described).unwrap();
    assert!(!out.exists(), "a rehearsal leaves nothing");
    let notes = super::folder(&out, &student, &described).unwrap();
    (out, notes)
}

fn logits(path: &Path) -> Vec<f32> {
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 288).collect();
    let learned = vec![true; tokens.len()];
    let batch = Micro { windows: Vec::new(), targets: tokens.clone(), learned, length: tokens.len(), tokens };
    let mut scorer = Scorer::load(Model::open(path).unwrap(), "student", 1, batch.length, 1).unwrap();
    let mut all = Vec::new();
    scorer
        .score(&batch, &mut |rows| {
            all.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    all
}

/// Only the order of additions within a head may differ.
fn assert_same(one: &[f32], other: &[f32]) {
    assert!(one.len() == other.len() && one.iter().any(|x| x.abs() > 0.1));
    for (a, b) in one.iter().zip(other) {
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{a} {b}");
    }
}

#[test]
fn a_student_says_the_same_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path(), |_| {});
    let (plain, _) = written(folder.path(), &teacher, Format::Safetensors);
    let (gguf, _) = written(folder.path(), &teacher, Format::Gguf);
    assert_same(&logits(&plain), &logits(&gguf));
    let Source::Gguf(metadata) = Model::open(&gguf).unwrap().source else {
        panic!("a GGUF file was written")
    };
    assert_eq!(metadata.str("general.name"), Some("pupil"));
    assert_eq!(metadata.u64("llama.block_count"), Some(2));
    let Source::Gguf(original) = &teacher.source else { unreachable!("the teacher is a GGUF file") };
    let options = EncodeOptions { add_special: true, parse_special: true };
    let text = "on the other hand <|im_end|> 42";
    let found = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(found.encode(text, options), Tokenizer::from_gguf(original).unwrap().encode(text, options));
    assert!(ChatTemplate::from_gguf(&metadata).unwrap().is_some());
    let files = std::fs::read_dir(&gguf).unwrap().count();
    assert_eq!(files, 1, "what was written on the way is removed");
}

#[test]
fn a_folders_student_becomes_a_gguf_file_with_its_text_side() {
    let folder = tempfile::tempdir().unwrap();
    let first = teacher(folder.path(), |_| {});
    let (plain, _) = written(folder.path(), &first, Format::Safetensors);
    let second = Model::open(&plain).unwrap();
    let described = Described::read(&second, &PRUNED, Format::Gguf, Path::new("pupil")).unwrap();
    let student = Parameters::from_model(&second, "teacher").unwrap();
    let out = folder.path().join("again");
    super::folder(&out, &student, &described).unwrap();
    assert_same(&logits(&out), &logits(&plain));
    let Source::Gguf(metadata) = Model::open(&out).unwrap().source else { panic!("a GGUF file was written") };
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("gpt-2"));
    assert!(metadata.str("tokenizer.chat_template").is_some());
}

#[test]
fn a_tokenizer_that_only_gguf_can_hold_goes_into_gguf_and_is_missed_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = teacher(folder.path(), |file| {
        file.metadata.retain(|(key, _)| key != "tokenizer.ggml.pre");
        file.set("tokenizer.ggml.pre", "default");
    });
    let (plain, notes) = written(folder.path(), &teacher, Format::Safetensors);
    assert!(notes.len() == 1 && notes[0].contains("the pre-tokenizer \"default\""), "{notes:?}");
    assert!(!plain.join("tokenizer.json").exists());
    let (gguf, notes) = written(folder.path(), &teacher, Format::Gguf);
    assert!(notes.is_empty());
    let Source::Gguf(metadata) = Model::open(&gguf).unwrap().source else {
        panic!("a GGUF file was written")
    };
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("default"));
}
