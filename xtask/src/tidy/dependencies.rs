//! Rules about crates: licences that we may ship, descriptions, the changelog.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::Finding;
use crate::shell;

/// Licences that put no condition on the program beyond naming its authors.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Exceptions only widen a licence.
const WIDENED: [&str; 1] = ["Apache-2.0 WITH LLVM-exception"];

/// Crates of ours that stand in for others of the same name and have their versions, not ours.
const STAND_INS: [&str; 1] = ["dirs"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    /// `None` for members of the workspace.
    source: Option<String>,
}

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let host = shell::read(&mut shell::cargo(&["--version", "--verbose"]))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("cargo names no host")?;
    // Without the filter cargo would download what only other platforms need.
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let metadata = shell::read(&mut shell::cargo(&args))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("failed to read cargo's metadata")?;
    let changelog =
        std::fs::read_to_string(root.join("CHANGELOG.md")).context("failed to read CHANGELOG.md")?;
    Ok(judge(&metadata.packages, &changelog))
}

fn judge(packages: &[Package], changelog: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Package { name, version, license, description, source } in packages {
        let mut find =
            |what: String| findings.push(Finding { place: format!("crate {name} {version}"), what });
        match license {
            None => find("names no licence".into()),
            Some(licence) if !allowed(licence) => {
                find(format!("has the licence `{licence}`, which is not allowed"))
            }
            Some(_) => {}
        }
        if source.is_none() {
            if description.as_deref().unwrap_or_default().is_empty() {
                find("has no description".into());
            }
            if !STAND_INS.contains(&name.as_str()) && !changelog.contains(version.as_str()) {
                find("has a version that CHANGELOG.md does not mention".into());
            }
        }
    }
    findings
}

/// Whether an SPDX expression leaves us an allowed choice. `/` is an old way to write `OR`.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

/// `None` when the words are no expression.
fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut ok = all_of(words)?;
    while let [first, rest @ ..] = *words
        && *first == "OR"
    {
        *words = rest;
        ok |= all_of(words)?;
    }
    Some(ok)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut ok = one(words)?;
    while let [first, rest @ ..] = *words
        && *first == "AND"
    {
        *words = rest;
        ok &= one(words)?;
    }
    Some(ok)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let ok = any_of(words)?;
            let [")", rest @ ..] = *words else { return None };
            *words = rest;
            Some(ok)
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            Some(WIDENED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(name))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_the_choice_they_leave() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("ISC AND (Apache-2.0 OR GPL-2.0) AND BSD-3-Clause", true),
            ("(MIT OR Apache-2.0) AND GPL-2.0", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(allowed(expression), expected, "{expression}");
        }
    }

    #[test]
    fn our_crates_need_a_description_and_a_changelog_entry() {
        let ours = |description: Option<&str>| Package {
            name: "a".into(),
            version: "0.1.0".into(),
            license: Some("Apache-2.0".into()),
            description: description.map(Into::into),
            source: None,
        };
        assert!(judge(&[ours(Some("x"))], "## 0.1.0").is_empty());
        assert_eq!(judge(&[ours(None)], "nothing").len(), 2);
    }
}
