//! The rights of the server are those that it uses, no fewer and no more.

use serde_json::Value;
use wharf_fakes::cluster::{Call, allows};
use wharf_metrics_api::{Api, cluster_role, role_at_home};

use crate::support::{NAME, ROLE, SOON, World};

/// Asked of kubelets, not of the API server; the Secret is renewed a month before it ends; the ConfigMap is granted by Kubernetes' own Role.
const NOT_SEEN: [(&str, &str); 2] = [("nodes/metrics", "get"), ("secrets", "update")];

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_allow_what_is_called_and_nothing_else() {
    let world = World::start(&Api::ALL).await;
    let custom = "v1beta2.custom.metrics.k8s.io";
    // An APIService that is not as it should be is written again.
    let mut service = world.cluster.get("APIService", custom).unwrap();
    let own = service["spec"]["caBundle"].take();
    service["spec"]["caBundle"] = "AAAA".into();
    service["metadata"].as_object_mut().unwrap().remove("managedFields");
    service["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    service.as_object_mut().unwrap().remove("status");
    world.cluster.seed(service).await;
    let mended = |service: Option<&Value>| service.is_some_and(|service| service["spec"]["caBundle"] == own);
    world.cluster.await_object("APIService", custom, SOON, mended).await.unwrap();
    world.get("/apis/custom.metrics.k8s.io/v1beta2").await;
    if !world.cluster.is_real() {
        world.ask("/apis/custom.metrics.k8s.io/v1beta2", false, &[("Authorization", "Bearer x")]).await;
    }

    let mut rules = texts_of(&cluster_role(ROLE, &Api::ALL));
    rules.extend(texts_of(&role_at_home(ROLE, "wharf-system", "wharf-metrics-api")));
    let all = Value::Array(rules.clone());
    let calls = world.cluster.calls();
    let ours: Vec<&Call> = calls
        .iter()
        .filter(|call| call.user_agent == NAME && !call.verb.is_empty() && call.plural != "configmaps")
        .collect();
    let named = |call: &Call| format!("{} {} {}", call.verb, call.plural, call.name);
    let forbidden: Vec<String> =
        ours.iter().filter(|call| !allows(&all, call)).map(|call| named(call)).collect();
    assert_eq!(forbidden, [] as [String; 0], "the roles lack what is called");

    let mut unused = Vec::new();
    for rule in &rules {
        for resource in texts(&rule["resources"]) {
            for verb in texts(&rule["verbs"]) {
                let used = ours.iter().any(|call| call.verb == verb && call.plural == resource)
                    || NOT_SEEN.contains(&(resource.as_str(), verb.as_str()))
                    || resource == "tokenreviews" && world.cluster.is_real();
                if !used {
                    unused.push(format!("{verb} {resource}"));
                }
            }
        }
    }
    assert_eq!(unused, [] as [String; 0], "the roles allow what nobody uses");
}

fn texts_of(role: &Value) -> Vec<Value> {
    role["rules"].as_array().unwrap().clone()
}
