//! What a client proposes an object to be, as far as the part that it writes to lets it, and what it cannot change at all. Pure.

use serde_json::{Value, json};

use super::apply::{self, Manager, Operation, Owners};
use super::failure::{Cause, Failure};
use super::patch::patch;
use super::schema::Schema;
use super::shape::Shape;
use super::write::{Intent, Part, Target, Writer, set};

impl Target {
    pub(super) fn shape<'a>(&'a self, schema: Option<&'a Schema>) -> Shape<'a> {
        if self.kind.custom && schema.is_none() {
            // Another project's kind, of which we know no schema.
            return Shape::Schema(None);
        }
        Shape::of(&self.kind.kind, schema.map(Schema::raw))
    }

    pub(super) fn manager(&self, writer: &Writer, operation: Operation) -> Manager {
        Manager {
            name: writer.manager.clone(),
            operation,
            api_version: self.kind.api_version(&self.version),
            subresource: self.part.name().to_owned(),
        }
    }

    /// An object before anybody has said anything of it.
    pub(super) fn blank(&self) -> Value {
        json!({"apiVersion": self.kind.api_version(&self.version), "kind": self.kind.kind, "metadata": {"name": self.id.name}})
    }

    /// What the client wants the object to be, and for an apply who then owns it.
    pub(super) fn propose(
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
    pub(super) fn keep_system_fields(&self, live: &Value, new: &mut Value) -> Result<(), Failure> {
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
    pub(super) fn bump_generation(&self, live: &Value, new: &mut Value) {
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
