//! The rights of the gateway are those that it uses, no fewer and no more; and those that the chart gives it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf_fakes::cluster::{Call, allows};
use wharf_gateway::discover;

use crate::support::{NAME, World, engine, until};

/// Calls of the gateway.
fn calls(world: &World) -> Vec<Call> {
    let ours = |call: &Call| call.user_agent == NAME && !call.verb.is_empty();
    world.cluster.calls().into_iter().filter(ours).collect()
}

/// `verb resource` of every rule.
fn allowed(rules: &Value) -> BTreeSet<String> {
    let texts = |value: &Value| {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let rules = rules.as_array().unwrap().iter();
    rules
        .flat_map(|rule| {
            let resources = texts(&rule["resources"]);
            texts(&rule["verbs"])
                .into_iter()
                .flat_map(move |verb| resources.clone().into_iter().map(move |one| format!("{verb} {one}")))
        })
        .collect()
}

#[tokio::test]
async fn a_gateway_needs_what_its_rights_allow_and_only_the_secrets_that_are_named() {
    let world = World::start(&[]).await;
    let engine = engine("e0").await;
    world.service("demo", "assistant", json!({"access": {"apiKeys": {"secretName": "assistant-keys"}}}));
    world.pod("demo", "assistant", "assistant-1", "blue", &engine);
    world.ready("demo/assistant", 1).await;
    until("the Secret is watched", || {
        calls(&world).iter().any(|call| call.plural == "secrets" && call.verb == "watch")
    })
    .await;

    let mut rules = discover::rights()["follow"].as_array().unwrap().clone();
    let mut keys = discover::rights()["keys"].as_array().unwrap().clone();
    keys.iter_mut().for_each(|rule| rule["resourceNames"] = json!(["assistant-keys"]));
    rules.append(&mut keys);
    let rules = Value::Array(rules);
    let made = calls(&world);
    let forbidden: Vec<&Call> = made.iter().filter(|call| !allows(&rules, call)).collect();
    assert!(forbidden.is_empty(), "the rights lack {forbidden:?}");
    let used: BTreeSet<String> = made.iter().map(|call| format!("{} {}", call.verb, call.plural)).collect();
    assert_eq!(allowed(&rules), used, "the rights allow what nobody uses");
}

#[test]
fn the_chart_has_the_rights_of_the_gateway() {
    let rights = serde_saphyr::to_string(&discover::rights()).unwrap();
    let head = "# The gateway's rights, from crates/gateway/src/discover/rights.rs: UPDATE_EXPECT=1 cargo test -p wharf-gateway --test discover\n";
    expect_test::expect_file!["../../../../deploy/helm/wharf/files/gateway-rules.yaml"]
        .assert_eq(&format!("{head}{rights}"));
}
