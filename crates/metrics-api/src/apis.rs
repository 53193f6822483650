//! The APIs that are served, and what a path of them asks for. Pure. Paths and answers are those of k8s.io/metrics: `custom_metrics` v1beta2,
//! `external_metrics` v1beta1, `metrics` v1beta1.

use serde_json::{Value, json};

use crate::escape::unescaped;
use crate::metric::{POD, SERVICE};

/// An API of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// Metrics of pods and of services.
    Custom,
    /// Metrics that belong to no object; KEDA's and others' autoscalers read them.
    External,
    /// What pods and nodes use of CPUs, memory and GPUs.
    Resource,
}

/// How metrics of services are called where they belong to no object.
const EXTERNAL_PREFIX: &str = "wharf_";
/// Services, as custom metrics name their kind.
const SERVICES: &str = "llmservices.wharf.dev";

impl Api {
    /// All of them.
    pub const ALL: [Api; 3] = [Api::Custom, Api::External, Api::Resource];

    /// As users call it.
    pub fn name(self) -> &'static str {
        match self {
            Api::Custom => "custom",
            Api::External => "external",
            Api::Resource => "resource",
        }
    }

    pub(crate) fn group(self) -> &'static str {
        match self {
            Api::Custom => "custom.metrics.k8s.io",
            Api::External => "external.metrics.k8s.io",
            Api::Resource => "metrics.k8s.io",
        }
    }

    pub(crate) fn version(self) -> &'static str {
        match self {
            Api::Custom => "v1beta2",
            Api::External | Api::Resource => "v1beta1",
        }
    }

    /// `group/version`.
    pub(crate) fn group_version(self) -> String {
        format!("{}/{}", self.group(), self.version())
    }

    /// Name of its APIService.
    pub(crate) fn service_name(self) -> String {
        format!("{}.{}", self.version(), self.group())
    }

    fn of_group(group: &str) -> Option<Api> {
        Api::ALL.into_iter().find(|api| api.group() == group)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Groups,
    Group(Api),
    Resources(Api),
    OpenApiV2,
    OpenApiV3,
    OpenApiOf(Api),
    /// A metric of pods or services; of all that are selected without a name.
    Custom {
        namespace: String,
        kind: Kind,
        name: Option<String>,
        metric: String,
    },
    External {
        namespace: String,
        metric: String,
    },
    Nodes {
        name: Option<String>,
    },
    Pods {
        namespace: Option<String>,
        name: Option<String>,
    },
    Nothing,
}

/// What custom metrics are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Service,
}

/// What a path asks for.
pub(crate) fn route(path: &str) -> Route {
    // The API server writes `*` as `%2A`.
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(unescaped).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let owned = |text: &str| text.to_owned();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => Route::Health,
        ["apis"] => Route::Groups,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "apis", group, version] => {
            api(group, version).map_or(Route::Nothing, Route::OpenApiOf)
        }
        ["apis", group] => Api::of_group(group).map_or(Route::Nothing, Route::Group),
        ["apis", group, version, rest @ ..] => match (api(group, version), rest) {
            (Some(api), []) => Route::Resources(api),
            (Some(Api::Custom), ["namespaces", namespace, kind, name, metric]) => {
                let kind = match *kind {
                    "pods" => Kind::Pod,
                    SERVICES => Kind::Service,
                    _ => return Route::Nothing,
                };
                let name = (*name != "*").then(|| owned(name));
                Route::Custom { namespace: owned(namespace), kind, name, metric: owned(metric) }
            }
            (Some(Api::External), ["namespaces", namespace, metric]) => {
                Route::External { namespace: owned(namespace), metric: owned(metric) }
            }
            (Some(Api::Resource), ["nodes"]) => Route::Nodes { name: None },
            (Some(Api::Resource), ["nodes", name]) => Route::Nodes { name: Some(owned(name)) },
            (Some(Api::Resource), ["pods"]) => Route::Pods { namespace: None, name: None },
            (Some(Api::Resource), ["namespaces", namespace, "pods"]) => {
                Route::Pods { namespace: Some(owned(namespace)), name: None }
            }
            (Some(Api::Resource), ["namespaces", namespace, "pods", name]) => {
                Route::Pods { namespace: Some(owned(namespace)), name: Some(owned(name)) }
            }
            _ => Route::Nothing,
        },
        _ => Route::Nothing,
    }
}

fn api(group: &str, version: &str) -> Option<Api> {
    Api::of_group(group).filter(|api| api.version() == version)
}

/// The metric of services that an external metric is.
pub(crate) fn of_external(metric: &str) -> Option<&str> {
    metric.strip_prefix(EXTERNAL_PREFIX)
}

/// What has to be allowed for a request: the attributes of a SubjectAccessReview, as the API server itself reads paths.
pub(crate) fn attributes(path: &str, verb: &str) -> Value {
    let resource = |api: Api,
                    namespace: Option<&str>,
                    verb: &str,
                    resource: &str,
                    name: Option<&str>,
                    sub: Option<&str>| {
        json!({"resourceAttributes": {
            "group": api.group(), "version": api.version(), "verb": verb, "resource": resource,
            "namespace": namespace.unwrap_or_default(), "name": name.unwrap_or_default(), "subresource": sub.unwrap_or_default(),
        }})
    };
    let list_or_get = |name: &Option<String>| if name.is_some() { "get" } else { "list" };
    match route(path) {
        Route::Custom { namespace, kind, name, metric } => {
            let kind = if kind == Kind::Pod { "pods" } else { SERVICES };
            resource(
                Api::Custom,
                Some(&namespace),
                verb,
                kind,
                Some(name.as_deref().unwrap_or("*")),
                Some(&metric),
            )
        }
        Route::External { namespace, metric } => {
            resource(Api::External, Some(&namespace), "list", &metric, None, None)
        }
        Route::Nodes { name } => {
            resource(Api::Resource, None, list_or_get(&name), "nodes", name.as_deref(), None)
        }
        Route::Pods { namespace, name } => {
            resource(Api::Resource, namespace.as_deref(), list_or_get(&name), "pods", name.as_deref(), None)
        }
        _ => json!({"nonResourceAttributes": {"path": path, "verb": verb}}),
    }
}

