//! What the server says of itself: groups, versions, kinds. Pure.

use serde_json::{Value, json};

use super::kinds::{Kind, Version};

pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "fake", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "none", "platform": "linux/amd64",
    })
}

pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

pub(crate) fn groups(kinds: &[Kind]) -> Value {
    let mut names: Vec<&str> =
        kinds.iter().map(|kind| kind.group.as_str()).filter(|group| !group.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let groups: Vec<Value> = names.iter().filter_map(|name| group(kinds, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(crate) fn group(kinds: &[Kind], name: &str) -> Option<Value> {
    let mut versions: Vec<&str> = kinds
        .iter()
        .filter(|kind| kind.group == name)
        .flat_map(|kind| &kind.versions)
        .map(|v| v.name.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let entry = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let preferred = kinds.iter().find(|kind| kind.group == name)?.preferred();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(), "preferredVersion": entry(&preferred),
    }))
}

pub(crate) fn resources(kinds: &[Kind], group: &str, version: &str) -> Option<Value> {
    let serves = |known: &Version| known.name == version;
    let here: Vec<&Kind> =
        kinds.iter().filter(|kind| kind.group == group && kind.versions.iter().any(serves)).collect();
    let first = here.first()?;
    let group_version = first.api_version(version);
    let resources: Vec<Value> = here.iter().flat_map(|kind| entries(kind)).collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}),
    )
}

fn entries(kind: &Kind) -> Vec<Value> {
    let verbs: &[&str] = if kind.review {
        &["create"]
    } else {
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    };
    let mut entries = vec![json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": verbs, "shortNames": kind.short, "categories": kind.categories,
    })];
    let part = |name: &str, group: &str, version: &str, shown: &str| {
        json!({
            "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "group": group, "version": version, "kind": shown, "verbs": ["get", "patch", "update"],
        })
    };
    if kind.status {
        entries.push(part("status", &kind.group, kind.preferred(), &kind.kind));
    }
    if kind.kind == "Pod" && !kind.custom {
        for (name, group, version, shown) in
            [("eviction", "policy", "v1", "Eviction"), ("binding", "", "v1", "Binding")]
        {
            let mut entry = part(name, group, version, shown);
            entry["verbs"] = json!(["create"]);
            entries.push(entry);
        }
    }
    if kind.scale.is_some() {
        entries.push(part("scale", "autoscaling", "v1", "Scale"));
    }
    entries
}

/// Where the paths of each version are described.
pub(crate) fn schemas(kinds: &[Kind]) -> Value {
    let mut paths = serde_json::Map::new();
    for kind in kinds {
        for version in &kind.versions {
            let path = root(kind, &version.name);
            let address = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            paths.insert(path, address);
        }
    }
    json!({"paths": paths})
}

/// The paths of a version: enough for `kubectl` to see that the server looks at fields itself.
pub(crate) fn schema(kinds: &[Kind], group: &str, version: &str) -> Option<Value> {
    let here =
        kinds.iter().filter(|kind| kind.group == group && kind.versions.iter().any(|v| v.name == version));
    let mut paths = serde_json::Map::new();
    for kind in here {
        let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let parameters = json!([{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]);
        let operation = json!({
            "parameters": parameters, "responses": {},
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind.kind},
        });
        let path = format!("/{}/{scope}{}", root(kind, version), kind.plural);
        paths.insert(format!("{path}/{{name}}"), json!({"patch": operation, "put": operation}));
        paths.insert(path, json!({"post": operation}));
    }
    (!paths.is_empty())
        .then(|| json!({"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}))
}

fn root(kind: &Kind, version: &str) -> String {
    if kind.group.is_empty() { format!("api/{version}") } else { format!("apis/{}/{version}", kind.group) }
}
