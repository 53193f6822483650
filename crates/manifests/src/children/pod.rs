//! The pods of an engine: probes, resources, volumes, nodes, and the least rights that they can work with.
//!
//! Only what an engine needs to run is in here: a change of scaling, labels or observability must not change a pod, because that would
//! restart it.

use serde_json::{Map, Value, json};
use wharf_spec::scalar::Quantity;
use wharf_spec::service::{Amounts, Engine, Gpu};

use super::{identity, shared, volume, workload};
use crate::facts::{Facts, Files};
use crate::launch::{Launch, variable};
use crate::names::{self, HTTPS, Part, RANKS, SERVICE};
use crate::version::Colour;
use crate::{Mode, strategic_merge};

/// The user that everything runs as: no account of a host has this number.
const NOBODY: u32 = 65532;
/// Half a minute beyond the longest answer, to be told and to say goodbye.
const GOODBYE_SECONDS: i64 = 30;
/// How often a probe asks.
const PROBE_SECONDS: i64 = 5;

/// What makes the pods of a version that are a part of the service.
pub(crate) fn template(facts: &Facts<'_>, colour: Colour, part: Part) -> Value {
    let mut labels = names::pod_labels(SERVICE, facts.name, part);
    labels.extend(workload::selector(facts, colour, part));
    let launch = facts.launch();
    let mut spec = json!({
        "serviceAccountName": identity::account(facts),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": facts.spec.server.longest_answer.whole_seconds() + GOODBYE_SECONDS,
    });
    place(facts, colour, &mut spec);
    let secrets = &facts.spec.runtime.image_pull_secrets;
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.iter().map(|name| json!({"name": name})).collect();
    }
    let mounts = Mounts::of(facts, launch);
    if facts.mode == Mode::Standalone && matches!(facts.files, Files::OwnClaim(_)) {
        spec["initContainers"] = json!([wait(facts)]);
    }
    spec["containers"] = json!([container(facts, launch, part, &mounts)]);
    spec["volumes"] = Value::Array(mounts.volumes);
    let mut template = json!({"metadata": {"labels": labels}, "spec": spec});
    if let Some(patch) = &facts.spec.overrides.pod {
        strategic_merge(&mut template, &Value::Object(patch.clone()));
    }
    template
}

/// What `restricted` of the Pod Security Standards asks of a pod.
pub(super) fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": NOBODY,
        "runAsGroup": NOBODY,
        "fsGroup": NOBODY,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// What it asks of a container, and a root that cannot be written.
pub(super) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    })
}

/// Where the pod may run.
fn place(facts: &Facts<'_>, colour: Colour, spec: &mut Value) {
    let placement = &facts.spec.placement;
    shared::place(placement, facts.spec.resources.gpu.as_ref(), spec);
    if let Some(class) = &placement.priority_class {
        spec["priorityClassName"] = class.as_str().into();
    }
    // The pods of one group belong on nodes of their own anyway.
    if !facts.is_group() {
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1,
            "topologyKey": placement.spread_over,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": workload::selector(facts, colour, Part::Server)},
            "matchLabelKeys": ["pod-template-hash"],
        }]);
    }
}

