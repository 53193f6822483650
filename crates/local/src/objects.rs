//! From what files say to what runs: services with the source of the Model that they refer to. Pure.

use std::collections::BTreeMap;

use wharf_spec::Model;

pub(crate) use crate::options::Objects;
use crate::options::Written;

/// Services by the name that the gateway knows them by, each with a source of its own.
///
/// # Errors
/// With a sentence, when two services share a name, or one refers to a Model that is in no file.
pub(crate) fn resolve(objects: Objects) -> Result<BTreeMap<String, Written>, String> {
    let Objects { services, models } = objects;
    let mut resolved = BTreeMap::new();
    for mut written in services {
        let name = full_name(&written);
        let section = &mut written.object.spec.model;
        if let Some(reference) = section.reference.take() {
            let model = find(&models, reference.as_str(), written.object.metadata.namespace.as_deref());
            let model = model.ok_or_else(|| {
                format!("{name} refers to the Model {reference}, which is in none of the files; add its file with -f")
            })?;
            section.source = Some(model.spec.source.clone());
            section.digest.clone_from(&model.spec.digest);
            section.optimize.clone_from(&model.spec.optimize);
        }
        if resolved.insert(name.clone(), written).is_some() {
            return Err(format!("there are two services {name}; give each its own name or namespace"));
        }
    }
    Ok(resolved)
}

/// `namespace/name`, or the name alone of a service without a namespace.
fn full_name(written: &Written) -> String {
    let metadata = &written.object.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

fn find<'a>(models: &'a [Model], name: &str, namespace: Option<&str>) -> Option<&'a Model> {
    models.iter().find(|model| {
        model.metadata.name.as_deref() == Some(name) && model.metadata.namespace.as_deref() == namespace
    })
}

#[cfg(test)]
mod tests {
    use wharf_spec::{Document, Object, check};

    use super::*;

    fn read(text: &str) -> Objects {
        let mut objects = Objects::default();
        for document in Document::read("llm.yaml", text).unwrap() {
            match check(&document).0 {
                Some(Object::Service(object)) => {
                    objects.services.push(Written { object: *object, yaml: String::new() });
                }
                Some(Object::Model(model)) => objects.models.push(*model),
                other => panic!("{other:?}"),
            }
        }
        objects
    }

    const SERVICE: &str =
        "{apiVersion: wharf.dev/v1alpha1, kind: LLMService, metadata: {name: a}, spec: {model: {ref: m}}}\n";
    const MODEL: &str = "--- {apiVersion: wharf.dev/v1alpha1, kind: Model, metadata: {name: m}, spec: {source: 'hf://o/r', optimize: {quantize: q8_0}}}\n";

    #[test]
    fn a_service_gets_the_source_and_recipe_of_its_model() {
        let resolved = resolve(read(&format!("{SERVICE}{MODEL}"))).unwrap();
        let model = &resolved["a"].object.spec.model;
        assert_eq!(model.source.as_ref().unwrap().as_str(), "hf://o/r");
        assert!(model.reference.is_none() && model.optimize.is_some());
    }

    #[test]
    fn a_model_that_is_nowhere_and_a_name_that_is_twice_are_told() {
        let error = resolve(read(SERVICE)).unwrap_err();
        assert!(error.contains("a refers to the Model m"), "{error}");
        let twice = format!("{SERVICE}{MODEL}--- {SERVICE}");
        assert!(resolve(read(&twice)).unwrap_err().contains("two services a"));
    }
}
