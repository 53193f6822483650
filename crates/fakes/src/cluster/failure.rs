//! Refusals, as the `Status` objects that Kubernetes clients read. Pure.

use serde_json::{Value, json};

use super::kinds::Kind;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, reason, message: message.into(), details: json!({}) }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(400, "BadRequest", message)
    }

    /// There is no such path.
    pub(crate) fn no_resource() -> Failure {
        Failure::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Failure {
        let message = format!("{} {name:?} not found", kind.qualified());
        Failure::new(404, "NotFound", message).about(kind, name)
    }

    pub(crate) fn method_not_allowed() -> Failure {
        Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Failure {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Failure::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, what: &str) -> Failure {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {what}", kind.qualified());
        Failure::new(409, "Conflict", message).about(kind, name)
    }

    /// Other managers own what an apply wants to change.
    pub(crate) fn apply_conflict(causes: &[Cause]) -> Failure {
        let (count, s) = (causes.len(), if causes.len() == 1 { "" } else { "s" });
        let list: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let message = format!("Apply failed with {count} conflict{s}: {}", list.join("; "));
        let mut failure = Failure::new(409, "Conflict", message);
        failure.details = json!({"causes": causes_json(causes)});
        failure
    }

    pub(crate) fn expired(message: &str) -> Failure {
        Failure::new(410, "Expired", message)
    }

    pub(crate) fn unsupported_media(content_type: &str) -> Failure {
        let message = format!("the body of the request was in an unknown format: {content_type}");
        Failure::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Failure {
        let list: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let message = format!("{} {name:?} is invalid: {}", kind.qualified_kind(), list.join(", "));
        let mut failure = Failure::new(422, "Invalid", message).about(kind, name);
        failure.details["causes"] = causes_json(causes);
        failure
    }

    fn about(mut self, kind: &Kind, name: &str) -> Failure {
        self.details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        self
    }

    /// The `Status` object.
    pub(crate) fn body(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}

fn causes_json(causes: &[Cause]) -> Value {
    let cause =
        |cause: &Cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field});
    causes.iter().map(cause).collect()
}

/// The `Status` object of something that went well.
pub(crate) fn success(details: &Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
