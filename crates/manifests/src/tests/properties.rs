//! Random services: whatever `check` lets through fits together.

use proptest::prelude::*;
use serde_json::json;

use super::consistency::faults;
use super::*;

fn spec() -> impl Strategy<Value = Value> {
    let source = prop_oneof![
        Just("hf://a/b"),
        Just("hf://a/b/c.gguf"),
        Just("s3://bucket/model"),
        Just("pvc://claim/model.gguf"),
        Just("oci://registry.example.com/model:1"),
    ];
    let optimize = prop_oneof![
        Just(json!(null)),
        Just(json!({"quantize": "q4_0"})),
        Just(json!({"quantize": "int8", "gate": {"maxKlDivergence": 0.1}})),
        Just(json!({"distill": {"layers": 3, "data": "pvc://texts/a.txt"}})),
        Just(
            json!({"distill": {"keepLayers": "0-3", "data": "hf://a/texts/b.txt", "teacher": "hf://a/t"}, "quantize": "int4"})
        ),
    ];
    let engine = prop_oneof![Just("wharf"), Just("vllm"), Just("sglang"), Just("llamacpp"), Just("custom")];
    let expose = prop_oneof![
        Just(json!({})),
        Just(json!({"direct": true, "tls": {"secretName": "tls"}})),
        Just(json!({"type": "LoadBalancer", "annotations": {"a": "b"}})),
        Just(json!({"type": "Ingress", "host": "a.example.com", "tls": {"secretName": "tls"}})),
        Just(json!({"type": "HTTPRoute", "gateway": {"name": "g"}, "inferencePool": true})),
    ];
    let scaling = (prop_oneof![Just("native"), Just("hpa"), Just("keda"), Just("none")], 0u32..3, 1u32..5, any::<bool>())
        .prop_map(|(mode, min, max, target)| {
            json!({"mode": mode, "min": min, "max": max, "target": if target { json!({"concurrency": 3, "requestsPerSecond": 5}) } else { json!({}) }})
        });
    let parallelism = (1u32..5, 1u32..3, 1u32..3).prop_map(
        |(tensor, pipeline, nodes)| json!({"tensor": tensor, "pipeline": pipeline, "nodes": nodes}),
    );
    let strategy = prop_oneof![Just("BlueGreen"), Just("Canary"), Just("Rolling"), Just("Recreate")];
    let gpu = proptest::option::of(1u32..5);
    (source, optimize, engine, expose, scaling, parallelism, strategy, gpu, any::<[bool; 4]>()).prop_map(
        |(source, optimize, engine, expose, scaling, parallelism, strategy, gpu, some)| {
            let mut spec = json!({
                "model": {"source": source}, "runtime": {"engine": engine}, "expose": expose, "scaling": scaling,
                "parallelism": parallelism, "rollout": {"strategy": strategy},
                "observability": {"serviceMonitor": some[0]}, "access": {},
            });
            if !optimize.is_null() {
                spec["model"]["optimize"] = optimize;
            }
            if engine == "custom" {
                spec["runtime"] = json!({"engine": "custom", "image": "a", "ports": {"http": 9000, "metrics": 9001}});
            }
            if let Some(count) = gpu {
                spec["resources"] = json!({"gpu": {"count": count, "product": "NVIDIA-L4"}});
            }
            if some[1] {
                spec["observability"]["alerts"] = json!({});
            }
            if some[2] {
                spec["access"]["apiKeys"] = json!({"secretName": "keys"});
            }
            if some[3] {
                spec["access"]["viewers"] = json!([{"kind": "User", "name": "u"}]);
                spec["access"]["allowFrom"] = json!([{"namespace": "a"}, {"cidr": "10.0.0.0/8"}]);
                spec["access"]["allowTo"] = json!([{"namespace": "b", "port": 443}]);
            }
            spec
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_let_through_fits_together(spec in spec(), name in "[a-z]([-a-z0-9]{0,61}[a-z0-9])?") {
        let object = json!({
            "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": name, "namespace": "n"}, "spec": spec,
        });
        let documents = Document::read("-", &object.to_string()).unwrap();
        let (object, problems) = check(&documents[0]);
        let Some(Object::Service(service)) = object else { return Err(TestCaseError::reject("not a service")) };
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Ok(());
        }
        for mode in [Mode::Managed, Mode::Standalone] {
            for state in [State::fresh(&service), State::releasing(&service, &service)] {
                // Two versions with pods of their own need strategies that have colours.
                let replaced_in_place = matches!(
                    service.spec.rollout.strategy,
                    wharf_spec::service::Strategy::Rolling | wharf_spec::service::Strategy::Recreate
                );
                if state.versions.len() > 1 && replaced_in_place {
                    continue;
                }
                let Ok(objects) = crate::service(&service, &state, &Settings::default(), mode) else { continue };
                prop_assert_eq!(faults(&objects, mode), Vec::<String>::new());
            }
        }
    }
}