fn container(facts: &Facts<'_>, launch: &Launch, part: Part, mounts: &Mounts) -> Value {
    let (metrics, _) = launch.metrics;
    let args = if part == Part::Worker { &launch.worker_args } else { &launch.args };
    let mut container = json!({
        "name": "server",
        "image": facts.image(),
        "env": env(facts, launch),
        "resources": resources(&facts.spec.resources.requests, &facts.spec.resources.limits, facts.spec.resources.gpu.as_ref()),
        "securityContext": container_security(),
        "volumeMounts": mounts.mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    if !launch.command.is_empty() {
        container["command"] = json!(launch.command);
    }
    if !args.is_empty() {
        container["args"] = json!(args);
    }
    let mut ports = Vec::new();
    if part == Part::Server {
        ports.push(json!({"name": "http", "containerPort": launch.http, "protocol": "TCP"}));
        if facts.serves_tls() {
            ports.push(json!({"name": "https", "containerPort": HTTPS, "protocol": "TCP"}));
        }
        if metrics != launch.http {
            ports.push(json!({"name": "metrics", "containerPort": metrics, "protocol": "TCP"}));
        }
        probes(facts, launch, &mut container);
    }
    if facts.is_group() {
        ports.push(json!({"name": "ranks", "containerPort": RANKS, "protocol": "TCP"}));
    }
    if !ports.is_empty() {
        container["ports"] = Value::Array(ports);
    }
    container
}

/// A start that takes as long as it may; then ready while requests are taken, and alive while work goes on.
fn probes(facts: &Facts<'_>, launch: &Launch, container: &mut Value) {
    let get = |path: &str| json!({"path": path, "port": "http", "scheme": "HTTP"});
    let tries = (facts.spec.server.longest_start.whole_seconds() / PROBE_SECONDS).max(1);
    container["startupProbe"] = json!({
        "httpGet": get(&launch.liveness), "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 3, "failureThreshold": tries,
    });
    container["readinessProbe"] = json!({
        "httpGet": get(&launch.readiness), "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 3, "failureThreshold": 2,
    });
    container["livenessProbe"] = json!({
        "httpGet": get(&launch.liveness), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
    });
}

/// The engine's own variables, those that tune it, then the user's, which win.
fn env(facts: &Facts<'_>, launch: &Launch) -> Vec<Value> {
    let spec = facts.spec;
    let mut env: Vec<Value> = Vec::new();
    if let (true, Some(keys), Some(name)) = (facts.is_direct(), &spec.access.api_keys, launch.api_key) {
        env.push(json!({"name": name, "valueFrom": {"secretKeyRef": {"name": keys.secret_name, "key": "api_key"}}}));
    }
    env.extend(launch.env.iter().cloned());
    let cores = spec.resources.requests.cpu.as_ref().or(spec.resources.limits.cpu.as_ref());
    if let Some(cores) = cores.filter(|_| spec.runtime.engine != Engine::Wharf) {
        // One thread for each core that the pod is sure to have: more would wait for each other.
        env.push(variable("OMP_NUM_THREADS", (cores.milli() / 1000).max(1)));
    }
    if spec.resources.gpu.is_some() {
        env.push(variable("CUDA_CACHE_PATH", format!("{}/cuda", facts.places.cache)));
        env.push(variable("CUDA_CACHE_MAXSIZE", 2_147_483_648_u64));
        env.push(variable("CUDA_CACHE_DISABLE", 0));
        env.push(variable("CUDA_MODULE_LOADING", "LAZY"));
        env.push(variable("CUDA_LAUNCH_BLOCKING", 0));
    }
    for theirs in &spec.runtime.env {
        env.retain(|ours| ours["name"] != theirs.name);
        env.push(serde_json::to_value(theirs).expect("plain data"));
    }
    env
}

/// Requests and limits as Kubernetes takes them. GPUs cannot be shared, so both say the same.
pub(super) fn resources(requests: &Amounts, limits: &Amounts, gpu: Option<&Gpu>) -> Value {
    let amounts = |amounts: &Amounts| {
        let Amounts { cpu, memory, ephemeral_storage } = amounts;
        let fields = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", ephemeral_storage)];
        let given = fields.into_iter().filter_map(|(name, amount)| Some((name, amount.as_ref()?)));
        let mut map: Map<String, Value> = given
            .map(|(name, amount): (&str, &Quantity)| (name.to_owned(), amount.as_str().into()))
            .collect();
        if let Some(gpu) = gpu {
            map.insert(gpu.resource.clone(), gpu.count.to_string().into());
        }
        map
    };
    let mut resources = Map::new();
    for (name, amounts) in [("requests", amounts(requests)), ("limits", amounts(limits))] {
        if !amounts.is_empty() {
            resources.insert(name.to_owned(), Value::Object(amounts));
        }
    }
    Value::Object(resources)
}

/// Waits until Jobs have made the model, where no operator does.
fn wait(facts: &Facts<'_>) -> Value {
    let mounts = vec![json!({"name": "models", "mountPath": facts.places.models, "readOnly": true})];
    shared::wait("await-model", &facts.settings.image, &facts.artifact.path, mounts)
}

/// Volumes and where they are mounted.
struct Mounts {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl Mounts {
    fn of(facts: &Facts<'_>, launch: &Launch) -> Mounts {
        let mut all = Mounts { volumes: Vec::new(), mounts: Vec::new() };
        let places = &facts.places;
        let claim = |name: &str| json!({"persistentVolumeClaim": {"claimName": name, "readOnly": true}});
        let models = match &facts.files {
            Files::OwnClaim(name) | Files::TheirClaim(name) => claim(name),
            Files::OfModel(model) => claim(&volume::of_model_name(model)),
            Files::Image(reference) => {
                json!({"image": {"reference": reference, "pullPolicy": "IfNotPresent"}})
            }
            Files::Local => json!({"emptyDir": {}}),
        };
        all.add("models", &places.models, models, true);
        all.add("cache", &places.cache, json!({"emptyDir": {}}), false);
        all.add("tmp", "/tmp", json!({"emptyDir": {}}), false);
        if let (Some(path), Some(_)) = (&facts.spec.placement.cuda_cache, &facts.spec.resources.gpu) {
            all.add(
                "cuda-cache",
                &format!("{}/cuda", places.cache),
                json!({"hostPath": {"path": path, "type": "DirectoryOrCreate"}}),
                false,
            );
        }
        if facts.spec.parallelism.ranks() > 1 {
            // Ranks exchange sums over shared memory, of which containers have 64 MiB by default.
            all.add("shm", "/dev/shm", json!({"emptyDir": {"medium": "Memory"}}), false);
        }
        if let Some(config) = &launch.config {
            all.add("config", &places.config, json!({"configMap": {"name": config.name}}), true);
        }
        if let (true, Some(tls), true) = (facts.serves_tls(), &facts.spec.expose.tls, launch.config.is_some())
        {
            all.add("tls", &places.tls, json!({"secret": {"secretName": tls.secret_name}}), true);
        }
        all
    }

    fn add(&mut self, name: &str, path: &str, source: Value, read_only: bool) {
        let mut volume = json!({"name": name});
        strategic_merge(&mut volume, &source);
        self.volumes.push(volume);
        let mut mount = json!({"name": name, "mountPath": path});
        if read_only {
            mount["readOnly"] = true.into();
        }
        self.mounts.push(mount);
    }
}
