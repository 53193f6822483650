//! Where files end up: new folders, folders that were there, folders of others, several fetches at once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Case, bytes, manifest, names, sha256};
use crate::FetchError;

/// A case with a folder `source` of two files.
fn case() -> (Case, String) {
    let case = Case::new(&[]);
    let source = case.folder.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("model.gguf"), bytes(3_500)).unwrap();
    fs::write(source.join("sub/config.json"), "{}").unwrap();
    let url = format!("file://{}", source.display());
    (case, url)
}

#[tokio::test]
async fn a_local_folder_costs_no_bytes_and_is_verified() {
    let (case, url) = case();
    let report = case.fetch(&url).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(3_500));
    assert_eq!(names(&case.target()), ["manifest.json", "model.gguf", "sub"]);
    assert_eq!(report.manifest.files[0].sha256, sha256(&bytes(3_500)));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let source = case.folder.path().join("source/model.gguf");
    assert_eq!((inode(&case.target().join("model.gguf")), report.downloaded), (inode(&source), 0));
    assert!(case.fetch(&url).await.unwrap().already_there);
    assert_eq!(case.left(), ["model", "source"]);
}

#[tokio::test]
async fn where_files_cannot_be_linked_they_are_copied() {
    let (case, url) = case();
    let parts = case.folder.path().join("model.partial/parts");
    fs::create_dir_all(&parts).unwrap();
    // Half a copy of an earlier run, of no version that is known.
    fs::write(parts.join("model.gguf.part"), "x").unwrap();
    fs::write(parts.join("model.gguf.part.journal"), "").unwrap();
    let report = case.fetch(&url).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(3_500));
    assert_eq!(report.downloaded, 3_500);
    assert_eq!(fs::read(case.folder.path().join("source/model.gguf")).unwrap(), bytes(3_500));
}

#[tokio::test]
async fn a_folder_that_was_there_empty_is_filled_with_the_manifest_last() {
    let (case, url) = case();
    fs::create_dir(case.target()).unwrap();
    fs::create_dir(case.target().join("lost+found")).unwrap();
    case.fetch(&url).await.unwrap();
    assert_eq!(names(&case.target()), ["lost+found", "manifest.json", "model.gguf", "sub"]);
    assert_eq!(case.left(), ["model", "source"]);
}

#[tokio::test]
async fn another_version_replaces_the_first_and_leaves_nothing_of_it() {
    let (case, url) = case();
    case.fetch(&url).await.unwrap();
    let source = case.folder.path().join("source");
    fs::remove_file(source.join("sub/config.json")).unwrap();
    fs::remove_file(source.join("model.gguf")).unwrap();
    fs::write(source.join("model.gguf"), "new").unwrap();
    assert!(!case.fetch(&url).await.unwrap().already_there);
    assert_eq!(case.read("model.gguf"), b"new");
    assert!(!case.target().join("sub/config.json").exists());
    assert_eq!(manifest(&case.target()).files.len(), 1);
}

#[tokio::test]
async fn folders_of_others_are_left_alone() {
    let (case, url) = case();
    fs::create_dir(case.target()).unwrap();
    fs::write(case.target().join("mine.txt"), "mine").unwrap();
    let error = case.fetch(&url).await.unwrap_err();
    assert!(matches!(error, FetchError::Occupied { .. }) && error.is_bad_input(), "{error}");
    assert_eq!(names(&case.target()), ["mine.txt"]);
    fs::remove_dir_all(case.target()).unwrap();
    fs::write(case.target(), "a file").unwrap();
    assert!(case.fetch(&url).await.unwrap_err().is_bad_input());
    fs::remove_file(case.target()).unwrap();

    case.fetch(&url).await.unwrap();
    let other = format!("{url}/sub");
    let error = case.fetch(&other).await.unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains(&format!("holds {url}")), "{error}");
}

#[tokio::test]
async fn two_fetches_into_one_folder_take_turns() {
    let (case, url) = case();
    let (first, second) = tokio::join!(case.fetch(&url), case.fetch(&url));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(case.read("model.gguf"), bytes(3_500));
    assert_eq!(case.left(), ["model", "source"]);
}

#[tokio::test]
async fn a_pin_of_a_folder_is_of_all_its_files() {
    let (case, url) = case();
    let list =
        format!("{}  model.gguf\n{}  sub/config.json\n", sha256(&bytes(3_500)).hex(), sha256(b"{}").hex());
    let error = case.fetch_pinned(&url, sha256(b"x")).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }) && !case.target().exists(), "{error}");
    case.fetch_pinned(&url, sha256(list.as_bytes())).await.unwrap();
}

#[tokio::test]
async fn a_run_that_was_stopped_between_the_last_byte_and_the_name_is_gone_on_with() {
    let (case, url) = case();
    let work = case.folder.path().join("model.partial");
    fs::create_dir_all(work.join("whole/sub")).unwrap();
    fs::create_dir_all(work.join("parts")).unwrap();
    fs::write(work.join("whole/model.gguf"), "half").unwrap();
    case.fetch(&url).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(3_500));
    assert_eq!(case.left(), ["model", "source"]);
}
