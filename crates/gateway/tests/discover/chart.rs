//! What the chart says to the gateway is what its configuration may say, and other gateways are where it looks for them.

use serde_json::Value;
use wharf_gateway::{GatewayConfig, discover};

fn objects(rendering: &str) -> Vec<Value> {
    rendering.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn config(objects: &[Value]) -> GatewayConfig {
    let text = objects.iter().find_map(|object| object["data"]["gateway.yaml"].as_str()).unwrap();
    let config: GatewayConfig = serde_saphyr::from_str(text).unwrap();
    config.check().unwrap();
    config
}

#[test]
fn an_installation_with_defaults_changes_nothing_but_where_it_listens() {
    let config = config(&objects(include_str!("../../../../deploy/install.yaml")));
    assert_eq!(GatewayConfig { host: "127.0.0.1".to_owned(), ..config }, GatewayConfig::default());
}

#[test]
fn what_production_needs_is_configured_and_mounted() {
    let objects = objects(include_str!("../../../../deploy/helm/rendered/production.yaml"));
    let config = config(&objects);
    assert_eq!((config.max_body_bytes, config.hold.queue, config.timeouts.drain), (64 << 20, 5000, 300.0));
    let pod =
        |object: &&Value| object["kind"] == "Deployment" && object["metadata"]["name"] == "wharf-gateway";
    let pod = &objects.iter().find(pod).unwrap()["spec"]["template"]["spec"];
    let mounts: Vec<&str> = pod["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let peers = config.peers.unwrap();
    let files = [&config.api_keys, &config.tls_cert, &config.tls_key, &Some(peers.key_file)]
        .map(|file| file.clone().unwrap());
    for file in files {
        assert!(mounts.iter().any(|mount| file.starts_with(mount)), "{} is not mounted", file.display());
    }
    assert!(pod["terminationGracePeriodSeconds"].as_f64().unwrap() > config.timeouts.drain);

    let headless = objects.iter().find(|object| object["spec"]["publishNotReadyAddresses"] == true).unwrap();
    let (metadata, port) = (&headless["metadata"], &headless["spec"]["ports"][0]["port"]);
    let address = format!(
        "{}.{}.svc:{port}",
        metadata["name"].as_str().unwrap(),
        metadata["namespace"].as_str().unwrap()
    );
    assert_eq!((peers.addresses, headless["spec"]["clusterIP"].as_str()), (vec![address], Some("None")));
}

#[test]
fn an_installation_grants_what_following_needs_and_the_secrets_that_are_named() {
    let rules = |objects: &[Value], kind: &str, name: &str, namespace: Option<&str>| {
        let is_it = |object: &&Value| {
            object["kind"] == kind
                && object["metadata"]["name"] == name
                && object["metadata"]["namespace"].as_str() == namespace
        };
        objects.iter().find(is_it).unwrap()["rules"].clone()
    };
    let default = objects(include_str!("../../../../deploy/install.yaml"));
    assert_eq!(rules(&default, "ClusterRole", "wharf-gateway", None), discover::rights()["follow"]);
    assert!(default.iter().all(|object| object["metadata"]["name"] != "wharf-gateway-keys"));

    let production = objects(include_str!("../../../../deploy/helm/rendered/production.yaml"));
    assert_eq!(rules(&production, "ClusterRole", "wharf-gateway", None), discover::rights()["follow"]);
    let mut named = discover::rights()["keys"].clone();
    named[0]["resourceNames"] = serde_json::json!(["summariser-keys"]);
    assert_eq!(rules(&production, "Role", "wharf-gateway-keys", Some("research")), named);
}