/// `APIGroupList` of the APIs that are served.
pub(crate) fn groups(served: &[Api]) -> Value {
    let groups: Vec<Value> = served.iter().map(|api| group(*api)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup` of one.
pub(crate) fn group(api: Api) -> Value {
    let version = json!({"groupVersion": api.group_version(), "version": api.version()});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": api.group(), "versions": [version], "preferredVersion": version})
}

/// `APIResourceList` of one. It is never empty, whatever runs: clients take an empty one for a failure.
pub(crate) fn resources(api: Api) -> Value {
    let resource = |name: &str, namespaced: bool, kind: &str, verbs: &[&str]| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs});
    let custom =
        |kind: &str, metric: &str| resource(&format!("{kind}/{metric}"), true, "MetricValueList", &["get"]);
    let all: Vec<Value> = match api {
        Api::Custom => {
            let of_pods = POD.iter().map(|metric| custom("pods", metric.name));
            of_pods.chain(SERVICE.iter().map(|metric| custom(SERVICES, metric.name))).collect()
        }
        Api::External => {
            let name = |metric: &str| format!("{EXTERNAL_PREFIX}{metric}");
            let all = SERVICE.iter().map(|metric| name(metric.name));
            all.map(|name| resource(&name, true, "ExternalMetricValueList", &["get"])).collect()
        }
        Api::Resource => vec![
            resource("nodes", false, "NodeMetrics", &["get", "list"]),
            resource("pods", true, "PodMetrics", &["get", "list"]),
        ],
    };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api.group_version(), "resources": all})
}

/// The API server collects these of everybody; ours describe no types, as those of Kubernetes' own metrics server do not have to.
pub(crate) fn open_api_v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "wharf metrics", "version": "v1"}, "paths": {}})
}

pub(crate) fn open_api_v3(served: &[Api]) -> Value {
    let path = |api: &Api| {
        let path = format!("apis/{}", api.group_version());
        let url = format!("/openapi/v3/{path}");
        (path, json!({"serverRelativeURL": url}))
    };
    json!({"paths": served.iter().map(path).collect::<serde_json::Map<String, Value>>()})
}

pub(crate) fn open_api_of(api: Api) -> Value {
    json!({"openapi": "3.0.0", "info": {"title": api.group(), "version": api.version()}, "paths": {}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_is_asked_for() {
        let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo";
        let asked = Route::Custom {
            namespace: "demo".to_owned(),
            kind: Kind::Pod,
            name: None,
            metric: "requests_per_second".to_owned(),
        };
        assert_eq!(route(&format!("{custom}/pods/*/requests_per_second")), asked);
        assert_eq!(route(&format!("{custom}/pods/%2A/requests_per_second")), asked);
        let asked = Route::Custom {
            namespace: "demo".to_owned(),
            kind: Kind::Service,
            name: Some("assistant".to_owned()),
            metric: "requests_waiting".to_owned(),
        };
        assert_eq!(route(&format!("{custom}/llmservices.wharf.dev/assistant/requests_waiting")), asked);
        let asked =
            Route::External { namespace: "demo".to_owned(), metric: "wharf_requests_running".to_owned() };
        assert_eq!(
            route("/apis/external.metrics.k8s.io/v1beta1/namespaces/demo/wharf_requests_running"),
            asked
        );
        assert_eq!(route("/apis/metrics.k8s.io/v1beta1/pods"), Route::Pods { namespace: None, name: None });
        assert_eq!(
            route("/apis/metrics.k8s.io/v1beta1/nodes/a"),
            Route::Nodes { name: Some("a".to_owned()) }
        );
        assert_eq!(route("/apis/custom.metrics.k8s.io/v1beta2"), Route::Resources(Api::Custom));
        assert_eq!(route("/apis/metrics.k8s.io"), Route::Group(Api::Resource));
        assert_eq!(route("/healthz"), Route::Health);
        for path in [
            "/",
            "/apis/apps",
            "/apis/custom.metrics.k8s.io/v1",
            &format!("{custom}/services/a/b"),
            "/metrics",
        ] {
            assert_eq!(route(path), Route::Nothing, "{path}");
        }
    }

    #[test]
    fn rights_are_asked_for_as_the_api_server_would() {
        let path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/demo/pods/*/requests_per_second";
        let asked = &attributes(path, "get")["resourceAttributes"];
        assert_eq!(asked["resource"], "pods");
        assert_eq!((&asked["subresource"], &asked["name"]), (&"requests_per_second".into(), &"*".into()));
        assert_eq!((&asked["verb"], &asked["namespace"]), (&"get".into(), &"demo".into()));
        let discovery = attributes("/apis/metrics.k8s.io/v1beta1", "get");
        assert_eq!(discovery["nonResourceAttributes"]["path"], "/apis/metrics.k8s.io/v1beta1");
    }

    #[test]
    fn discovery_is_never_empty() {
        for api in Api::ALL {
            assert!(!resources(api)["resources"].as_array().unwrap().is_empty(), "{api:?}");
            assert_eq!(api.service_name(), format!("{}.{}", api.version(), api.group()));
        }
    }
}
