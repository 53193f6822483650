//! What lies in the volumes of models: which files and folders an object needs, by claim and name. What nothing needs may be removed.
//!
//! Needed is what the recipe of an object makes, steps in between included, and what it reads where it lies.

use std::collections::BTreeSet;

use wharf_spec::Model;
use wharf_spec::scalar::Source;
use wharf_spec::service::{CacheType, ModelSection, Optimize};

use crate::artifacts::{ARTIFACT, GGUF, SOURCE, Store};
use crate::children::claim_of_model;
use crate::facts::own_claim;
use crate::names::DIGITS;
use crate::recipe::{self, Step};
use crate::{Places, children};

/// A file or folder at the root of a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stored {
    /// The volume's claim.
    pub claim: String,
    /// Its name; empty for all that the volume has.
    pub name: String,
}

impl Stored {
    /// Whether `other` is this, or a part of it.
    pub fn covers(&self, other: &Stored) -> bool {
        self.claim == other.claim && (self.name.is_empty() || self.name == other.name)
    }

    /// Where a path leads to that begins at the root of the claim's volume.
    fn at(claim: &str, path: &str) -> Stored {
        let name = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        Stored { claim: claim.to_owned(), name: name.to_owned() }
    }
}

/// What each Job of a Model makes, in their order; the last is what is served.
pub fn model_makes(object: &Model) -> Vec<Stored> {
    let places = Places::pod();
    made(&children::steps_of_model(object, &places), &claim_of_model(object), &places)
}

/// Everything that a Model needs.
pub fn model_needs(object: &Model) -> BTreeSet<Stored> {
    let spec = &object.spec;
    let mut needs: BTreeSet<Stored> = model_makes(object).into_iter().collect();
    needs.extend(lies([&spec.source].into_iter().chain(others(spec.optimize.as_ref()))));
    needs
}

/// Everything that a service of this name needs. What its `ref` stands for is the Model's to say.
pub fn service_needs(name: &str, model: &ModelSection) -> BTreeSet<Stored> {
    let Some(source) = &model.source else { return BTreeSet::new() };
    let adapters = model.adapters.iter().map(|adapter| &adapter.source);
    let read = [source].into_iter().chain(others(model.optimize.as_ref())).chain(adapters);
    let mut needs: BTreeSet<Stored> = lies(read).collect();
    if model.cache_type() == CacheType::Pvc {
        let places = Places::pod();
        let store = Store(&places);
        let digest = model.digest.as_ref().map(|digest| digest.as_str());
        let original = store.fetched_file(source, digest);
        let artifact = store.artifact(source, digest, model.optimize.as_ref(), original);
        let mut steps = recipe::steps(store, source, digest, model.optimize.as_ref(), &artifact);
        steps.extend(model.adapters.iter().filter_map(|adapter| recipe::fetch(store, &adapter.source, None)));
        needs.extend(made(&steps, &own_claim(name, model), &places));
    }
    needs
}

/// Names in a text that recipes give to what they make.
pub fn made_in(text: &str) -> impl Iterator<Item = &str> {
    [SOURCE, ARTIFACT].into_iter().flat_map(move |prefix| {
        text.match_indices(prefix).filter_map(move |(at, _)| {
            let rest = &text[at + prefix.len()..];
            let digest = rest.get(..DIGITS)?;
            if !digest.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                return None;
            }
            let end = if rest[DIGITS..].starts_with(GGUF) { GGUF.len() } else { 0 };
            Some(&text[at..at + prefix.len() + DIGITS + end])
        })
    })
}

/// Whether a recipe gives this name to what it makes.
pub fn is_made(name: &str) -> bool {
    made_in(name).any(|made| made == name)
}

fn made(steps: &[Step], claim: &str, places: &Places) -> Vec<Stored> {
    let inside = |step: &Step| Stored::at(claim, step.makes.strip_prefix(&places.models).unwrap_or_default());
    steps.iter().map(inside).collect()
}

/// Sources of a recipe beside the model's own.
fn others(optimize: Option<&Optimize>) -> impl Iterator<Item = &Source> {
    let distill = optimize.and_then(|optimize| optimize.distill.as_ref());
    let of_distill =
        distill.into_iter().flat_map(|d| [&d.teacher, &d.data, &d.student].into_iter().flatten());
    optimize.and_then(|optimize| optimize.data.as_ref()).into_iter().chain(of_distill)
}

