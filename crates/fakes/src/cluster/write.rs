//! Creates and changes objects: what a write may do, what the server fills in, and who owns what after it.
//!
//! Every write goes through [`Store::write`]; what a client may propose is decided in `propose`, the rules of single fields are in
//! `rules`, deletion is in `remove`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::apply::{self, Force, Operation};
use super::failure::{Cause, Failure};
use super::kinds::Kind;
use super::patch::PatchKind;
use super::rules;
use super::store::{Id, Store};

/// What is written to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// As the client names it.
    pub(crate) version: String,
    pub(crate) id: Id,
    pub(crate) part: Part,
}

/// Which part of an object a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Status,
    Scale,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Whole => "",
            Part::Status => "status",
            Part::Scale => "scale",
        }
    }
}

/// Who writes.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    /// Whether unknown fields are refused, not dropped.
    pub(crate) strict: bool,
}

/// What is written.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    Create(Value),
    Replace(Value),
    Patch(PatchKind, Value),
    Apply(Value, Force),
}

/// What became of a write.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Value>,
    pub(crate) created: bool,
}

impl Store {
    /// Writes an object, or says why not.
    pub(crate) fn write(
        &mut self,
        target: &Target,
        intent: Intent,
        writer: &Writer,
    ) -> Result<Written, Failure> {
        let mut target = target.clone();
        if let Intent::Create(body) = &intent {
            self.name(&mut target, body)?;
        }
        let live = self.get(&target.id).cloned();
        self.check_presence(&target, &intent, live.as_deref())?;
        let created = live.is_none();
        let before = live.as_deref().cloned().unwrap_or_else(|| target.blank());
        let (mut new, owners) = target.propose(&before, live.as_deref(), intent, writer)?;
        match live.as_deref() {
            Some(live) => target.keep_system_fields(live, &mut new)?,
            None => self.begin(&target, &mut new),
        }
        rules::fill_in(&target.kind, live.as_deref(), &mut new);
        let schema = target.kind.schema(&target.version).cloned();
        let dropped = schema.as_deref().map(|schema| schema.prune_and_default(&mut new)).unwrap_or_default();
        if writer.strict && !dropped.is_empty() {
            let unknown: Vec<String> =
                dropped.iter().map(|field| format!("unknown field {field:?}")).collect();
            return Err(Failure::bad_request(format!("strict decoding error: {}", unknown.join(", "))));
        }
        let causes = rules::check(&target.kind, schema.as_deref(), live.as_deref(), &mut new);
        if !causes.is_empty() {
            return Err(Failure::invalid(&target.kind, &target.id.name, &causes));
        }
        let shape = target.shape(schema.as_deref());
        let owners = match owners {
            Some(owners) => owners,
            None => {
                let blank = json!({});
                let was = live.as_deref().unwrap_or(&blank);
                apply::update(
                    was,
                    &new,
                    &apply::owners(&before),
                    &target.manager(writer, Operation::Update),
                    shape,
                )
            }
        };
        apply::set_owners(&mut new, &owners, &now());
        if let Some(live) = live {
            target.bump_generation(&live, &mut new);
            if *live == new {
                return Ok(Written { object: live, created });
            }
        }
        if writer.dry_run {
            return Ok(Written { object: Arc::new(new), created });
        }
        let object = self.put(&target.id, new);
        self.after_write(&target.id, &object);
        Ok(Written { object, created })
    }

    /// Finds the name of an object that is to be created.
    fn name(&mut self, target: &mut Target, body: &Value) -> Result<(), Failure> {
        let metadata = &body["metadata"];
        let given = metadata["name"].as_str().unwrap_or("");
        let prefix = metadata["generateName"].as_str().unwrap_or("");
        target.id.name = match (given, prefix) {
            ("", "") => {
                let cause = Cause {
                    reason: "FieldValueRequired",
                    field: "metadata.name".to_owned(),
                    message: "Required value: name or generateName is required".to_owned(),
                };
                return Err(Failure::invalid(&target.kind, "", &[cause]));
            }
            ("", prefix) => format!("{prefix}{}", suffix(self.next_number())),
            (given, _) => given.to_owned(),
        };
        Ok(())
    }

    fn check_presence(&self, target: &Target, intent: &Intent, live: Option<&Value>) -> Result<(), Failure> {
        let Target { kind, id, .. } = target;
        match (intent, live) {
            (Intent::Create(_), Some(_)) => return Err(Failure::already_exists(kind, &id.name)),
            (Intent::Replace(_) | Intent::Patch(..), None) => return Err(Failure::not_found(kind, &id.name)),
            (Intent::Apply(..), None) if target.part != Part::Whole => {
                return Err(Failure::not_found(kind, &id.name));
            }
            (_, Some(_)) => return Ok(()),
            (Intent::Create(_) | Intent::Apply(..), None) => {}
        }
        if let Some(cause) = rules::bad_name(kind, &id.name) {
            return Err(Failure::invalid(kind, &id.name, &[cause]));
        }
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = self.kind("", "namespaces").expect("the table has namespaces");
        let namespace = Id { kind: namespaces.key(), namespace: String::new(), name: id.namespace.clone() };
        match self.get(&namespace) {
            None => Err(Failure::not_found(namespaces, &id.namespace)),
            Some(namespace) if !namespace["metadata"]["deletionTimestamp"].is_null() => {
                let message = format!(
                    "unable to create new content in namespace {} because it is being terminated",
                    id.namespace
                );
                Err(Failure::new(403, "Forbidden", message))
            }
            Some(_) => Ok(()),
        }
    }

    /// Fills in what only the server knows of a new object.
    fn begin(&mut self, target: &Target, new: &mut Value) {
        let number = self.next_number();
        if !new["metadata"].is_object() {
            new["metadata"] = json!({});
        }
        let metadata = &mut new["metadata"];
        metadata["name"] = target.id.name.clone().into();
        if target.kind.namespaced {
            metadata["namespace"] = target.id.namespace.clone().into();
        }
        metadata["uid"] = format!("00000000-0000-4000-8000-{number:012x}").into();
        metadata["creationTimestamp"] = now().into();
        if let Some(metadata) = metadata.as_object_mut() {
            for server_only in
                ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"]
            {
                metadata.remove(server_only);
            }
        }
        let counts = match target.kind.kind.as_str() {
            "Lease" => false,
            "EndpointSlice" => true,
            _ => target.kind.custom || (!target.kind.group.is_empty() && new["spec"].is_object()),
        };
        if counts {
            new["metadata"]["generation"] = 1.into();
        }
        if target.kind.status
            && let Some(object) = new.as_object_mut()
        {
            object.remove("status");
        }
        rules::begin(&target.kind, new, number);
    }
}

/// Sets or removes a field of a map.
pub(crate) fn set(map: &mut Value, field: &str, value: Option<Value>) {
    match (map.as_object_mut(), value) {
        (Some(map), Some(value)) => {
            map.insert(field.to_owned(), value);
        }
        (Some(map), None) => {
            map.shift_remove(field);
        }
        (None, _) => {}
    }
}

/// Five letters that differ for different numbers.
fn suffix(mut number: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let base = LETTERS.len() as u64;
    let mut text = String::new();
    for _ in 0..5 {
        let index = usize::try_from(number % base).expect("less than 27");
        text.insert(0, char::from(LETTERS[index]));
        number /= base;
    }
    text
}

/// The time, as objects have it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
