//! Kept packs as a user meets them: the same answer, and a warning that names the file when one is not used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf_testkit::TinyModel;

use crate::wharf::{self, Finished};

fn answer(model: &Path, more: &[&str]) -> Finished {
    let mut command =
        wharf::command(&["chat", "--prompt", "once", "--max-tokens", "8", "--temperature", "0"]);
    Finished::from(command.arg("--model").arg(model).args(more).output().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_pack_gives_the_same_answer_and_a_damaged_one_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    TinyModel::default().write(&model).unwrap();
    let expected = answer(&model, &[]).out;
    let packs = folder.path().join("packs");
    let kept = |more: &[&str]| {
        let finished = answer(&model, &[&["--pack-cache", text(&packs)], more].concat());
        assert_eq!((finished.code, finished.out.as_str()), (Some(0), expected.as_str()), "{}", finished.err);
        finished.err
    };
    for more in [&[][..], &[], &["--verify"]] {
        let said = kept(more);
        assert!(!said.contains("WARN"), "{said}");
    }
    let pack: PathBuf = fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let said = kept(&["--verify"]);
    assert!(said.contains("packed weights cannot be used") && said.contains(text(&pack)), "{said}");
    assert!(said.contains("do not have the digest"), "{said}");
    let said = kept(&["--verify"]);
    assert!(!said.contains("WARN"), "it has been written anew: {said}");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    TinyModel::default().write(&model).unwrap();
    let below_a_file = model.join("packs");
    let finished = answer(&model, &["--pack-cache", text(&below_a_file)]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let said = finished.err;
    assert!(
        said.contains("failed to keep the packed weights") && said.contains(text(&below_a_file)),
        "{said}"
    );
}

/// As on a full disk: a write in the middle fails.
#[test]
fn a_pack_that_cannot_be_written_to_its_end_is_a_warning_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, packs) = (folder.path().join("tiny.gguf"), folder.path().join("packs"));
    TinyModel::default().write(&model).unwrap();
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let args =
        ["--prompt", "once", "--max-tokens", "8", "--model", text(&model), "--pack-cache", text(&packs)];
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_wharf"), "chat"]).args(args);
    wharf::without_gpus(&mut shell);
    let finished = Finished::from(shell.output().unwrap());
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    assert!(finished.err.contains("failed to keep the packed weights"), "{}", finished.err);
    assert_eq!(fs::read_dir(&packs).unwrap().count(), 0);
}

#[test]
fn serve_takes_the_folder_and_verifies_only_with_one() {
    let finished = wharf::run(&["serve", "--model", "x.gguf", "--verify"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("pack_cache: is needed with verify_pack_cache (--verify)"), "{finished:?}");
    // These are understood, so that it is the model that is missed.
    for verify in ["--verify", "--verify=true", "--verify=false", "--verify-pack-cache"] {
        let finished = wharf::run(&["serve", "--model", "/nowhere.gguf", "--pack-cache", "packs", verify]);
        assert!(finished.err.contains("/nowhere.gguf"), "{finished:?}");
    }
    let finished = wharf::run(&["serve", "--model", "x.gguf", "--pack-cache", "packs", "--verify=maybe"]);
    assert!(finished.err.contains("expected a boolean"), "{finished:?}");
}
