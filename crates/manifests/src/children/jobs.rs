//! The Jobs that make a model: fetch, distil, quantise.
//!
//! Each is one process of Wharf on the cache volume, named by what it makes. The operator starts each when the one before it is done;
//! without an operator each waits for what it needs.

use serde_json::{Value, json};
use wharf_spec::Model;
use wharf_spec::job::{PROGRESS_PORT, RESULT_FILE};
use wharf_spec::service::{Credentials, Placement, Resources};

use super::pod::{container_security, pod_security, resources};
use super::{shared, volume};
use crate::artifacts::{Artifact, Store};
use crate::facts::{Facts, Files};
use crate::names::{self, MODEL, Part, SERVICE};
use crate::recipe::{self, Step};
use crate::{Mode, Places, Settings};

/// For whom Jobs work, and with what.
struct Owner<'a> {
    kind: &'static str,
    name: &'a str,
    namespace: Option<&'a str>,
    claim: String,
    credentials: Option<&'a Credentials>,
    resources: &'a Resources,
    placement: &'a Placement,
    image: &'a str,
    account: Option<String>,
    mode: Mode,
    places: Places,
}

pub(super) fn of_service(facts: &Facts<'_>) -> Vec<Value> {
    let Files::OwnClaim(claim) = &facts.files else { return Vec::new() };
    let model = &facts.spec.model;
    let Some(source) = &model.source else { return Vec::new() };
    let owner = Owner {
        kind: SERVICE,
        name: facts.name,
        namespace: facts.namespace,
        claim: claim.clone(),
        credentials: model.credentials.as_ref(),
        resources: &facts.spec.resources,
        placement: &facts.spec.placement,
        image: &facts.settings.image,
        account: Some(super::identity::account(facts)),
        mode: facts.mode,
        places: facts.places.clone(),
    };
    let digest = model.digest.as_ref().map(|digest| digest.as_str());
    let store = Store(&facts.places);
    let mut steps = recipe::steps(store, source, digest, model.optimize.as_ref(), &facts.artifact);
    steps.extend(model.adapters.iter().filter_map(|adapter| recipe::fetch(store, &adapter.source, None)));
    owner.jobs(steps)
}

/// Where a Model is when its Jobs are done: the claim, and the path in it.
pub(crate) fn place_of_model(model: &Model) -> (String, String) {
    let spec = &model.spec;
    let name = model.metadata.name.as_deref().unwrap_or_default();
    let claim = spec.cache.claim_name.clone().unwrap_or_else(|| volume::of_model_name(name));
    let places = Places::pod();
    let path = artifact_of(model, Store(&places)).path;
    let inside = path.strip_prefix(&places.models).unwrap_or(&path).trim_start_matches('/').to_owned();
    (claim, inside)
}

fn artifact_of(model: &Model, store: Store<'_>) -> Artifact {
    let spec = &model.spec;
    let digest = spec.digest.as_ref().map(|digest| digest.as_str());
    let original = store.fetched_file(&spec.source, digest);
    store.artifact(&spec.source, digest, spec.optimize.as_ref(), original)
}

pub(super) fn of_model(model: &Model, settings: &Settings, mode: Mode) -> Vec<Value> {
    let spec = &model.spec;
    let name = model.metadata.name.as_deref().unwrap_or_default();
    let owner = Owner {
        kind: MODEL,
        name,
        namespace: model.metadata.namespace.as_deref(),
        claim: spec.cache.claim_name.clone().unwrap_or_else(|| volume::of_model_name(name)),
        credentials: spec.credentials.as_ref(),
        resources: &spec.resources,
        placement: &spec.placement,
        image: &settings.image,
        account: None,
        mode,
        places: Places::pod(),
    };
    let digest = spec.digest.as_ref().map(|digest| digest.as_str());
    let store = Store(&owner.places);
    let artifact = artifact_of(model, store);
    owner.jobs(recipe::steps(store, &spec.source, digest, spec.optimize.as_ref(), &artifact))
}

