//! `cargo xtask tidy`: rules about the tree that the compiler does not know.
//!
//! Rules about text are pure functions of a path and its text; only `check` reads files.

mod dependencies;
mod text;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::{environment, shell};

/// Check file lengths, module headers, crate boundaries, licences, links and forbidden words
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask tidy")]
pub(crate) struct Args {}

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path from the root, with a line if there is one.
    place: String,
    what: String,
}

/// A text file of the tree; `path` is relative to the root, with forward slashes.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    path: String,
    text: String,
}

pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    Ok(if check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the tree is tidy; prints what is not.
pub(crate) fn check() -> anyhow::Result<bool> {
    let root = environment::root();
    let files = read_tree(&root)?;
    let mut findings: Vec<Finding> = files.iter().flat_map(text::check).collect();
    findings.extend(text::check_links(&files, &|path| root.join(path).exists()));
    findings.extend(dependencies::check(&root)?);
    for Finding { place, what } in &findings {
        println!("{place}: {what}");
    }
    println!("tidy: {} files, {} findings", files.len(), findings.len());
    Ok(findings.is_empty())
}

/// Every text file that git tracks or would track.
fn read_tree(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let list = shell::read(&mut git)?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let whole = root.join(path);
        if !whole.is_file() {
            // Deleted in the working tree and not yet in a commit, or a link to a folder.
            continue;
        }
        let bytes = std::fs::read(&whole).with_context(|| format!("failed to read {}", whole.display()))?;
        // What is not text (fixtures) has no lines to check.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}
