//! Whether roles allow what was called: a test asks it of every recorded call, so that a role that says too little is found. Pure.

use serde_json::Value;

use super::Call;

/// Whether the rules of a Role or ClusterRole allow a call. Discovery, which everybody may, is allowed.
pub fn allows(rules: &Value, call: &Call) -> bool {
    if call.verb.is_empty() {
        return true;
    }
    let resource =
        if call.part.is_empty() { call.plural.clone() } else { format!("{}/{}", call.plural, call.part) };
    rules.as_array().into_iter().flatten().any(|rule| {
        has(&rule["apiGroups"], &call.group)
            && has(&rule["resources"], &resource)
            && has(&rule["verbs"], call.verb)
            && names(rule, call)
    })
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array().into_iter().flatten().any(|item| item == "*" || item == wanted)
}

/// A rule for some names allows nothing of a collection.
fn names(rule: &Value, call: &Call) -> bool {
    let Some(names) = rule["resourceNames"].as_array().filter(|names| !names.is_empty()) else { return true };
    let of_query =
        call.path.split(['?', '&']).find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D"));
    let name = if call.name.is_empty() { of_query.unwrap_or("") } else { &call.name };
    names.iter().any(|allowed| allowed == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(verb: &'static str, name: &str, part: &str, path: &str) -> Call {
        Call {
            verb,
            group: "apps".to_owned(),
            plural: "deployments".to_owned(),
            kind: "Deployment".to_owned(),
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            part: part.to_owned(),
            path: path.to_owned(),
            user_agent: String::new(),
            body: Value::Null,
            code: 200,
        }
    }

    #[test]
    fn a_rule_allows_its_verbs_of_its_resources_by_its_names() {
        let rules = json!([
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
            {"apiGroups": ["*"], "resources": ["deployments/status"], "verbs": ["*"], "resourceNames": ["a"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["watch"], "resourceNames": ["a"]},
        ]);
        assert!(allows(&rules, &call("get", "x", "", "")));
        assert!(!allows(&rules, &call("delete", "x", "", "")));
        assert!(allows(&rules, &call("patch", "a", "status", "")));
        assert!(!allows(&rules, &call("patch", "b", "status", "")));
        assert!(!allows(&rules, &call("watch", "", "", "/x?watch=true")));
        assert!(allows(&rules, &call("watch", "", "", "/x?watch=true&fieldSelector=metadata.name%3Da")));
    }
}
