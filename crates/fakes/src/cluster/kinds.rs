//! Which kinds there are: Kubernetes' own, other projects' that a test installs, and those that CustomResourceDefinitions add.

use std::sync::Arc;

use serde_json::Value;

use super::schema::Schema;
use super::table;

/// One kind of object.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) group: String,
    /// The preferred one first.
    pub(crate) versions: Vec<Version>,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Whether its status is written apart.
    pub(crate) status: bool,
    pub(crate) scale: Option<Scale>,
    /// Whether it is defined by a CustomResourceDefinition.
    pub(crate) custom: bool,
    /// Whether objects are answered and never kept.
    pub(crate) review: bool,
}

/// A version of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    /// The structural schema, where there is one.
    pub(crate) schema: Option<Arc<Schema>>,
    /// What tables show beside names.
    pub(crate) columns: Vec<Column>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `date` and others.
    pub(crate) kind: String,
    /// A JSONPath.
    pub(crate) path: String,
}

/// Where a kind keeps what its scale subresource shows, as JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) replicas: String,
    pub(crate) actual: String,
    pub(crate) selector: Option<String>,
}

impl Kind {
    /// `deployments.apps`, as messages name kinds.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Deployment.apps`.
    pub(crate) fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// `apps/v1` for a version of it.
    pub(crate) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The version that clients prefer.
    pub(crate) fn preferred(&self) -> &str {
        self.versions.first().map_or("", |version| &version.name)
    }

    pub(crate) fn schema(&self, version: &str) -> Option<&Arc<Schema>> {
        self.versions.iter().find(|known| known.name == version)?.schema.as_ref()
    }

    pub(crate) fn columns(&self, version: &str) -> &[Column] {
        self.versions.iter().find(|known| known.name == version).map_or(&[], |version| &version.columns)
    }

    /// Identifies the kind whatever its version.
    pub(crate) fn key(&self) -> KindKey {
        KindKey { group: self.group.clone(), plural: self.plural.clone() }
    }
}

/// A kind, whatever its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindKey {
    pub(crate) group: String,
    pub(crate) plural: String,
}

/// What a row of the tables says beside names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traits {
    Plain,
    Status,
    Scaled,
    Review,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

use Scope::{Cluster as C, Namespaced as N};
use Traits::{Plain, Review, Scaled, Status};

/// Group, version, kind, plural, scope, traits, short names.
type Row = (&'static str, &'static str, &'static str, &'static str, Scope, Traits, &'static [&'static str]);

const OWN: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", C, Status, &["ns"]),
    ("", "v1", "Node", "nodes", C, Status, &["no"]),
    ("", "v1", "PersistentVolume", "persistentvolumes", C, Status, &["pv"]),
    ("", "v1", "Pod", "pods", N, Status, &["po"]),
    ("", "v1", "Service", "services", N, Status, &["svc"]),
    ("", "v1", "ConfigMap", "configmaps", N, Plain, &["cm"]),
    ("", "v1", "Secret", "secrets", N, Plain, &[]),
    ("", "v1", "ServiceAccount", "serviceaccounts", N, Plain, &["sa"]),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", N, Status, &["pvc"]),
    ("", "v1", "Event", "events", N, Plain, &["ev"]),
    ("", "v1", "Endpoints", "endpoints", N, Plain, &["ep"]),
    ("", "v1", "ResourceQuota", "resourcequotas", N, Status, &["quota"]),
    ("", "v1", "LimitRange", "limitranges", N, Plain, &["limits"]),
    ("apps", "v1", "Deployment", "deployments", N, Scaled, &["deploy"]),
    ("apps", "v1", "ReplicaSet", "replicasets", N, Scaled, &["rs"]),
    ("apps", "v1", "StatefulSet", "statefulsets", N, Scaled, &["sts"]),
    ("apps", "v1", "DaemonSet", "daemonsets", N, Status, &["ds"]),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", N, Plain, &[]),
    ("batch", "v1", "Job", "jobs", N, Status, &[]),
    ("batch", "v1", "CronJob", "cronjobs", N, Status, &["cj"]),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", N, Status, &["hpa"]),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", N, Plain, &[]),
    ("coordination.k8s.io", "v1", "Lease", "leases", N, Plain, &[]),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", N, Plain, &["netpol"]),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", N, Status, &["ing"]),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", C, Plain, &[]),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", N, Plain, &[]),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", N, Plain, &[]),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", C, Plain, &[]),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", C, Plain, &[]),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", N, Status, &["pdb"]),
    ("events.k8s.io", "v1", "Event", "events", N, Plain, &["ev"]),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", C, Plain, &["sc"]),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", C, Plain, &["pc"]),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", C, Status, &[]),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        C,
        Status,
        &["crd"],
    ),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", C, Review, &[]),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", C, Review, &[]),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", C, Review, &[]),
];

