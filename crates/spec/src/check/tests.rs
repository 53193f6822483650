//! What is found in what people write, and how it reads.

use expect_test::{Expect, expect};

use super::*;

const HEAD: &str = "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {name: assistant}\n";

fn problems(text: &str) -> Vec<Problem> {
    Document::read("llm.yaml", text).unwrap().iter().flat_map(|document| check(document).1).collect()
}

fn said(text: &str) -> String {
    problems(text).iter().map(|problem| format!("{problem}\n")).collect()
}

/// Complaints about a service with this spec; its first line is line 4 of the file.
fn service(spec: &str, expected: Expect) {
    expected.assert_eq(&said(&format!("{HEAD}{spec}")));
}

#[test]
fn one_field_is_enough() {
    service("spec: {model: {source: hf://Qwen/Qwen2.5-0.5B-Instruct}}", expect![""]);
}

#[test]
fn everything_is_said_at_once_with_lines_and_suggestions() {
    service(
        "\
spec:
  model:
    sorce: hf://a/b
    source: hf//a/b
    optimize: {quantize: int9}
  replicas: many
  scaling:
    mode: HPA
    min: 3
    max: 2
    idleAfter: 5
  resources:
    requests: {cpu: -1, memory: 64Gi}
    limits: {memory: 32Gi}
  acess: {}
",
        expect![[r#"
            llm.yaml:5: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
            llm.yaml:6: error: spec.model.sorce: unknown field "sorce"; did you mean "source"?
            llm.yaml:7: error: spec.model.source: must be a URL that begins with hf://, https://, s3://, gs://, oci://, pvc:// or file://, not "hf//a/b"
            llm.yaml:8: error: spec.model.optimize.quantize: unknown value "int9"; did you mean "int8"?
            llm.yaml:9: error: spec.replicas: must be a whole number, not the text "many"
            llm.yaml:11: error: spec.scaling.mode: unknown value "HPA"; did you mean "hpa"?
            llm.yaml:13: error: spec.scaling.max: must be at least min, which is 3, not 2
            llm.yaml:14: error: spec.scaling.idleAfter: must be a time with its unit, such as 500ms, 30s, 5m or 1h30m, not 5
            llm.yaml:16: error: spec.resources.requests.cpu: must be a quantity as Kubernetes writes it, such as 8, 500m or 32Gi, not "-1"
            llm.yaml:16: error: spec.resources.requests.memory: asks for 64Gi, more than the limit of 32Gi
            llm.yaml:18: error: spec.acess: unknown field "acess"; did you mean "access"?
        "#]],
    );
}

#[test]
fn what_belongs_to_the_gateway_is_refused_without_it() {
    service(
        "\
spec:
  model: {source: hf://a/b}
  expose: {direct: true}
  scaling: {min: 0, max: 3}
  access: {apiKeys: {secretName: keys}, limits: {requestsPerMinute: 600}}
  rollout: {strategy: Canary}
",
        expect![[r#"
            llm.yaml:5: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
            llm.yaml:7: error: spec.scaling.min: 0 needs the gateway to hold requests while the service wakes, which expose.direct leaves out: set it to false
            llm.yaml:8: error: spec.access.apiKeys: keys are checked by the gateway, which expose.direct leaves out: set it to false
            llm.yaml:8: error: spec.access.limits: limits are kept by the gateway, which expose.direct leaves out: set it to false
            llm.yaml:9: error: spec.rollout.strategy: Canary needs the gateway to divide traffic, which expose.direct leaves out: set it to false
        "#]],
    );
}

#[test]
fn a_field_that_an_engine_cannot_honour_names_those_that_can() {
    service(
        "\
spec:
  model:
    source: hf://a/b
    optimize: {quantize: q4_0}
    adapters: [{name: sql, source: hf://a/sql}, {name: sql, source: hf://a/other}]
  runtime: {engine: vllm, args: [--port=1, --enforce-eager], command: [sh]}
  server: {kvCache: {type: int8}}
",
        expect![[r#"
            llm.yaml:4: error: spec.resources.gpu: vllm cannot run without a GPU; engines that can: wharf, llamacpp, custom
            llm.yaml:7: error: spec.model.optimize.quantize: q4_0 makes GGUF, which vllm does not read; engines that do: wharf, llamacpp, custom
            llm.yaml:8: error: spec.model.adapters[1].name: is the name of another adapter too
            llm.yaml:9: error: spec.runtime.args[0]: --port is given by Wharf; leave it out
            llm.yaml:9: error: spec.runtime.command: is for engine: custom; vllm has its own
            llm.yaml:10: error: spec.server.kvCache.type: vllm cannot store keys and values so; engines that can: wharf, llamacpp
        "#]],
    );
    service(
        "\
spec:
  model:
    source: hf://a/b
    adapters: [{name: sql, source: hf://a/sql}]
  parallelism: {tensor: 2, pipeline: 2}
  server: {kvCache: {type: fp8}}
",
        expect![[r#"
            llm.yaml:7: error: spec.model.adapters: wharf cannot serve adapters; engines that can: vllm, sglang
            llm.yaml:8: error: spec.parallelism.pipeline: wharf cannot combine tensor and pipeline; engines that can: vllm, sglang, custom
            llm.yaml:9: error: spec.server.kvCache.type: wharf cannot store keys and values so; engines that can: vllm, sglang
        "#]],
    );
}

#[test]
fn wharfs_own_engine_computes_on_one_gpu_with_keys_and_values_of_half_precision() {
    service(
        "\
spec:
  model: {source: hf://a/b}
  resources: {gpu: {count: 2}}
  parallelism: {tensor: 2}
  server: {kvCache: {type: int8}}
",
        expect![[r#"
            llm.yaml:6: error: spec.resources.gpu.count: wharf cannot divide a model among GPUs; engines that can: vllm, sglang, llamacpp, custom
            llm.yaml:8: error: spec.server.kvCache.type: wharf cannot store keys and values so on a GPU; engines that can: llamacpp
        "#]],
    );
}

#[test]
fn gpus_and_ranks_must_agree() {
    service(
        "\
spec:
  model: {source: hf://a/b}
  runtime: {engine: vllm}
  resources: {gpu: {count: 4}}
  parallelism: {tensor: 3, nodes: 2}
",
        expect![[r#"
            llm.yaml:5: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
            llm.yaml:7: error: spec.resources.gpu.count: 8 GPUs for 3 ranks of one GPU each: tensor times pipeline must be 2 nodes times 4 GPUs, which is 8
            llm.yaml:8: error: spec.parallelism.nodes: 3 ranks (tensor 3 times pipeline 1) cannot be divided evenly among 2 nodes
        "#]],
    );
}

#[test]
fn scalers_must_have_something_to_scale_on() {
    service(
        "\
spec:
  model: {source: hf://a/b}
  scaling: {mode: hpa, min: 0, max: 3, target: {cpu: 70, gpu: 80, tokensInFlight: 20000, ttftP95: 2s}}
",
        expect![[r#"
            llm.yaml:5: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
            llm.yaml:6: error: spec.scaling.min: 0 needs mode native or keda: nobody would wake the service
            llm.yaml:6: error: spec.scaling.target.cpu: is a share of what is requested: set resources.requests.cpu
            llm.yaml:6: error: spec.scaling.target.gpu: needs resources.gpu: there is no GPU to use
            llm.yaml:6: error: spec.scaling.target.tokensInFlight: is known to mode native only: the gateway counts them, and no model server reports them to an HPA
            llm.yaml:6: error: spec.scaling.target.ttftP95: is known to mode native only: a latency is not proportional to replicas, as an HPA assumes
        "#]],
    );
    service(
        "spec: {model: {source: hf://a/b}, scaling: {mode: keda}}",
        expect![[r#"
        llm.yaml:4: error: spec.scaling.target: needs a target: without one there is nothing to scale on
    "#]],
    );
}

#[test]
fn sources_and_caches_must_fit() {
    service(
        "spec: {model: {source: hf://a/b, cache: {type: emptyDir}}}",
        expect![[r#"
        llm.yaml:4: error: spec.model.cache.type: emptyDir keeps nothing that Jobs fetch or make; use pvc, or serve a pvc:// source as it is
    "#]],
    );
    service(
        "spec: {model: {source: hf://a/b, cache: {type: image}}}",
        expect![[r#"
        llm.yaml:4: error: spec.model.cache.type: image mounts an oci:// source as it is; use pvc for other sources and for optimised models
    "#]],
    );
    service(
        "spec: {model: {source: hf://a/b, ref: other, digest: x}}",
        expect![[r#"
        llm.yaml:4: error: spec.model.digest: must be sha256: and 64 lower-case hexadecimal digits, not "x"
        llm.yaml:4: error: spec.model.ref: cannot be given beside source: choose one
    "#]],
    );
    service(
        "spec: {model: {}}",
        expect![[r#"
        llm.yaml:4: error: spec.model.source: is required, unless ref names a Model
    "#]],
    );
    service(
        "spec: {model: {source: pvc:///a}, scaling: {max: 2}}",
        expect![[r#"
            llm.yaml:4: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
            llm.yaml:4: error: spec.model.source: `pvc:///a` is no model source: `` cannot be the name of a PersistentVolumeClaim
        "#]],
    );
    service(
        "spec: {model: {source: hf://a/b, optimize: {gate: {}}}, scaling: {max: 2}}",
        expect![[r#"
        llm.yaml:4: warning: spec.model.cache.accessMode: ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it
        llm.yaml:4: error: spec.model.optimize: does nothing: say quantize, distill, or both
        llm.yaml:4: error: spec.model.optimize.gate: lets everything through: say maxPerplexityIncrease, maxKlDivergence, or both
    "#]],
    );
}

#[test]
fn names_that_parts_of_a_service_have_are_refused() {
    let text = "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {name: my-pods}\nspec: {model: {source: hf://a/b}}\n";
    expect![[r#"
        llm.yaml:3: error: metadata.name: must not end in "-pods": Wharf gives that name to a part of a service
    "#]].assert_eq(&said(text));
    let text = "apiVersion: wharf.dev/v1alpha1\nkind: Model\nmetadata: {name: My_Model}\nspec: {source: file:///a}\n";
    expect![[r#"
        llm.yaml:3: error: metadata.name: must be lower-case letters, digits and hyphens, at most 63 of them, a letter first and no hyphen last, not "My_Model"
        llm.yaml:4: error: spec.source: file:// names a file of one machine; a Model in a cluster needs another source
    "#]].assert_eq(&said(text));
}

#[test]
fn other_documents_are_left_alone_and_slips_in_ours_are_not() {
    let text = "\
apiVersion: v1
kind: Secret
---
apiVersion: warf.dev/v1alpha1
kind: LLMService
---
apiVersion: wharf.dev/v1
kind: LLMService
---
apiVersion: wharf.dev/v1alpha1
kind: LLMServices
---
kind: LLMService
";
    expect![[r#"
        llm.yaml:4: error: apiVersion: must be wharf.dev/v1alpha1, not "warf.dev/v1alpha1"
        llm.yaml:7: error: apiVersion: must be wharf.dev/v1alpha1, not "wharf.dev/v1"
        llm.yaml:11: error: kind: unknown kind "LLMServices"; did you mean "LLMService"?
        llm.yaml:13: error: needs apiVersion: wharf.dev/v1alpha1 and a kind
    "#]]
    .assert_eq(&said(text));
}

#[test]
fn a_text_that_is_not_yaml_says_where() {
    let error = Document::read("llm.yaml", "a: [1\nb: 2\n").unwrap_err().to_string();
    assert!(error.starts_with("failed to read llm.yaml as YAML: ") && error.contains("line 2"), "{error}");
    let error = Document::read("llm.yaml", "a: 1\na: 2\n").unwrap_err().to_string();
    assert!(error.contains("duplicate"), "{error}");
}

#[test]
fn weights_above_a_memory_target_are_refused() {
    let text = format!(
        "{HEAD}spec: {{model: {{source: hf://a/b}}, resources: {{requests: {{memory: 16Gi}}}}, scaling: {{mode: hpa, max: 3, target: {{memory: 80}}}}}}"
    );
    let documents = Document::read("-", &text).unwrap();
    let (Some(Object::Service(service)), _) = check(&documents[0]) else { panic!("a service") };
    assert_eq!(memory_target(&service, 8 << 30), None);
    let sentence = memory_target(&service, 14 << 30).unwrap();
    assert!(
        sentence.contains("14.0 GiB") && sentence.contains("12.8 GiB") && sentence.contains("21Gi"),
        "{sentence}"
    );
}

/// What the API server says of an object by the rules in the CRD.
fn server_says(value: &Value) -> Vec<String> {
    let schema = crate::crd::crds()[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    match kube::core::cel::Validator::new().validate(&schema, value, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// What the API server refuses by the rules in the CRD, we refuse too, so that a good local answer holds in the cluster.
#[test]
fn what_the_rules_in_the_crd_refuse_is_refused_locally() {
    let refused = [
        ("{model: {}}", "give either source or ref"),
        ("{model: {source: hf://a/b, ref: c}}", "give either source or ref"),
        ("{model: {ref: c, optimize: {quantize: int8}}}", "a Model has its own"),
        (
            "{model: {source: hf://a/b, optimize: {distill: {steps: 3, data: hf://a/b}}}}",
            "say what the student is",
        ),
        ("{model: {source: hf://a/b, optimize: {distill: {layers: 3}}}}", "name the text to train on"),
        ("{model: {source: hf://a/b}, parallelism: {tensor: 3, nodes: 2}}", "nodes must divide"),
        ("{model: {source: hf://a/b}, scaling: {min: 3, max: 2}}", "min must not exceed max"),
        ("{model: {source: hf://a/b}, rollout: {steps: [{weight: 5%, duration: 1m}]}}", "steps belong to"),
        ("{model: {source: hf://a/b}, expose: {type: HTTPRoute}}", "an HTTPRoute needs the gateway"),
        ("{model: {source: hf://a/b}, expose: {type: Ingress}}", "an Ingress needs the host"),
        ("{model: {source: hf://a/b}, access: {allowFrom: [{}]}}", "give a namespace"),
        (
            "{model: {source: hf://a/b}, access: {allowFrom: [{namespace: a, cidr: 10.0.0.0/8}]}}",
            "give a namespace",
        ),
        (
            "{model: {source: hf://a/b}, access: {allowFrom: [{namespace: a, namespaceLabels: {a: b}}]}}",
            "not both",
        ),
        ("{model: {source: hf://a/b}, access: {allowTo: [{port: 443}]}}", "give either namespace or cidr"),
    ];
    for (spec, message) in refused {
        let documents = Document::read("-", &format!("{HEAD}spec: {spec}")).unwrap();
        let said = server_says(documents[0].value());
        assert!(said.len() == 1 && said[0].contains(message), "{spec}: {said:?}");
        let found = check(&documents[0]).1;
        assert!(found.iter().any(|problem| problem.severity == Severity::Error), "{spec}: {found:?}");
    }
    for name in ["my-pods", "Upper", "9lives"] {
        let text = format!(
            "apiVersion: wharf.dev/v1alpha1\nkind: LLMService\nmetadata: {{name: {name}}}\nspec: {{model: {{source: hf://a/b}}}}\n"
        );
        let documents = Document::read("-", &text).unwrap();
        assert_eq!(server_says(documents[0].value()).len(), 1, "{name}");
        assert!(!check(&documents[0]).1.is_empty(), "{name}");
    }
}

#[test]
fn the_rules_in_the_crd_let_every_example_through() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        for document in Document::read("-", &std::fs::read_to_string(&path).unwrap()).unwrap() {
            if document.value()["kind"] == "LLMService" {
                assert_eq!(server_says(document.value()), [] as [String; 0], "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 5);
}

/// Names that parts of a service have are the same words in the CRD's rule and here.
#[test]
fn reserved_names_are_the_same_everywhere() {
    let crd = crate::crd::crds()[0].to_string();
    assert!(crd.contains(&format!("-({})$", rules::RESERVED.join("|"))));
}
