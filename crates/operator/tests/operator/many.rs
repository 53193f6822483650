//! Many services at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{SOON, World, condition, of_operator, spec, writes};

/// As many as a test can afford beside others; what each costs does not depend on how many there are.
const SERVICES: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn many_services_come_up_and_a_new_operator_writes_nothing() {
    let world = World::without_operator().await;
    *world.longest.lock().unwrap() = Duration::from_secs(10);
    for number in 0..SERVICES {
        world
            .service(&format!("service-{number}"), &spec(json!({"rollout": {"warmup": {"prompts": 0}}})))
            .await;
    }
    world.start_operator();
    let is_ready = |service: &Value| {
        condition(service, "Ready")["status"] == "True"
            && condition(service, "Progressing")["status"] == "False"
    };
    let all = |cluster: &wharf_fakes::stage::Stage| cluster.list("LLMService").iter().all(is_ready);
    assert!(world.cluster.until(SOON * 2, all).await);
    assert!(world.cluster.settle(Duration::from_millis(500), SOON).await);
    world.kill_operator().await;
    world.cluster.forget_calls();
    *world.longest.lock().unwrap() = Duration::from_millis(500);
    world.start_operator();
    // It has listed everything and looked at it, several times.
    let listed = |cluster: &wharf_fakes::stage::Stage| {
        let calls = cluster.calls();
        calls
            .iter()
            .any(|call| call.user_agent == "operator" && call.verb == "watch" && call.plural == "llmservices")
    };
    let listed = async {
        while !listed(&world.cluster) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, listed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(writes(&world.cluster.calls()), [] as [String; 0]);
    // It looks at objects all the time, and asks the API server nothing: its watches tell.
    let idle = async {
        loop {
            world.cluster.forget_calls();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if of_operator(&world.cluster.calls()).next().is_none() {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, idle).await.expect("two seconds come in which nothing is asked");
}
