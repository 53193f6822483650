//! The account that pods run as, which may do nothing, and what viewers may look at.

use serde_json::{Value, json};
use wharf_spec::service::ViewerKind;

use crate::facts::Facts;
use crate::names::{self, SERVICE};

/// Name of the account of the model pods and Jobs.
pub(super) fn account(facts: &Facts<'_>) -> String {
    let theirs = facts.spec.runtime.service_account.as_ref();
    theirs.map_or_else(|| facts.name.to_owned(), ToString::to_string)
}

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    let object = |api: &str, kind: &str, name: &str| {
        names::object(api, kind, name, facts.namespace, names::labels(SERVICE, facts.name))
    };
    let mut objects = Vec::new();
    if facts.spec.runtime.service_account.is_none() {
        let mut account = object("v1", "ServiceAccount", facts.name);
        account["automountServiceAccountToken"] = false.into();
        objects.push(account);
    }
    let viewers = &facts.spec.access.viewers;
    if viewers.is_empty() {
        return objects;
    }
    let name = names::child(facts.name, "viewers");
    let mut role = object("rbac.authorization.k8s.io/v1", "Role", &name);
    let look = json!(["get", "list", "watch"]);
    role["rules"] = json!([
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": look},
        {"apiGroups": ["wharf.dev"], "resources": ["llmservices", "models"], "verbs": look},
    ]);
    let mut binding = object("rbac.authorization.k8s.io/v1", "RoleBinding", &name);
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    let subjects = viewers.iter().map(|viewer| match viewer.kind {
        ViewerKind::ServiceAccount => {
            let mut subject = json!({"kind": "ServiceAccount", "name": viewer.name});
            // Without a namespace the API server refuses the subject, so the service's own must be known.
            let namespace = viewer.namespace.as_deref().or(facts.namespace).unwrap_or("default");
            subject["namespace"] = namespace.into();
            subject
        }
        ViewerKind::User | ViewerKind::Group => {
            json!({"kind": viewer.kind.name(), "name": viewer.name, "apiGroup": "rbac.authorization.k8s.io"})
        }
    });
    binding["subjects"] = subjects.collect();
    objects.extend([role, binding]);
    objects
}
