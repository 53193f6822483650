//! Server-side apply: what an object becomes when a manager says what it wants of it, and who owns what then. Pure.
//!
//! (Kubernetes documentation, "Server-Side Apply".) Differences from a real server: items of merged lists keep the order of the
//! live object, and new ones follow.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::failure::Cause;
use super::fields::{self, Fields, Path, Step};
use super::shape::{ListKind, Shape, identity};

/// Who writes, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

/// How fields came to be owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// Who owns what.
pub(crate) type Owners = BTreeMap<Manager, Fields>;

/// Whether an apply takes what others own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    No,
    Yes,
}

/// The object and its owners after `manager` has applied `wanted`; or who owns what it would have changed.
pub(crate) fn apply(
    live: &Value,
    wanted: &Value,
    owners: &Owners,
    manager: &Manager,
    force: Force,
    shape: Shape<'_>,
) -> Result<(Value, Owners), Vec<Cause>> {
    let mut merged = live.clone();
    merge(&mut merged, wanted, shape);
    let wants = fields::set(wanted, shape);
    let mut owners = owners.clone();
    let before = owners.remove(manager).unwrap_or_default();
    drop_unwanted(&mut merged, &before, &wants, &owners, shape);

    let (was, is) = (fields::leaves(live, shape), fields::leaves(&merged, shape));
    let changed = |path: &Path| is.contains_key(path) && was.get(path) != is.get(path);
    let mut causes = Vec::new();
    for (other, owned) in &mut owners {
        let lost: Vec<Path> =
            owned.iter().filter(|path| wants.contains(*path) && changed(path)).cloned().collect();
        if force == Force::Yes {
            lost.iter().for_each(|path| {
                owned.remove(path);
            });
        } else {
            causes.extend(lost.iter().map(|path| conflict(other, path)));
        }
        owned.retain(|path| is.contains_key(path));
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    owners.insert(manager.clone(), wants.into_iter().filter(|path| is.contains_key(path)).collect());
    owners.retain(|_, owned| !owned.is_empty());
    Ok((merged, owners))
}

fn conflict(other: &Manager, path: &[Step]) -> Cause {
    let subresource = match other.subresource.as_str() {
        "" => String::new(),
        name => format!(" with subresource {name:?}"),
    };
    let using = match other.operation {
        Operation::Apply => String::new(),
        Operation::Update => format!(" using {}", other.api_version),
    };
    Cause {
        reason: "FieldManagerConflict",
        field: fields::display(path),
        message: format!("conflict with {:?}{subresource}{using}", other.name),
    }
}

/// Owners after `manager` has changed `live` to `new` by anything but apply: it owns what it changed.
pub(crate) fn update(
    live: &Value,
    new: &Value,
    owners: &Owners,
    manager: &Manager,
    shape: Shape<'_>,
) -> Owners {
    let (was, is) = (fields::leaves(live, shape), fields::leaves(new, shape));
    let changed: Fields = is
        .iter()
        .filter(|(path, value)| was.get(*path) != Some(value))
        .map(|(path, _)| path.clone())
        .collect();
    // A scale is tracked from somebody's replicas on: while nobody owns them, whoever scales does not either.
    let nobodys = !owners.values().any(|owned| owned.iter().any(|path| changed.contains(path)));
    let tracked = manager.subresource != "scale" || !nobodys;
    let mut owners = owners.clone();
    for (other, owned) in &mut owners {
        owned.retain(|path| {
            (is.contains_key(path) || is_map(path) && holds_some(&is, path))
                && (other == manager || !changed.contains(path))
        });
    }
    if !changed.is_empty() && tracked {
        let made: Fields = changed.iter().filter_map(map_of).filter(|map| !holds_some(&was, map)).collect();
        let owned = owners.entry(manager.clone()).or_default();
        owned.extend(changed);
        owned.extend(made);
    }
    owners.retain(|_, owned| !owned.is_empty());
    owners
}

/// Fields that are maps with keys of the writer's: whoever makes one by anything but apply owns it too, not its values alone.
const MAPS: [&str; 3] = ["labels", "annotations", "data"];

fn is_map(path: &Path) -> bool {
    matches!(path.last(), Some(Step::Field(name)) if MAPS.contains(&name.as_str()))
}

/// The map that a path is in.
fn map_of(path: &Path) -> Option<Path> {
    let around = path.split_last()?.1.to_vec();
    is_map(&around).then_some(around)
}

fn holds_some(leaves: &BTreeMap<Path, Value>, map: &Path) -> bool {
    leaves.keys().any(|path| path.len() > map.len() && path.starts_with(map))
}

/// Puts `wanted` into `live`, removing nothing.
fn merge(live: &mut Value, wanted: &Value, shape: Shape<'_>) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) if !shape.is_atomic_map() => {
            for (name, value) in wanted {
                match live.get_mut(name) {
                    Some(present) => merge(present, value, shape.field(name)),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(wanted)) if shape.list() != ListKind::Atomic => {
            let kind = shape.list();
            for item in wanted {
                let id = identity(&kind, item);
                match live.iter_mut().find(|present| id.is_some() && identity(&kind, present) == id) {
                    Some(present) => merge(present, item, shape.items()),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

/// Removes what the manager applied before, does not want any more, and nobody else owns.
fn drop_unwanted(object: &mut Value, before: &Fields, wants: &Fields, others: &Owners, shape: Shape<'_>) {
    let is_others = |path: &Path| others.values().any(|owned| owned.contains(path));
    let holds_others = |path: &Path| others.values().any(|owned| starts_under(owned, path));
    for path in before {
        let still_wanted = starts_under(wants, path);
        if still_wanted || is_others(path) {
            continue;
        }
        let is_item = matches!(path.last(), Some(Step::Key(_)));
        if is_item && holds_others(path) {
            continue;
        }
        remove(object, path, shape);
    }
}

/// Whether a set has this place, or one inside of it.
fn starts_under(fields: &Fields, path: &Path) -> bool {
    fields.range(path.clone()..).next().is_some_and(|next| next.starts_with(path))
}

/// Removes what is at a path, and maps and lists that are empty for it.
fn remove(value: &mut Value, path: &[Step], shape: Shape<'_>) {
    let Some((first, rest)) = path.split_first() else { return };
    match (value, first) {
        (Value::Object(map), Step::Field(name)) => {
            let Some(inner) = map.get_mut(name) else { return };
            if !rest.is_empty() {
                remove(inner, rest, shape.field(name));
            }
            if rest.is_empty() || is_empty(inner) {
                map.remove(name);
            }
        }
        (Value::Array(items), Step::Key(_) | Step::Value(_)) => {
            let kind = shape.list();
            let place = items.iter().position(|item| {
                identity(&kind, item).is_some_and(|identity| fields::step(&kind, &identity) == *first)
            });
            let Some(place) = place else { return };
            if rest.is_empty() {
                items.remove(place);
            } else {
                remove(&mut items[place], rest, shape.items());
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The owners that an object's `metadata.managedFields` tell of.
pub(crate) fn owners(object: &Value) -> Owners {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let entry = |entry: &Value| {
        let manager = Manager {
            name: text(&entry["manager"]),
            operation: if entry["operation"] == "Apply" { Operation::Apply } else { Operation::Update },
            api_version: text(&entry["apiVersion"]),
            subresource: text(&entry["subresource"]),
        };
        (manager, fields::from_json(&entry["fieldsV1"]))
    };
    entries.map(entry).collect()
}

/// Writes owners into an object. Entries that say the same as before keep their time.
pub(crate) fn set_owners(object: &mut Value, owners: &Owners, now: &str) {
    let before = object["metadata"]["managedFields"].take();
    let mut entries = Vec::new();
    for (manager, owned) in owners {
        let mut entry = Map::new();
        entry.insert("manager".to_owned(), manager.name.clone().into());
        let operation = match manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        entry.insert("operation".to_owned(), operation.into());
        entry.insert("apiVersion".to_owned(), manager.api_version.clone().into());
        entry.insert("fieldsType".to_owned(), "FieldsV1".into());
        entry.insert("fieldsV1".to_owned(), fields::to_json(owned));
        if !manager.subresource.is_empty() {
            entry.insert("subresource".to_owned(), manager.subresource.clone().into());
        }
        let same = |old: &&Value| entry.iter().all(|(name, value)| old[name] == *value);
        let time = before.as_array().into_iter().flatten().find(same).map(|old| old["time"].clone());
        entry.insert("time".to_owned(), time.unwrap_or_else(|| now.into()));
        entries.push(Value::Object(entry));
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), entries.into());
        }
    }
}

#[cfg(test)]
mod tests;
