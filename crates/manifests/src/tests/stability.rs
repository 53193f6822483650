//! What restarts pods and what does not, names, keys and network peers.

use serde_json::json;

use super::*;
use crate::names;

/// What makes the pods.
fn template(service: &LLMService) -> Value {
    only(&render(service, Mode::Managed), "Deployment")["spec"]["template"].clone()
}

#[test]
fn scaling_observability_and_access_restart_no_pod() {
    let before = service("{model: {source: hf://a/b}}");
    for change in [
        "{model: {source: hf://a/b}, scaling: {min: 0, max: 9, target: {concurrency: 3}}}",
        "{model: {source: hf://a/b}, replicas: 7}",
        "{model: {source: hf://a/b}, observability: {serviceMonitor: true, alerts: {}, labels: {a: b}, interval: 5s}}",
        "{model: {source: hf://a/b}, access: {apiKeys: {secretName: k}, viewers: [{kind: User, name: u}], limits: {concurrent: 3}}}",
        "{model: {source: hf://a/b}, expose: {type: Ingress, host: a.b, tls: {secretName: t}}, access: {apiKeys: {secretName: k}}}",
    ] {
        assert_eq!(template(&service(change)), template(&before), "{change}");
    }
}

#[test]
fn another_model_or_configuration_is_another_pod_and_another_config_map() {
    let before = service("{model: {source: hf://a/b}}");
    for change in ["{model: {source: hf://a/c}}", "{model: {source: hf://a/b}, server: {maxModelLen: 100}}"] {
        let after = service(change);
        assert_ne!(template(&after), template(&before), "{change}");
        let name = |service: &LLMService| {
            only(&render(service, Mode::Managed), "ConfigMap")["metadata"]["name"].clone()
        };
        assert_ne!(name(&after), name(&before), "{change}");
    }
}

/// What the server of a service is told of its device.
fn device(spec: &str) -> Option<String> {
    let objects = render(&service(spec), Mode::Managed);
    let text = only(&objects, "ConfigMap")["data"]["server_config.yaml"].as_str().unwrap().to_owned();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("device: "));
    line.map(str::to_owned)
}

#[test]
fn who_asks_for_a_gpu_may_not_compute_on_the_cpu() {
    let cases = [
        ("resources: {gpu: {count: 1}}", Some("cuda")),
        ("resources: {gpu: {count: 1, resource: nvidia.com/mig-1g.10gb}}", Some("cuda")),
        ("resources: {gpu: {count: 1, resource: amd.com/gpu}}", None),
        ("resources: {requests: {cpu: 4}}", None),
    ];
    for (spec, expected) in cases {
        let found = device(&format!("{{model: {{source: hf://a/b}}, {spec}}}"));
        assert_eq!(found.as_deref(), expected, "{spec}");
    }
}

#[test]
fn a_change_of_scaling_restarts_no_server_on_a_gpu_either() {
    let of = |more: &str| {
        service(&format!("{{model: {{source: hf://a/b}}, resources: {{gpu: {{count: 1}}}}{more}}}"))
    };
    let before = template(&of(""));
    for more in [", scaling: {max: 9}", ", replicas: 7"] {
        assert_eq!(template(&of(more)), before, "{more}");
    }
    assert_ne!(template(&service("{model: {source: hf://a/b}}")), before);
}

#[test]
fn a_release_stands_beside_the_version_that_serves_and_leaves_it_alone() {
    let old = service("{model: {source: hf://a/b}, expose: {direct: true}}");
    let new = service("{model: {source: hf://a/c}, expose: {direct: true}}");
    let state = State::releasing(&old, &new);
    let objects = crate::service(&new, &state, &Settings::default(), Mode::Managed).unwrap();
    let blue = named(&objects, "Deployment", "assistant-blue");
    let green = named(&objects, "Deployment", "assistant-green");
    assert_eq!(blue["spec"]["template"], template(&old));
    assert_ne!(blue["spec"]["template"]["spec"], green["spec"]["template"]["spec"]);
    // Both find their own configuration, and traffic stays where it was.
    assert_eq!(objects.iter().filter(|object| object["kind"] == "ConfigMap").count(), 2);
    assert_eq!(named(&objects, "Service", "assistant")["spec"]["selector"][names::COLOUR], "blue");
}

