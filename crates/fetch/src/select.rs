//! Which files of a repository or folder make a model. Pure: names and sizes in, names out.

use crate::error::FetchError;
use crate::remote::{Remote, RemoteFile};

/// What to take of a repository when nothing in it was named: an error when that cannot be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) take: Vec<String>,
    pub(crate) skipped: Vec<String>,
}

/// Weights that run code when they are loaded.
const PICKLES: [&str; 7] = [".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib"];
/// Files beside weights that loading needs, or that their licence asks to keep.
const BESIDE: [&str; 6] = [".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors"];
const NOTICES: [&str; 4] = ["license", "licence", "notice", "use_policy"];
/// The same weights once more, or for programs that are not ours.
const OTHER_FOLDERS: [&str; 9] =
    ["original", "onnx", "openvino", "coreml", "metal", "flax", "tf", "runs", "checkpoints"];

fn has_suffix(name: &str, suffixes: &[&str]) -> bool {
    let lower = name.to_ascii_lowercase();
    suffixes.iter().any(|suffix| lower.ends_with(suffix))
}

fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

fn is_elsewhere(name: &str) -> bool {
    let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders.split('/').any(|folder| OTHER_FOLDERS.contains(&folder))
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// Parts of one GGUF file are one: `x-00001-of-00003.gguf` belongs to `x-…-of-00003.gguf`.
fn gguf_group(name: &str) -> String {
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    match parts[..] {
        [count, "of", part, rest] if is_count(count) && is_count(part) => format!("{rest}-of-{count}"),
        _ => name.to_owned(),
    }
}

fn is_count(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What makes the model of a whole repository called `id`.
pub(crate) fn repository(id: &str, files: &[(String, Option<u64>)]) -> Result<Selection, FetchError> {
    let ours = |name: &str| !is_hidden(name) && !is_elsewhere(name) && name != crate::manifest::MANIFEST;
    let with = |suffix: &str| -> Vec<&(String, Option<u64>)> {
        files.iter().filter(|(name, _)| ours(name) && has_suffix(name, &[suffix])).collect()
    };
    let (safetensors, ggufs) = (with(".safetensors"), with(".gguf"));
    // Mistral's own copy of the same weights.
    let named = |name: &str, prefix: &str| last(name).starts_with(prefix);
    let has_model = safetensors.iter().any(|(name, _)| named(name, "model") || named(name, "pytorch_model"));
    let groups: std::collections::BTreeSet<String> = ggufs.iter().map(|(name, _)| gguf_group(name)).collect();
    if safetensors.is_empty() && groups.len() > 1 {
        let lines: Vec<String> = ggufs.iter().map(|(name, size)| line(id, name, *size)).collect();
        return Err(FetchError::Choice(format!(
            "hf://{id} has {} GGUF files; name one of them:\n{}",
            ggufs.len(),
            lines.join("\n")
        )));
    }
    if safetensors.is_empty() && ggufs.is_empty() {
        let pickle = files.iter().map(|(name, _)| name).find(|name| has_suffix(name, &PICKLES));
        return Err(FetchError::Choice(match pickle {
            Some(name) => format!(
                "hf://{id} has weights only as pickles ({name}), which run code when they are loaded; look for a copy with safetensors or GGUF"
            ),
            None => format!("hf://{id} has neither safetensors nor GGUF files; name what you want of it"),
        }));
    }
    let takes = |name: &str| {
        let weights = match safetensors.is_empty() {
            true => has_suffix(name, &[".gguf"]),
            false => has_suffix(name, &[".safetensors"]) && !(has_model && named(name, "consolidated")),
        };
        let lower = last(name).to_ascii_lowercase();
        let notice = NOTICES.iter().any(|notice| lower.starts_with(notice));
        let beside = has_suffix(name, &BESIDE) && !has_suffix(name, &[".safetensors"]);
        ours(name) && (weights || beside || notice)
    };
    let (take, skipped) = files.iter().map(|(name, _)| name.clone()).partition(|name| takes(name));
    Ok(Selection { take, skipped })
}

/// What a path in a repository names: a file, with the other parts if it is one of several, or all of a folder.
pub(crate) fn named(id: &str, path: &str, files: &[(String, Option<u64>)]) -> Result<Selection, FetchError> {
    let all = || files.iter().map(|(name, _)| name.clone());
    if files.iter().any(|(name, _)| name == path) {
        let group = gguf_group(path);
        let take =
            all().filter(|name| name == path || (group != path && gguf_group(name) == group)).collect();
        return Ok(Selection { take, skipped: Vec::new() });
    }
    let inner = format!("{path}/");
    let (take, skipped): (Vec<_>, Vec<_>) = all()
        .filter(|name| name.starts_with(&inner))
        .partition(|name| !has_suffix(name, &PICKLES) && !is_hidden(&name[inner.len()..]));
    if !take.is_empty() {
        return Ok(Selection { take, skipped });
    }
    let near: Vec<String> = files
        .iter()
        .filter(|(name, _)| {
            last(name).eq_ignore_ascii_case(last(path)) || has_suffix(name, &[".gguf", ".safetensors"])
        })
        .take(20)
        .map(|(name, size)| line(id, name, *size))
        .collect();
    let there = if near.is_empty() { String::new() } else { format!("; it has:\n{}", near.join("\n")) };
    Err(FetchError::Choice(format!("hf://{id} has no file or folder {path}{there}")))
}

fn line(id: &str, name: &str, size: Option<u64>) -> String {
    let size = size.map(|size| format!("  ({:.2} GB)", size as f64 / 1e9)).unwrap_or_default();
    format!("  hf://{id}/{name}{size}")
}

/// What to take of a folder that its owner has put together: all but pickles beside better weights, and what is hidden.
pub(crate) fn folder(files: Vec<RemoteFile>) -> Result<Remote, FetchError> {
    let better = files.iter().any(|file| has_suffix(file.name.as_str(), &[".safetensors", ".gguf"]));
    let takes = |name: &str| {
        let worse = better && has_suffix(name, &PICKLES);
        !worse && !is_hidden(name) && !is_elsewhere(name)
    };
    let (take, skipped): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| takes(file.name.as_str()));
    if take.is_empty() {
        let names: Vec<&str> = skipped.iter().map(|file| file.name.as_str()).take(20).collect();
        return Err(FetchError::Choice(format!("nothing there makes a model: {}", names.join(", "))));
    }
    let skipped = skipped.iter().map(|file| file.name.to_string()).collect();
    Ok(Remote { skipped, ..Remote::new(take) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<(String, Option<u64>)> {
        names.iter().map(|name| ((*name).to_owned(), Some(1_000_000_000))).collect()
    }

    fn taken(names: &[&str]) -> Vec<String> {
        repository("a/b", &files(names)).unwrap().take
    }

    #[test]
    fn a_repository_is_weights_configuration_and_tokenizer() {
        let names = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "generation_config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "original/params.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
            "picture.png",
            "1_Pooling/config.json",
            "manifest.json",
            "model-Q4_K_M.gguf",
        ];
        assert_eq!(
            taken(&names),
            [
                "LICENSE",
                "config.json",
                "generation_config.json",
                "merges.txt",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json",
                "tokenizer.model",
                "1_Pooling/config.json",
            ]
        );
        assert_eq!(taken(&["consolidated.safetensors", "params.json"]).len(), 2);
    }

    #[test]
    fn one_gguf_is_taken_and_of_many_one_must_be_named() {
        assert_eq!(taken(&["a.gguf", "config.json", "README.md"]), ["a.gguf", "config.json"]);
        assert_eq!(taken(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]).len(), 2);
        let error = repository("a/b", &files(&["a-Q4_K_M.gguf", "a-Q8_0.gguf"])).unwrap_err();
        assert!(error.is_bad_input());
        let text = error.to_string();
        assert!(text.contains("hf://a/b/a-Q4_K_M.gguf  (1.00 GB)\n  hf://a/b/a-Q8_0.gguf"), "{text}");
    }

    #[test]
    fn pickles_are_not_taken_unless_they_are_named() {
        let only = files(&["pytorch_model.bin", "config.json"]);
        let error = repository("a/b", &only).unwrap_err().to_string();
        assert!(error.contains("run code") && error.contains("pytorch_model.bin"), "{error}");
        assert_eq!(named("a/b", "pytorch_model.bin", &only).unwrap().take, ["pytorch_model.bin"]);
        assert!(repository("a/b", &files(&["README.md"])).is_err());
    }

    #[test]
    fn a_named_file_brings_its_other_parts_and_a_folder_all_of_it() {
        let names = files(&["q4/a-00001-of-00002.gguf", "q4/a-00002-of-00002.gguf", "q4/x.bin", "b.gguf"]);
        let take = |path: &str| named("a/b", path, &names).map(|selection| selection.take);
        assert_eq!(take("b.gguf").unwrap(), ["b.gguf"]);
        assert_eq!(take("q4/a-00001-of-00002.gguf").unwrap().len(), 2);
        assert_eq!(take("q4").unwrap().len(), 2);
        let error = take("c.gguf").unwrap_err().to_string();
        assert!(error.contains("no file or folder c.gguf") && error.contains("hf://a/b/b.gguf"), "{error}");
    }
}
