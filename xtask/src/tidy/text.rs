//! Rules about single files and about links between them.

use super::{Finding, SourceFile};

/// Longest source file; beyond the 400 lines to aim for there is some room.
const MAX_LINES: usize = 800;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Folders whose crates must not know of networks, runtimes or the environment.
const PURE: [&str; 3] = ["crates/kernels/src/", "crates/model/src/", "crates/engine/src/"];
const IMPURE_WORDS: [&str; 6] = ["tokio::", "axum::", "hyper::", "reqwest::", "kube::", "std::env::"];

/// Words that only make sense on one machine. Written in two halves so that this file passes its own rule.
const FORBIDDEN: [&str; 9] = [
    concat!("/wo", "rk/"),
    concat!("/tmp/", "py"),
    concat!("/tmp/", "brief"),
    concat!("/tmp/", "models"),
    concat!("../", "shared"),
    concat!("/ro", "ot/"),
    concat!("pypi", ".org"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
];

/// Everything that one file can break.
pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: Option<usize>, what: String| {
        let place = line.map_or_else(|| file.path.clone(), |line| format!("{}:{line}", file.path));
        findings.push(Finding { place, what });
    };
    let rust = file.path.ends_with(".rs");
    if rust {
        let lines = file.text.lines().count();
        if lines > MAX_LINES && !LONG_FILES.iter().any(|(path, _)| *path == file.path) {
            find(None, format!("{lines} lines, at most {MAX_LINES} are allowed without a listed reason"));
        }
        if !opens_with_prose(&file.text) {
            find(None, "does not open with a `//!` comment that says what the file decides".into());
        }
    }
    // Tests may ask the environment for a model to test with.
    let test = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    let pure = rust && !test && PURE.iter().any(|folder| file.path.starts_with(folder));
    for (i, line) in file.text.lines().enumerate() {
        let number = Some(i + 1);
        if file.path != "Cargo.lock" {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                find(number, format!("mentions `{word}`, which no reader of the repository can use"));
            }
        }
        let code = line.split("//").next().unwrap_or_default();
        if rust && (code.contains(concat!("to", "do!(")) || code.contains(concat!("unimpl", "emented!("))) {
            find(number, "is unfinished".into());
        }
        if pure && let Some(word) = IMPURE_WORDS.iter().find(|word| code.contains(**word)) {
            find(
                number,
                format!("uses `{word}`: kernels, model and engine know no network, runtime or environment"),
            );
        }
        if line.ends_with([' ', '\t']) && (rust || file.path.ends_with(".toml")) {
            find(number, "ends in white space".into());
        }
    }
    findings
}

fn opens_with_prose(text: &str) -> bool {
    text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"))
}

/// Relative links in Markdown files that lead nowhere.
pub(super) fn check_links(files: &[SourceFile], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (i, line) in file.text.lines().enumerate() {
            for link in links(line) {
                let target = link.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if !exists(&resolve(folder, target)) {
                    let place = format!("{}:{}", file.path, i + 1);
                    findings
                        .push(Finding { place, what: format!("links to {target}, which does not exist") });
                }
            }
        }
    }
    findings
}

/// Targets of `[text](target)` in a line.
fn links(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.into() }
    }

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&file(path, text)).into_iter().map(|f| format!("{}: {}", f.place, f.what)).collect()
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert_eq!(complaints("crates/model/src/a.rs", "//! Decides.\n\nfn f() {}\n"), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_breach() {
        for (path, text, complaint) in [
            ("a.rs", "fn f() {}\n".to_owned(), "does not open"),
            ("a.rs", format!("//! x\n{}", "\n".repeat(MAX_LINES)), "801 lines"),
            ("crates/model/src/a.rs", "//! x\nuse std::env::var;\n".to_owned(), "std::env::"),
            ("a.rs", format!("//! x\nfn f() {{ {}) }}\n", concat!("to", "do!(")), "unfinished"),
            ("docs/a.md", format!("see {}x\n", FORBIDDEN[0]), "no reader"),
            ("a.rs", "//! x \n".to_owned(), "white space"),
        ] {
            let found = complaints(path, &text);
            assert!(found.iter().any(|f| f.contains(complaint)), "{complaint}: {found:?}");
        }
    }

    #[test]
    fn links_are_followed_from_the_files_folder() {
        let files = [file("docs/a/b.md", "[x](../c.md#top) [y](https://e.com) [z](gone.md) [s](#s)\n")];
        let findings = check_links(&files, &|path| path == "docs/c.md");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("gone.md"));
    }
}
