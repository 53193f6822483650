//! Where pods listen. Pure.

use kube::api::DynamicObject;
use kube::runtime::reflector::Store;

/// Finds where a pod has the port of this name. Tests have pods that listen elsewhere than they say.
pub type Find = fn(&DynamicObject, &str) -> Option<String>;

/// `host:port` of the port that a pod's containers call so.
pub fn address(pod: &DynamicObject, port: &str) -> Option<String> {
    let ip = pod.data["status"]["podIP"].as_str()?;
    let containers = pod.data["spec"]["containers"].as_array()?;
    let ports = containers.iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = ports.into_iter().find(|known| known["name"] == port)?["containerPort"].as_u64()?;
    Some(if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") })
}

/// `host:port` of a port of every pod that is not on its way out.
pub fn addresses(pods: &Store<DynamicObject>, port: &str, find: Find) -> Vec<String> {
    let pods = pods.state();
    let alive = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive.filter_map(|pod| find(pod, port)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_found_by_its_name_in_any_container() {
        let pod = |ip: &str| -> DynamicObject {
            let containers =
                json!([{"name": "a"}, {"name": "b", "ports": [{"name": "metrics", "containerPort": 8082}]}]);
            let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": containers}, "status": {"podIP": ip}});
            serde_json::from_value(pod).unwrap()
        };
        assert_eq!(address(&pod("10.0.0.1"), "metrics").as_deref(), Some("10.0.0.1:8082"));
        assert_eq!(address(&pod("fd00::1"), "metrics").as_deref(), Some("[fd00::1]:8082"));
        assert_eq!(address(&pod("10.0.0.1"), "http"), None);
    }
}
