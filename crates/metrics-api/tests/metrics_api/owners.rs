//! An API has one owner, and its APIService follows our certificate.

use serde_json::{Value, json};
use wharf_metrics_api::Api;

use crate::support::{ROLE, SOON, World, decoded, until};

const CUSTOM: &str = "v1beta2.custom.metrics.k8s.io";

fn bundle(service: &Value) -> String {
    decoded(&service["spec"]["caBundle"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_nobodys_is_taken_and_goes_with_the_installation() {
    let world = World::start(&[Api::Custom, Api::External]).await;
    let service = world.cluster.get("APIService", CUSTOM).unwrap();
    assert_eq!(service["spec"]["service"]["name"], "wharf-metrics-api");
    let role = world.cluster.get("ClusterRole", ROLE).unwrap();
    assert_eq!(service["metadata"]["ownerReferences"][0]["uid"], role["metadata"]["uid"]);
    assert!(world.cluster.get("APIService", "v1beta1.external.metrics.k8s.io").is_some());
    assert!(world.cluster.get("APIService", "v1beta1.metrics.k8s.io").is_none());
    let metrics = world.side("/metrics").await.unwrap();
    assert!(metrics.contains("wharf_metrics_api_held{api=\"custom\",state=\"held\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_of_somebody_else_is_left_to_them() {
    let (cluster, front_proxy) = World::cluster().await;
    let theirs = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": CUSTOM},
        "spec": {
            "group": "custom.metrics.k8s.io", "version": "v1beta2", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": "monitoring", "name": "prometheus-adapter", "port": 443}, "insecureSkipTLSVerify": true,
        },
    });
    cluster.seed(theirs).await;
    let world = World::start_on((cluster, front_proxy), &[Api::Custom, Api::External]).await;
    let service = world.cluster.get("APIService", CUSTOM).unwrap();
    assert_eq!(service["spec"]["service"]["name"], "prometheus-adapter");
    let metrics = world.side("/metrics").await.unwrap();
    assert!(metrics.contains("wharf_metrics_api_held{api=\"custom\",state=\"taken\"} 1\n"), "{metrics}");
    assert!(metrics.contains("wharf_metrics_api_held{api=\"external\",state=\"held\"} 1\n"), "{metrics}");

    assert!(world.cluster.delete("APIService", CUSTOM));
    let ours = |service: Option<&Value>| {
        service.is_some_and(|it| it["spec"]["service"]["name"] == "wharf-metrics-api")
    };
    world.cluster.await_object("APIService", CUSTOM, SOON, ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_believed() {
    let world = World::start(&[Api::Custom]).await;
    let before = bundle(&world.cluster.get("APIService", CUSTOM).unwrap());
    assert!(world.cluster.delete("Secret", "wharf-system/wharf-metrics-api-tls"));
    let changed = |service: Option<&Value>| service.is_some_and(|service| bundle(service) != before);
    world.cluster.await_object("APIService", CUSTOM, SOON, changed).await.unwrap();
    // The client believes what the APIService says, and no other authority.
    until("it is answered", async || world.get("/apis/custom.metrics.k8s.io/v1beta2").await.0 == 200).await;
    let secret = world.cluster.get("Secret", "wharf-system/wharf-metrics-api-tls").unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
}