impl Owner<'_> {
    fn jobs(&self, steps: Vec<Step>) -> Vec<Value> {
        steps.into_iter().map(|step| self.job(step)).collect()
    }

    fn job(&self, step: Step) -> Value {
        let Step { verb, part, args, needs, claims, makes: _ } = step;
        let mut mounts = vec![
            json!({"name": "models", "mountPath": self.places.models}),
            json!({"name": "tmp", "mountPath": "/tmp"}),
        ];
        let mut volumes = vec![
            json!({"name": "models", "persistentVolumeClaim": {"claimName": self.claim}}),
            json!({"name": "tmp", "emptyDir": {}}),
        ];
        for (index, claim) in claims.iter().enumerate() {
            let name = format!("source-{index}");
            mounts.push(
                json!({"name": name, "mountPath": Store(&self.places).volume(claim), "readOnly": true}),
            );
            volumes
                .push(json!({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": true}}));
        }
        let mut container = json!({
            "name": verb,
            "image": self.image,
            "command": ["wharf"],
            "args": args,
            "securityContext": container_security(),
            "resources": self.needed(verb),
            "volumeMounts": mounts,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        });
        if self.mode == Mode::Managed {
            // For the operator's status.
            let port = PROGRESS_PORT.to_string();
            let told = ["--result", RESULT_FILE, "--progress-port", &port].map(Value::from);
            container["args"].as_array_mut().into_iter().for_each(|args| args.extend(told.clone()));
            container["ports"] = json!([{"name": "progress", "containerPort": PROGRESS_PORT}]);
        }
        if let (Some(credentials), Part::Fetch) = (self.credentials, part) {
            container["envFrom"] = json!([{"secretRef": {"name": credentials.secret_name}}]);
        }
        let mut spec = json!({
            "restartPolicy": "OnFailure",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": pod_security(),
            "containers": [container],
            "volumes": volumes,
        });
        if let Some(account) = &self.account {
            spec["serviceAccountName"] = account.as_str().into();
        }
        if self.mode == Mode::Standalone && !needs.is_empty() {
            let waiting = needs.iter().enumerate().map(|(index, path)| self.wait(index, path, &claims));
            spec["initContainers"] = waiting.collect();
        }
        self.place(verb, &mut spec);
        // A Job cannot be changed, so what differs in anything is another Job; it finds what the one before it has made.
        let name = names::child(self.name, &format!("{verb}-{}", names::digest_of(&spec)));
        let labels = names::labels(self.kind, self.name);
        let mut job = names::object("batch/v1", "Job", &name, self.namespace, labels);
        job["spec"] = json!({
            "backoffLimit": 6,
            "template": {
                "metadata": {"labels": names::pod_labels(self.kind, self.name, part)},
                "spec": spec,
            },
        });
        job
    }

    /// Fetching needs no GPU and little else; the rest gets what the servers get.
    fn needed(&self, verb: &str) -> Value {
        match verb {
            "fetch" | "copy" => {
                json!({"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}})
            }
            "distill" => {
                resources(&self.resources.requests, &self.resources.limits, self.resources.gpu.as_ref())
            }
            _ => resources(&self.resources.requests, &self.resources.limits, None),
        }
    }

    /// Only distilling uses GPUs.
    fn place(&self, verb: &str, spec: &mut Value) {
        let gpu = self.resources.gpu.as_ref().filter(|_| verb == "distill");
        shared::place(self.placement, gpu, spec);
    }

    fn wait(&self, index: usize, path: &str, claims: &[String]) -> Value {
        let mut mounts = vec![json!({"name": "models", "mountPath": self.places.models, "readOnly": true})];
        for (index, claim) in claims.iter().enumerate() {
            mounts.push(json!({"name": format!("source-{index}"), "mountPath": Store(&self.places).volume(claim), "readOnly": true}));
        }
        shared::wait(&format!("await-{index}"), self.image, path, mounts)
    }
}
