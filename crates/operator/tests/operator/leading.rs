//! Of several operators one works.

use serde_json::json;

use crate::support::{SOON, World, spec};

fn holder(world: &World) -> String {
    let lease = world.cluster.get("Lease", "wharf-system/wharf-operator").unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_operator_works_when_the_first_is_gone() {
    let world = World::without_operator().await;
    let first = world.operator(Some("first"));
    assert!(world.cluster.until(SOON, |_| holder(&world) == "first").await);
    let second = world.operator(Some("second"));
    world.service("assistant", &spec(json!({}))).await;
    world.ready("assistant").await;
    assert_eq!(holder(&world), "first");
    // Killed, it does not give the Lease back: it runs out.
    first.abort();
    assert!(world.cluster.until(SOON, |_| holder(&world) == "second").await);
    world.service("another", &spec(json!({}))).await;
    world.ready("another").await;
    let lease = world.cluster.get("Lease", "wharf-system/wharf-operator").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    second.abort();
}
