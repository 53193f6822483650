//! The rights that following a cluster needs, beside the code that uses them: tests compare them with the calls that it makes.

use serde_json::{Value, json};

/// Watching is listing first.
const LOOK: [&str; 2] = ["list", "watch"];

/// Rules of the Role or ClusterRole of a gateway that follows a cluster ([`super::cluster`]).
///
/// `follow` is what it needs in every namespace that it follows. `keys` is for the Secrets that services name: with `resourceNames` they are all
/// that the gateway can read.
pub fn rights() -> Value {
    let rule = |group: &str, kind: &str| json!({"apiGroups": [group], "resources": [kind], "verbs": LOOK});
    json!({
        "follow": [rule("wharf.dev", "llmservices"), rule("discovery.k8s.io", "endpointslices"), rule("", "pods")],
        "keys": [rule("", "secrets")],
    })
}
