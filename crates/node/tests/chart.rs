//! What the chart gives the node agent is what it needs, and what the chart says to it is what its configuration may say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use serde_json::Value;
use wharf_node::NodeConfig;

#[test]
fn the_chart_has_the_rules_of_the_agent() {
    let role = wharf_node::cluster_role("wharf-node-agent", true);
    let text = serde_saphyr::to_string(&role["rules"]).unwrap();
    let head = "# The node agent's rights, from crates/node/src/rbac.rs: UPDATE_EXPECT=1 cargo test -p wharf-node --test chart\n";
    expect_test::expect_file!["../../../deploy/helm/wharf/files/node-agent-rules.yaml"]
        .assert_eq(&format!("{head}{text}"));
}

/// Objects of a rendering.
fn objects(rendering: &str) -> Vec<Value> {
    rendering.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// What the agent is told in a rendering.
fn config(objects: &[Value]) -> NodeConfig {
    let text = objects.iter().find_map(|object| object["data"]["node.yaml"].as_str()).unwrap();
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn an_installation_grants_what_its_configuration_needs_and_no_more() {
    let gpu = include_str!("../../../deploy/helm/rendered/gpu.yaml");
    let production = include_str!("../../../deploy/helm/rendered/production.yaml");
    for (rendering, serving) in [(gpu, false), (production, true)] {
        let objects = objects(rendering);
        assert_eq!(config(&objects).exporter.serving, serving);
        let is_role = |object: &&Value| {
            object["kind"] == "ClusterRole" && object["metadata"]["name"] == "wharf-node-agent"
        };
        let granted = &objects.iter().find(is_role).unwrap()["rules"];
        assert_eq!(*granted, wharf_node::cluster_role("wharf-node-agent", serving)["rules"]);
    }
}

#[test]
fn what_production_says_is_a_configuration_and_its_folders_are_mounted() {
    let objects = objects(include_str!("../../../deploy/helm/rendered/production.yaml"));
    let config = config(&objects);
    config.check().unwrap();
    let is_agent =
        |object: &&Value| object["kind"] == "DaemonSet" && object["metadata"]["name"] == "wharf-node-agent";
    let agent = objects.iter().find(is_agent).unwrap();
    let container = &agent["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["containerPort"], config.exporter.port);
    let mounts: Vec<(&str, bool)> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| (mount["mountPath"].as_str().unwrap(), mount["readOnly"] == true))
        .collect();
    let paths = &config.paths;
    let needed = [
        (&paths.device_plugins, false),
        (&paths.plugins, true),
        (&paths.pod_resources, true),
        (&paths.state, false),
        (&paths.sysfs, true),
    ];
    for (path, read_only) in needed {
        let mounted = mounts.iter().any(|(mount, only)| path.starts_with(mount) && *only == read_only);
        assert!(mounted, "{} is not mounted as it should be", path.display());
    }
}
