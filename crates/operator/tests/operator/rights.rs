//! The rights of the operator are those that it uses and hands on, no fewer and no more.

use serde_json::{Value, json};
use wharf_fakes::actors::Fate;
use wharf_fakes::cluster::{Call, allows};
use wharf_fakes::stage::Stage;

use crate::support::{SOON, World, condition, of_operator, spec};

/// Deleted with their owner alone as long as every service has them, so never by the operator; and what only some clusters ask for.
const NOT_SEEN: [(&str, &str); 4] = [
    ("networkpolicies", "delete"),
    ("poddisruptionbudgets", "delete"),
    ("llmservices/finalizers", "update"),
    ("models/finalizers", "update"),
];

/// Uses every kind of child once, then wants none of them any more.
async fn everything(world: &World) {
    let viewers = json!({"viewers": [{"kind": "User", "name": "llm-user"}]});
    let all = [
        (
            "routed",
            json!({
                "expose": {"type": "HTTPRoute", "gateway": {"name": "g"}, "inferencePool": true}, "access": viewers,
                "observability": {"serviceMonitor": true, "alerts": {}},
            }),
        ),
        (
            "exposed",
            json!({"expose": {"type": "LoadBalancer"}, "scaling": {"mode": "hpa", "max": 3, "target": {"concurrency": 3}}}),
        ),
        (
            "inside",
            json!({"expose": {"type": "Ingress", "host": "a.example.com"}, "scaling": {"mode": "keda", "max": 3, "target": {"concurrency": 3}}}),
        ),
        (
            "grouped",
            json!({
                "runtime": {"engine": "vllm"}, "resources": {"gpu": {"count": 1}}, "parallelism": {"tensor": 1, "pipeline": 2, "nodes": 2},
            }),
        ),
    ];
    for (name, changes) in &all {
        world.service(name, &spec(changes.clone())).await;
    }
    for (name, _) in &all {
        world.ready(name).await;
    }
    let group = spec(json!({
        "runtime": {"engine": "vllm"}, "resources": {"gpu": {"count": 1}}, "parallelism": {"tensor": 1, "pipeline": 2, "nodes": 2},
        "scaling": {"min": 2},
    }));
    world.service("grouped", &group).await;
    world.until("LLMService", "grouped", |service| service["status"]["readyReplicas"] == 2).await;
    for (name, _) in &all {
        let plain = json!({
            "model": {"source": "pvc://models/two", "name": "fake-model"}, "scaling": {"min": 2},
            "runtime": {"serviceAccount": "theirs"}, "observability": {"serviceMonitor": false},
        });
        world.service(name, &spec(plain)).await;
    }
    for (name, _) in &all {
        world
            .until("LLMService", name, |service| {
                service["status"]["colour"] == "green"
                    && condition(service, "Progressing")["status"] == "False"
            })
            .await;
        let old = format!("demo/{name}-blue");
        for kind in ["Deployment", "LeaderWorkerSet"] {
            world.cluster.await_object(kind, &old, SOON, |object| object.is_none()).await.unwrap();
        }
    }
    // What changes no pod is scaled in place.
    let more = json!({
        "model": {"source": "pvc://models/two", "name": "fake-model"},
        "scaling": {"min": 3, "max": 4, "target": {"concurrency": 1}},
        "runtime": {"serviceAccount": "theirs"}, "observability": {"serviceMonitor": false},
    });
    world.service("routed", &spec(more)).await;
    world.until("LLMService", "routed", |service| service["status"]["readyReplicas"] == 3).await;
    world.demand("routed", wharf_api::demand::ServiceDemand { in_flight: 40, ..Default::default() });
    world.until("LLMService", "routed", |service| service["status"]["readyReplicas"] == 4).await;
    // Of all files, those are left that a version mounts: one for each service.
    let left = |cluster: &Stage| cluster.list("ConfigMap").len() == all.len();
    assert!(world.cluster.until(SOON, left).await);
}

