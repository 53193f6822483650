//! What the chart says to the operator is what settings may say.

use super::*;

fn objects(rendering: &str) -> impl Iterator<Item = Value> {
    rendering.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap())
}

/// The settings of a rendering.
fn settings_of(rendering: &str) -> Settings {
    let maps: Vec<Value> =
        objects(rendering).filter(|object| object["data"]["settings.yaml"].is_string()).collect();
    assert_eq!(maps.len(), 1, "one ConfigMap has the settings");
    serde_saphyr::from_str(maps[0]["data"]["settings.yaml"].as_str().unwrap()).unwrap()
}

#[test]
fn an_installation_with_defaults_says_what_is_the_default_anyway() {
    let said = settings_of(include_str!("../../../../deploy/install.yaml"));
    let default = Settings::default();
    // The chart's labels are more than `wharf render` asks for.
    let is_narrower = |said: &crate::Peer, default: &crate::Peer| {
        said.namespace == default.namespace
            && default.pods.iter().all(|(key, value)| said.pods.get(key) == Some(value))
    };
    let with_default_peers = Settings {
        gateway: default.gateway.clone(),
        operator: default.operator.clone(),
        metrics_api: default.metrics_api.clone(),
        node_agents: default.node_agents.clone(),
        ..said.clone()
    };
    assert_eq!(with_default_peers, default);
    for (said, default) in [
        (&said.gateway, &default.gateway),
        (&said.operator, &default.operator),
        (&said.metrics_api, &default.metrics_api),
        (&said.node_agents, &default.node_agents),
    ] {
        assert!(is_narrower(said, default), "{said:?}");
    }
}

#[test]
fn settings_of_the_values_reach_the_operator() {
    let said = settings_of(include_str!("../../../../deploy/helm/rendered/production.yaml"));
    assert_eq!(said.vllm_image, "registry.example.com/vllm/vllm-openai:v0.33.0");
    assert_eq!(said.prometheus_url, "http://prometheus-operated.observability.svc:9090");
    assert!(said.image.starts_with("ghcr.io/wharf-dev/wharf@sha256:"), "{}", said.image);
    assert_eq!(said.llamacpp_image, Settings::default().llamacpp_image);
    // Its node agents tell of models.
    assert!(said.serving_metrics && said.foresee_room);
}

#[test]
fn the_operator_and_its_network_policies_find_the_pods_of_the_chart() {
    for rendering in [
        include_str!("../../../../deploy/install.yaml"),
        include_str!("../../../../deploy/helm/rendered/production.yaml"),
    ] {
        let said = settings_of(rendering);
        for (peer, name) in [(said.gateway, "wharf-gateway"), (said.operator, "wharf-operator")] {
            let is_it = |object: &Value| object["kind"] == "Deployment" && object["metadata"]["name"] == name;
            let deployment = objects(rendering).find(is_it).unwrap();
            let labels = &deployment["spec"]["template"]["metadata"]["labels"];
            assert_eq!(deployment["metadata"]["namespace"], peer.namespace.as_str());
            assert!(
                !peer.pods.is_empty() && peer.pods.iter().all(|(key, value)| labels[key] == value.as_str()),
                "{name}"
            );
        }
    }
}