#[test]
fn overrides_come_last() {
    let service = service(
        "{model: {source: hf://a/b}, overrides: {pod: {spec: {hostNetwork: true, containers: [{name: server, image: mine}]}}, \
         deployment: {spec: {minReadySeconds: 7}}}}",
    );
    let objects = render(&service, Mode::Managed);
    let deployment = only(&objects, "Deployment");
    assert_eq!(deployment["spec"]["minReadySeconds"], 7);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["containers"][0]["image"]), (&json!(true), &json!("mine")));
    assert!(pod["containers"][0]["args"].is_array());
}

#[test]
fn traffic_goes_through_the_gateway_unless_it_is_left_out() {
    let through = render(&service("{model: {source: hf://a/b}}"), Mode::Managed);
    assert!(named(&through, "Service", "assistant")["spec"]["selector"].is_null());
    let policy = named(&through, "NetworkPolicy", "assistant");
    let from = &policy["spec"]["ingress"][0]["from"];
    assert_eq!(from[0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "wharf-system");
    assert_eq!(from.as_array().unwrap().len(), 1);
    let direct = render(&service("{model: {source: hf://a/b}, expose: {direct: true}}"), Mode::Managed);
    assert!(named(&direct, "Service", "assistant")["spec"]["selector"].is_object());
}

#[test]
fn only_jobs_that_fetch_reach_the_internet_and_only_its_port_443() {
    let objects = render(&service("{model: {source: hf://a/b, optimize: {quantize: int8}}}"), Mode::Managed);
    let rules =
        |name: &str| named(&objects, "NetworkPolicy", name)["spec"]["egress"].as_array().unwrap().clone();
    assert_eq!(rules("assistant").len(), 1, "DNS alone");
    assert_eq!(rules("assistant-prepare").len(), 0);
    let fetch = rules("assistant-fetch");
    assert_eq!(fetch[1]["ports"], json!([{"protocol": "TCP", "port": 443}]));
    let except = fetch[1]["to"][0]["ipBlock"]["except"].as_array().unwrap();
    for private in ["10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"] {
        assert!(except.contains(&json!(private)), "{private}");
    }
    let ranged = render(
        &service("{model: {source: hf://a/b}, access: {egressCIDRs: [203.0.113.0/24]}}"),
        Mode::Managed,
    );
    let to = &named(&ranged, "NetworkPolicy", "assistant-fetch")["spec"]["egress"][1]["to"];
    assert_eq!(*to, json!([{"ipBlock": {"cidr": "203.0.113.0/24"}}]));
}

#[test]
fn no_secret_is_ever_made_and_keys_are_only_referred_to() {
    let spec =
        "{model: {source: hf://a/b, credentials: {secretName: hf}}, access: {apiKeys: {secretName: keys}}}";
    let objects = render(&service(spec), Mode::Standalone);
    assert!(objects.iter().all(|object| object["kind"] != "Secret"));
    let deployment = only(&objects, "Deployment");
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"][0];
    assert_eq!(
        *env,
        json!({"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api_key"}}})
    );
    let jobs: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Job").collect();
    assert_eq!(jobs[0]["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"], "hf");
}

#[test]
fn two_services_with_long_names_do_not_meet() {
    let of = |name: &str| {
        let mut service = service("{model: {source: hf://a/b}, observability: {serviceMonitor: true}}");
        service.metadata.name = Some(name.to_owned());
        let objects = render(&service, Mode::Managed);
        let name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
        objects.iter().map(name).collect::<std::collections::BTreeSet<String>>()
    };
    let (one, two) = (format!("{}x", "a".repeat(62)), format!("{}y", "a".repeat(62)));
    assert!(of(&one).is_disjoint(&of(&two)));
    // A name that continues another is no child of it.
    assert!(of("assistant").is_disjoint(&of("assistant-two")));
}

#[test]
fn a_model_of_another_volume_joins_the_adapters_that_are_fetched() {
    let spec = "{model: {source: pvc://models/llama, adapters: [{name: sql, source: hf://a/sql}]}, runtime: {engine: vllm}, \
                resources: {gpu: {count: 1}}}";
    let objects = render(&service(spec), Mode::Managed);
    let jobs: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "Job").collect();
    let args = |job: &Value| job["spec"]["template"]["spec"]["containers"][0]["args"].clone();
    let copy = jobs.iter().find(|job| args(job)[1] == "pvc://models/llama").unwrap();
    assert_eq!(args(copy)[5], "models=/volumes/models");
    let server = &only(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(server["args"][0], args(copy)[3]);
}
