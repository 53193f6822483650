//! Creates and changes objects: what a write may do, what the server fills in, and who owns what after it.
//!
//! Every write goes through [`Store::write`]; the rules of single fields are in `rules`, deletion is in `remove`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::apply::{self, Force, Manager, Operation, Owners};
use super::failure::{Cause, Failure};
use super::kinds::Kind;
use super::patch::{PatchKind, patch};
use super::rules;
use super::shape::Shape;
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
    fn name(self) -> &'static str {
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
        let schema = target.kind.schema(&target.version).cloned();
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
        if target.kind.custom || (!target.kind.group.is_empty() && new["spec"].is_object()) {
            new["metadata"]["generation"] = 1.into();
        }
        if target.kind.status
            && let Some(object) = new.as_object_mut()
        {
            object.remove("status");
        }
        rules::fill_in(&target.kind, new, number);
    }
}

impl Target {
    fn shape<'a>(&'a self, schema: Option<&'a Value>) -> Shape<'a> {
        if self.kind.custom && schema.is_none() {
            // Another project's kind, of which we know no schema.
            return Shape::Schema(None);
        }
        Shape::of(&self.kind.kind, schema)
    }

    fn manager(&self, writer: &Writer, operation: Operation) -> Manager {
        Manager {
            name: writer.manager.clone(),
            operation,
            api_version: self.kind.api_version(&self.version),
            subresource: self.part.name().to_owned(),
        }
    }

    /// An object before anybody has said anything of it.
    fn blank(&self) -> Value {
        json!({"apiVersion": self.kind.api_version(&self.version), "kind": self.kind.kind, "metadata": {"name": self.id.name}})
    }

    /// What the client wants the object to be, and for an apply who then owns it.
    fn propose(
        &self,
        before: &Value,
        live: Option<&Value>,
        intent: Intent,
        writer: &Writer,
    ) -> Result<(Value, Option<Owners>), Failure> {
        let schema = self.kind.schema(&self.version).cloned();
        let shape = self.shape(schema.as_deref());
        match intent {
            Intent::Create(body) => {
                self.check_identity(&body)?;
                Ok((body, None))
            }
            Intent::Replace(body) => {
                self.check_identity(&body)?;
                let version = &body["metadata"]["resourceVersion"];
                if self.kind.custom && version.as_str().unwrap_or("").is_empty() {
                    let cause = Cause {
                        reason: "FieldValueInvalid",
                        field: "metadata.resourceVersion".to_owned(),
                        message: "Invalid value: 0x0: must be specified for an update".to_owned(),
                    };
                    return Err(Failure::invalid(&self.kind, &self.id.name, &[cause]));
                }
                self.check_version(live, &body)?;
                Ok((self.confine(before, body), None))
            }
            Intent::Patch(kind, body) => {
                let new = patch(before, kind, &body, shape)?;
                self.check_version(live, &new)?;
                Ok((self.confine(before, new), None))
            }
            Intent::Apply(wanted, force) => {
                self.check_identity(&wanted)?;
                if !wanted["metadata"]["managedFields"].is_null() {
                    return Err(Failure::bad_request("metadata.managedFields must be nil"));
                }
                self.check_version(live, &wanted)?;
                let wanted = self.confine_wish(wanted);
                let manager = self.manager(writer, Operation::Apply);
                let (new, owners) =
                    apply::apply(before, &wanted, &apply::owners(before), &manager, force, shape)
                        .map_err(|causes| Failure::apply_conflict(&causes))?;
                Ok((new, Some(owners)))
            }
        }
    }

    /// A body must be about the object that the path names.
    fn check_identity(&self, body: &Value) -> Result<(), Failure> {
        let expected = self.kind.api_version(&self.version);
        let says =
            |at: &Value, expected: &str| at.as_str().is_none_or(|text| text.is_empty() || text == expected);
        if !says(&body["apiVersion"], &expected) || !says(&body["kind"], &self.kind.kind) {
            return Err(Failure::bad_request(format!(
                "the object is a {} {} and the path names {expected} {}",
                body["apiVersion"], body["kind"], self.kind.kind
            )));
        }
        let metadata = &body["metadata"];
        if !says(&metadata["name"], &self.id.name) || !says(&metadata["namespace"], &self.id.namespace) {
            return Err(Failure::bad_request(format!(
                "the object is {}/{} and the path names {}/{}",
                metadata["namespace"], metadata["name"], self.id.namespace, self.id.name
            )));
        }
        Ok(())
    }

    /// Optimistic locking, where the client asks for it.
    fn check_version(&self, live: Option<&Value>, body: &Value) -> Result<(), Failure> {
        let Some(live) = live else { return Ok(()) };
        let differs = |field: &str| {
            let given = body["metadata"][field].as_str().unwrap_or("");
            !given.is_empty() && given != live["metadata"][field]
        };
        if differs("resourceVersion") {
            let what =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Failure::conflict(&self.kind, &self.id.name, what));
        }
        if differs("uid") {
            let what = "Precondition failed: UID in precondition does not match UID in object meta";
            return Err(Failure::conflict(&self.kind, &self.id.name, what));
        }
        Ok(())
    }

    /// Leaves of a change only what this part of the object may change.
    fn confine(&self, live: &Value, mut new: Value) -> Value {
        match self.part {
            Part::Whole if self.kind.status => {
                set(&mut new, "status", live.get("status").cloned());
                new
            }
            Part::Whole | Part::Scale => new,
            Part::Status => {
                let mut confined = live.clone();
                set(&mut confined, "status", new.get("status").cloned());
                confined
            }
        }
    }

    fn confine_wish(&self, mut wanted: Value) -> Value {
        let Some(object) = wanted.as_object_mut() else { return wanted };
        match self.part {
            Part::Whole if self.kind.status => {
                object.remove("status");
            }
            Part::Whole | Part::Scale => {}
            Part::Status => object.retain(|name, _| name == "status"),
        }
        wanted
    }

    /// Puts back what clients cannot change.
    fn keep_system_fields(&self, live: &Value, new: &mut Value) -> Result<(), Failure> {
        if !new["metadata"].is_object() {
            new["metadata"] = json!({});
        }
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "managedFields",
            "generateName",
        ] {
            let value = live["metadata"].get(field).cloned();
            set(&mut new["metadata"], field, value);
        }
        new["apiVersion"] = live["apiVersion"].clone();
        new["kind"] = live["kind"].clone();
        let had = &live["metadata"]["finalizers"];
        let added = new["metadata"]["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|finalizer| !had.as_array().is_some_and(|had| had.contains(finalizer)));
        match added {
            Some(_) if !live["metadata"]["deletionTimestamp"].is_null() => {
                let cause = Cause {
                    reason: "FieldValueForbidden",
                    field: "metadata.finalizers".to_owned(),
                    message: "Forbidden: no new finalizers can be added if the object is being deleted"
                        .to_owned(),
                };
                Err(Failure::invalid(&self.kind, &self.id.name, &[cause]))
            }
            _ => Ok(()),
        }
    }

    /// The generation counts changes of what is wanted: of anything but metadata and status.
    fn bump_generation(&self, live: &Value, new: &mut Value) {
        let wish = |object: &Value| {
            let mut object = object.clone();
            set(&mut object, "metadata", None);
            set(&mut object, "status", None);
            object
        };
        if let Some(generation) = live["metadata"]["generation"].as_i64()
            && wish(live) != wish(new)
        {
            new["metadata"]["generation"] = (generation + 1).into();
        }
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
