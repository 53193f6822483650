//! The examples and what they are rendered to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use wharf_api::config::{ConfigFiles, PartialConfig, SourceFile, resolve};

use super::*;

/// Name and text of every example.
pub(super) fn all() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// What an example is rendered to, where `mode` can render it.
pub(super) fn rendered(text: &str, mode: Mode) -> Vec<Value> {
    let settings = Settings::default();
    let mut objects = Vec::new();
    for object in parse("example", text) {
        match object {
            Object::Service(service) => {
                let state = State::fresh(&service);
                objects.extend(crate::service(&service, &state, &settings, mode).unwrap_or_default());
            }
            Object::Model(model) => objects.extend(crate::model(&model, &settings, mode)),
            Object::Foreign(..) => {}
        }
    }
    objects
}

#[test]
fn every_example_is_without_any_problem() {
    for (name, text) in all() {
        for document in Document::read(&name, &text).unwrap() {
            let (_, problems) = check(&document);
            assert_eq!(problems, [], "{name}");
        }
    }
}

#[test]
fn every_example_is_rendered_as_it_was() {
    for (name, text) in all() {
        let managed = crate::print_yaml(&rendered(&text, Mode::Managed));
        expect_file![format!("../../testdata/{name}.yaml")].assert_eq(&managed);
        let standalone = crate::print_yaml(&rendered(&text, Mode::Standalone));
        if !standalone.is_empty() {
            expect_file![format!("../../testdata/{name}.standalone.yaml")].assert_eq(&standalone);
        }
    }
}

#[test]
fn what_needs_the_gateway_or_the_operator_is_refused_without_them() {
    let path = |spec: &str| {
        let service = service(spec);
        let rendered =
            crate::service(&service, &State::fresh(&service), &Settings::default(), Mode::Standalone);
        rendered.unwrap_err().path
    };
    assert_eq!(path("{model: {ref: other}}"), "spec.model.ref");
    assert_eq!(path("{model: {source: hf://a/b}, scaling: {min: 0}}"), "spec.scaling.min");
    assert_eq!(path("{model: {source: hf://a/b}, access: {limits: {concurrent: 3}}}"), "spec.access.limits");
    assert_eq!(path("{model: {source: file:///a.gguf}}"), "spec.model.source");
}

#[test]
fn the_server_understands_the_configuration_that_it_is_given() {
    for (name, text) in all() {
        for object in rendered(&text, Mode::Standalone).iter().chain(&rendered(&text, Mode::Managed)) {
            if object["kind"] != "ConfigMap" {
                continue;
            }
            let file = |name: &str| {
                let text = object["data"][name].as_str().unwrap().to_owned();
                Some(SourceFile { path: PathBuf::from(name), text })
            };
            let files = ConfigFiles { server: file("server_config.yaml"), model: file("model_config.json") };
            let config = resolve(&files, &BTreeMap::new(), &PartialConfig::default());
            let config = config.unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            assert!(config.model_path.unwrap().starts_with("/models"), "{name}");
        }
    }
}
