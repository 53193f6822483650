//! Kinds that come and go, calls that are recorded and fail.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use wharf_fakes::cluster::{Injected, allows};

use crate::{SOON, deployment, from, map, refusal, start};

#[tokio::test]
async fn a_definition_adds_its_kind() {
    let (cluster, client) = start().await;
    let crds: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(client.clone());
    for crd in wharf_spec::crd::crds() {
        crds.create(&PostParams::default(), &from(crd)).await.unwrap();
    }
    let established = kube::runtime::wait::conditions::is_crd_established();
    let wait = kube::runtime::wait::await_condition(crds.clone(), "llmservices.wharf.dev", established);
    timeout(SOON, wait).await.unwrap().unwrap();
    let services: Api<wharf_spec::LLMService> = Api::namespaced(client.clone(), "default");
    let resource = ApiResource::erase::<wharf_spec::LLMService>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let service = |spec: Value| {
        from::<DynamicObject>(json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService",
        "metadata": {"name": "assistant"}, "spec": spec}))
    };
    let wrong = raw.create(&PostParams::default(), &service(json!({"replicas": -1}))).await;
    assert_eq!(refusal(wrong), (422, "Invalid".to_owned()));
    let broken = raw.create(&PostParams::default(), &service(json!({"model": {}}))).await.unwrap_err();
    assert!(broken.to_string().contains("give either source or ref"), "{broken}");
    let spec = json!({"model": {"source": "hf://a/b"}, "typo": 1});
    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("a")
    };
    let strict = raw.patch("assistant", &strict, &Patch::Apply(service(spec.clone()))).await.unwrap_err();
    assert!(strict.to_string().contains("unknown field \"spec.typo\""), "{strict}");
    let made = raw.create(&PostParams::default(), &service(spec)).await.unwrap();
    assert_eq!(made.data["spec"], json!({"model": {"source": "hf://a/b"}, "replicas": 1}));
    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    services.patch_scale("assistant", &PatchParams::default(), &scale).await.unwrap();
    let status = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "status": {"replicas": 2, "readyReplicas": 2, "selector": "a=b"}});
    services.patch_status("assistant", &PatchParams::apply("wharf"), &Patch::Apply(status)).await.unwrap();
    let scale = services.get_scale("assistant").await.unwrap();
    assert_eq!(
        (scale.spec.unwrap().replicas, scale.status.unwrap().selector.unwrap()),
        (Some(4), "a=b".to_owned())
    );
    let service = services.get("assistant").await.unwrap();
    assert_eq!((service.metadata.generation, service.spec.replicas), (Some(2), 4));
    let found = kube::discovery::group(&client, "wharf.dev").await.unwrap();
    assert_eq!(found.recommended_kind("LLMService").unwrap().0.plural, "llmservices");
    crds.delete("llmservices.wharf.dev", &DeleteParams::default()).await.unwrap();
    assert_eq!(refusal(services.get("assistant").await).0, 404);
    cluster.install("monitoring.coreos.com");
    let all = kube::Discovery::new(client).run().await.unwrap();
    assert!(all.has_group("monitoring.coreos.com") && all.has_group("apps") && all.has_group(""));
}

#[tokio::test]
async fn calls_are_recorded_and_fail_when_told() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    cluster.fail_next(1, "create", "ConfigMap", Injected::Status(500));
    cluster.fail_next(1, "create", "ConfigMap", Injected::CutAfter);
    cluster.forget_calls();
    assert_eq!(refusal(maps.create(&PostParams::default(), &map("a", "1")).await).0, 500);
    assert!(cluster.get("ConfigMap", "a").is_none());
    let lost = maps.create(&PostParams::default(), &map("a", "1")).await;
    assert!(!matches!(lost, Err(kube::Error::Api(_)) | Ok(_)));
    assert!(cluster.get("ConfigMap", "a").is_some(), "done, and the client cannot know");
    let calls: Vec<_> =
        cluster.calls().into_iter().map(|call| (call.verb, call.kind, call.namespace, call.code)).collect();
    let call = |code: u16| ("create", "ConfigMap".to_owned(), "default".to_owned(), code);
    assert_eq!(calls, [call(500), call(0)]);
    cluster.go_down().await;
    assert!(maps.get("a").await.is_err());
    cluster.come_back().await.unwrap();
    maps.get("a").await.unwrap();
    cluster
        .on_review(|kind, spec| json!({"authenticated": kind == "TokenReview" && spec["token"] == "good"}));
    let reviews: Api<k8s_openapi::api::authentication::v1::TokenReview> = Api::all(client);
    let review = |token: &str| from(json!({"metadata": {}, "spec": {"token": token}}));
    let good = reviews.create(&PostParams::default(), &review("good")).await.unwrap();
    assert_eq!(good.status.unwrap().authenticated, Some(true));
    let bad = reviews.create(&PostParams::default(), &review("bad")).await.unwrap();
    assert_eq!(bad.status.unwrap().authenticated, Some(false));
}

#[tokio::test]
async fn metadata_alone_can_be_had() {
    let (cluster, client) = start().await;
    cluster.seed(deployment(1));
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let list = deployments.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(list.items[0].name_any(), "web");
    let missing = cluster
        .await_object("Deployment", "other", Duration::from_millis(10), |object| object.is_some())
        .await;
    assert!(missing.unwrap_err().to_string().contains("Deployment other did not become"));
}

#[tokio::test]
async fn any_rule_can_pick_the_calls_that_fail() {
    let (cluster, client) = start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut writes = 0;
    cluster.fail_when(1, Injected::Status(500), move |call| {
        writes += usize::from(matches!(call.verb, "create" | "update" | "patch" | "delete"));
        writes == 2
    });
    cluster.fail_next(1, "get", "ConfigMap", Injected::Slow(Duration::from_millis(10)));
    maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    maps.get("a").await.unwrap();
    assert_eq!(refusal(maps.delete("a", &DeleteParams::default()).await).0, 500, "the second write");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get"]}]);
    let refused: Vec<_> =
        cluster.calls().into_iter().filter(|call| !allows(&rules, call)).map(|call| call.verb).collect();
    assert_eq!(refused, ["delete", "delete"], "what a role would not allow is found");
}