/// Other projects' kinds, without their schemas.
const FOREIGN: &[Row] = &[
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", N, Plain, &["smon"]),
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors", N, Plain, &["pmon"]),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules", N, Plain, &["promrule"]),
    ("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses", C, Status, &["gc"]),
    ("gateway.networking.k8s.io", "v1", "Gateway", "gateways", N, Status, &["gtw"]),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", N, Status, &[]),
    ("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools", N, Status, &[]),
    ("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets", N, Scaled, &["lws"]),
    ("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects", N, Status, &["so"]),
    ("keda.sh", "v1alpha1", "TriggerAuthentication", "triggerauthentications", N, Plain, &["ta"]),
    ("cert-manager.io", "v1", "Certificate", "certificates", N, Status, &["cert"]),
];

/// Kubernetes' own kinds.
pub(crate) fn own() -> Vec<Kind> {
    OWN.iter().map(|row| from_row(row, Origin::Kubernetes)).collect()
}

/// Other projects' kinds of a group.
pub(crate) fn foreign(group: &str) -> Vec<Kind> {
    FOREIGN.iter().filter(|row| row.0 == group).map(|row| from_row(row, Origin::Elsewhere)).collect()
}

/// Whose a kind is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Kubernetes,
    Elsewhere,
}

fn from_row(row: &Row, origin: Origin) -> Kind {
    let (group, version, kind, plural, scope, traits, short) = *row;
    // LeaderWorkerSet is the only one of the others that scales.
    let selector = match origin {
        Origin::Kubernetes => None,
        Origin::Elsewhere => Some("/status/hpaPodSelector".to_owned()),
    };
    Kind {
        group: group.to_owned(),
        versions: vec![Version { name: version.to_owned(), schema: None, columns: table::own(kind) }],
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short: short.iter().map(|&short| short.to_owned()).collect(),
        categories: Vec::new(),
        namespaced: scope == N,
        status: matches!(traits, Status | Scaled),
        scale: (traits == Scaled).then(|| Scale {
            replicas: "/spec/replicas".to_owned(),
            actual: "/status/replicas".to_owned(),
            selector,
        }),
        custom: origin == Origin::Elsewhere,
        review: traits == Review,
    }
}

/// The kind that a CustomResourceDefinition defines, if the definition says enough.
pub(crate) fn from_definition(definition: &Value) -> Option<Kind> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().into_iter().flatten().filter_map(text).collect::<Vec<_>>();
    let mut versions: Vec<&Value> =
        spec["versions"].as_array()?.iter().filter(|version| version["served"] == true).collect();
    versions.sort_by_key(|version| version["storage"] != true);
    let first = versions.first()?;
    let scale = &first["subresources"]["scale"];
    let pointer = |path: &Value| path.as_str().map(|path| path.replace('.', "/"));
    Some(Kind {
        group: text(&spec["group"])?,
        kind: text(&names["kind"])?,
        plural: text(&names["plural"])?,
        singular: text(&names["singular"]).unwrap_or_else(|| names["kind"].to_string().to_lowercase()),
        short: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: first["subresources"]["status"].is_object(),
        scale: pointer(&scale["specReplicasPath"]).zip(pointer(&scale["statusReplicasPath"])).map(
            |(replicas, actual)| Scale { replicas, actual, selector: pointer(&scale["labelSelectorPath"]) },
        ),
        custom: true,
        review: false,
        versions: versions
            .iter()
            .filter_map(|version| {
                let schema = &version["schema"]["openAPIV3Schema"];
                let schema = schema.is_object().then(|| Arc::new(Schema::new(schema)));
                Some(Version { name: text(&version["name"])?, schema, columns: columns(version) })
            })
            .collect(),
    })
}

/// The columns that a version of a definition names; its age where it names none.
fn columns(version: &Value) -> Vec<Column> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let column = |column: &Value| Column {
        name: text(&column["name"]),
        kind: text(&column["type"]),
        path: text(&column["jsonPath"]),
    };
    match version["additionalPrinterColumns"].as_array() {
        Some(columns) => columns.iter().map(column).collect(),
        None => table::own(""),
    }
}