/// Those of the sources that lie in a volume.
fn lies<'a>(sources: impl Iterator<Item = &'a Source>) -> impl Iterator<Item = Stored> {
    sources.filter_map(|source| source.claim()).map(|(claim, path)| Stored::at(claim, path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn model(spec: &Value) -> Model {
        let object = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "Model", "metadata": {"name": "m"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn shown(needs: impl IntoIterator<Item = Stored>) -> Vec<String> {
        needs.into_iter().map(|Stored { claim, name }| format!("{claim}/{name}")).collect()
    }

    #[test]
    fn a_model_needs_what_it_is_made_from_and_what_lies_elsewhere() {
        let spec = json!({
            "source": "hf://a/b",
            "optimize": {"distill": {"layers": 2, "data": "pvc://texts/books/one.txt"}, "quantize": "q8_0", "data": "hf://a/text.txt"},
        });
        let makes = shown(model_makes(&model(&spec)));
        assert_eq!(makes.len(), 4, "{makes:?}");
        assert!(makes.iter().all(|made| made.starts_with("m-model/")), "{makes:?}");
        assert!(makes[0].contains("/source-") && makes[1].contains("/source-"), "{makes:?}");
        assert!(makes[2].contains("/artifact-") && makes[3].ends_with(".gguf"), "{makes:?}");
        let needs = shown(model_needs(&model(&spec)));
        assert_eq!(needs.len(), 5);
        assert!(needs.contains(&"texts/books".to_owned()), "{needs:?}");
        assert_eq!(model_makes(&model(&spec)).last().unwrap().name, crate::model_place(&model(&spec)).1);
    }

    #[test]
    fn a_fetched_file_is_needed_with_its_folder() {
        let makes = model_makes(&model(&json!({"source": "hf://a/b/c.gguf"})));
        assert!(is_made(&makes[0].name), "{makes:?}");
        let moved = model(&json!({"source": "hf://a/b", "cache": {"claimName": "shared"}}));
        assert_eq!(model_makes(&moved)[0].claim, "shared");
    }

    #[test]
    fn a_service_needs_its_source_where_it_lies_or_where_it_is_made() {
        let needs = |section: Value| {
            let section: ModelSection = serde_json::from_value(section).unwrap();
            shown(service_needs("assistant", &section))
        };
        assert_eq!(needs(json!({"source": "pvc://m-model/artifact-1/x"})), ["m-model/artifact-1"]);
        assert_eq!(needs(json!({"source": "pvc://all"})), ["all/"]);
        assert_eq!(needs(json!({"ref": "m"})), [""; 0]);
        let own = needs(json!({"source": "hf://a/b", "adapters": [{"name": "x", "source": "hf://a/c"}]}));
        assert_eq!(own.len(), 2);
        assert!(own.iter().all(|need| need.starts_with("assistant-cache/source-")), "{own:?}");
        let shared = needs(json!({"source": "hf://a/b", "cache": {"claimName": "shared"}}));
        let same = model(&json!({"source": "hf://a/b", "cache": {"claimName": "shared"}}));
        assert_eq!(
            shared,
            shown(model_makes(&same)),
            "the same source in the same volume is the same folder"
        );
        assert_eq!(needs(json!({"source": "oci://r/a:1", "cache": {"type": "image"}})), [""; 0]);
    }

    #[test]
    fn all_of_a_volume_covers_what_is_in_it() {
        let at = |name: &str| Stored { claim: "c".to_owned(), name: name.to_owned() };
        assert!(at("").covers(&at("x")) && at("x").covers(&at("x")));
        assert!(!at("x").covers(&at("y")));
        assert!(!Stored { claim: "d".to_owned(), name: String::new() }.covers(&at("x")));
    }

    #[test]
    fn names_are_found_in_any_text_and_nothing_else_is_one() {
        let text = "a /models/artifact-0123456789.gguf, pvc://m/source-abcdef0123/x artifact-123 source-0 artifact-0123456789-old";
        let mut found: Vec<&str> = made_in(text).collect();
        found.sort_unstable();
        assert_eq!(found, ["artifact-0123456789", "artifact-0123456789.gguf", "source-abcdef0123"]);
        assert!(is_made("artifact-0123456789.gguf") && is_made("source-0123456789"));
        for other in [
            "artifact-0123456789.partial",
            "source-012345678",
            "lost+found",
            "",
            "../source-0123456789",
            "source-012345678ü",
        ] {
            assert!(!is_made(other), "{other}");
        }
    }
}