/// Makes models, and wants other ones.
async fn models(world: &World) {
    world.fates.jobs_with("hf://owner/slow", wharf_fakes::actors::JobFate::Runs);
    world.model("small", &json!({"source": "hf://owner/slow", "optimize": {"quantize": "q8_0"}})).await;
    world.until("Model", "small", |model| model["status"]["phase"] == "Fetching").await;
    let fetching = |cluster: &Stage| !cluster.list("Job").is_empty();
    assert!(world.cluster.until(SOON, fetching).await);
    world.model("small", &json!({"source": "hf://owner/repo", "optimize": {"quantize": "q8_0"}})).await;
    world.until("Model", "small", |model| model["status"]["phase"] == "Ready").await;
}

/// Roles that are not of the installation.
fn of_services(cluster: &Stage) -> impl Iterator<Item = Value> {
    cluster.list("Role").into_iter().filter(|role| role["metadata"]["namespace"] == "demo")
}

/// Rules that Roles of the operator's hand on.
fn handed_on(world: &World) -> Vec<Value> {
    of_services(&world.cluster).flat_map(|role| role["rules"].as_array().unwrap().clone()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn call(group: &str, resource: &str, verb: &'static str) -> Call {
    let (plural, part) = resource.split_once('/').unwrap_or((resource, ""));
    Call {
        verb,
        group: group.to_owned(),
        plural: plural.to_owned(),
        name: "x".to_owned(),
        part: part.to_owned(),
        code: 200,
        ..Call::default()
    }
}

const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

#[tokio::test(flavor = "multi_thread")]
async fn the_role_allows_what_is_called_and_handed_on_and_nothing_else() {
    let world = World::without_operator().await;
    world.foresee_room().await;
    let operator = world.operator(Some("only"));
    world.fates.pods_with("\"bad\"", Fate::CrashLoop { restarts: 4, exit_code: 1 });
    models(&world).await;
    let handed = async {
        let roles = |cluster: &Stage| of_services(cluster).count() == 2;
        assert!(world.cluster.until(SOON, roles).await);
        handed_on(&world)
    };
    let (handed, ()) = tokio::join!(handed, everything(&world));
    operator.abort();

    let rules = wharf_operator::cluster_role("wharf-operator", true)["rules"].clone();
    let calls = world.cluster.calls();
    let ours: Vec<&Call> = of_operator(&calls).filter(|call| !call.verb.is_empty()).collect();
    let named = |call: &Call| format!("{} {} {}", call.verb, call.plural, call.part);
    let forbidden: Vec<String> =
        ours.iter().filter(|call| !allows(&rules, call)).map(|call| named(call)).collect();
    assert_eq!(forbidden, [] as [String; 0], "the role lacks what is called");

    let mut escalates = Vec::new();
    for rule in &handed {
        for (resource, verb) in
            texts(&rule["resources"]).iter().flat_map(|resource| VERBS.map(|verb| (resource.clone(), verb)))
        {
            let group = rule["apiGroups"][0].as_str().unwrap();
            if texts(&rule["verbs"]).iter().any(|known| known == verb)
                && !allows(&rules, &call(group, &resource, verb))
            {
                escalates.push(format!("{verb} {resource}"));
            }
        }
    }
    assert_eq!(escalates, [] as [String; 0], "the role lacks what is handed on");

    let handed = Value::Array(handed);
    let is_used = |group: &str, resource: &str, verb: &'static str| {
        let (plural, part) = resource.split_once('/').unwrap_or((resource, ""));
        // An apply of what is not there yet is a `patch` and asks for `create`.
        let verbs = if verb == "create" { vec!["create", "patch"] } else { vec![verb] };
        let called = ours.iter().any(|call| {
            verbs.contains(&call.verb) && call.group == group && call.plural == plural && call.part == part
        });
        called || allows(&handed, &call(group, resource, verb)) || NOT_SEEN.contains(&(resource, verb))
    };
    let mut unused = Vec::new();
    for rule in rules.as_array().unwrap() {
        let group = rule["apiGroups"][0].as_str().unwrap();
        for resource in texts(&rule["resources"]) {
            for verb in
                VERBS.into_iter().filter(|verb| texts(&rule["verbs"]).iter().any(|known| known == verb))
            {
                if !is_used(group, &resource, verb) {
                    unused.push(format!("{verb} {group} {resource}"));
                }
            }
        }
    }
    assert_eq!(unused, [] as [String; 0], "the role allows what nobody uses");
}
