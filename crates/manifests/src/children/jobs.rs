//! The Jobs that make a model: fetch, distil, quantise; and those that remove what nothing needs any more.
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
use crate::names::{self, MODEL, Part, REMOVES, SERVICE};
use crate::recipe::{self, Step};
use crate::{Mode, Places, Settings, Stored};

/// How often a removal is tried before its Job has failed.
const REMOVAL_TRIES: u32 = 3;
/// A volume that another node holds is waited for so long.
const REMOVAL_SECONDS: u32 = 1800;
/// Logs of a removal are there for a day.
const REMOVAL_KEPT_SECONDS: u32 = 86_400;

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
    let places = Places::pod();
    let path = artifact_of(model, Store(&places)).path;
    let inside = path.strip_prefix(&places.models).unwrap_or(&path).trim_start_matches('/').to_owned();
    (claim_of_model(model), inside)
}

/// The claim that Jobs of a Model fill.
pub(crate) fn claim_of_model(model: &Model) -> String {
    let name = model.metadata.name.as_deref().unwrap_or_default();
    model.spec.cache.claim_name.clone().unwrap_or_else(|| volume::of_model_name(name))
}

/// How a Model is made, with its files in `places`.
pub(crate) fn steps_of_model(model: &Model, places: &Places) -> Vec<Step> {
    let spec = &model.spec;
    let (store, digest) = (Store(places), spec.digest.as_ref().map(|digest| digest.as_str()));
    let artifact = artifact_of(model, store);
    recipe::steps(store, &spec.source, digest, spec.optimize.as_ref(), &artifact)
}

fn artifact_of(model: &Model, store: Store<'_>) -> Artifact {
    let spec = &model.spec;
    let digest = spec.digest.as_ref().map(|digest| digest.as_str());
    let original = store.fetched_file(&spec.source, digest);
    store.artifact(&spec.source, digest, spec.optimize.as_ref(), original)
}

pub(super) fn of_model(model: &Model, settings: &Settings, mode: Mode) -> Vec<Value> {
    let owner = Owner::of_model(model, claim_of_model(model), settings, mode);
    owner.jobs(steps_of_model(model, &owner.places))
}

/// The Job that removes what nothing needs any more.
pub(crate) fn removal(model: &Model, stored: &Stored, mark: &str, settings: &Settings) -> Value {
    let owner = Owner::of_model(model, stored.claim.clone(), settings, Mode::Managed);
    let path = format!("{}/{}", owner.places.models, stored.name);
    let step = Step {
        verb: "remove",
        part: Part::Prepare,
        args: ["fetch", "--remove", &path].map(str::to_owned).to_vec(),
        needs: Vec::new(),
        claims: Vec::new(),
        makes: String::new(),
    };
    let spec = owner.pod(step);
    // Nothing of an upgrade may start a second Job for what the first one does.
    let key = names::digest_of(&json!([stored.claim, stored.name, mark]));
    let mut job = owner.job(&format!("remove-{key}"), Part::Prepare, spec);
    job["spec"]["backoffLimit"] = (REMOVAL_TRIES - 1).into();
    job["spec"]["activeDeadlineSeconds"] = REMOVAL_SECONDS.into();
    job["spec"]["ttlSecondsAfterFinished"] = REMOVAL_KEPT_SECONDS.into();
    for metadata in ["/metadata", "/spec/template/metadata"] {
        let metadata = job.pointer_mut(metadata).expect("a Job and its template have labels");
        metadata["labels"][REMOVES] = stored.name.as_str().into();
    }
    job
}

impl<'a> Owner<'a> {
    fn of_model(model: &'a Model, claim: String, settings: &'a Settings, mode: Mode) -> Owner<'a> {
        let spec = &model.spec;
        Owner {
            kind: MODEL,
            name: model.metadata.name.as_deref().unwrap_or_default(),
            namespace: model.metadata.namespace.as_deref(),
            claim,
            credentials: spec.credentials.as_ref(),
            resources: &spec.resources,
            placement: &spec.placement,
            image: &settings.image,
            account: None,
            mode,
            places: Places::pod(),
        }
    }

    fn jobs(&self, steps: Vec<Step>) -> Vec<Value> {
        let job = |step: Step| {
            let (verb, part) = (step.verb, step.part);
            let spec = self.pod(step);
            // A Job cannot be changed, so what differs in anything is another Job; it finds what the one before it has made.
            self.job(&format!("{verb}-{}", names::digest_of(&spec)), part, spec)
        };
        steps.into_iter().map(job).collect()
    }

    /// A Job whose name ends so, and its pods.
    fn job(&self, suffix: &str, part: Part, spec: Value) -> Value {
        let labels = names::labels(self.kind, self.name);
        let name = names::child(self.name, suffix);
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

    /// What the pods of a step are.
    fn pod(&self, step: Step) -> Value {
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
            // Each try is a pod that stays with what it said. One that is restarted in place goes with its Job's last try, and its words with it.
            "restartPolicy": "Never",
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
        spec
    }

    /// Fetching needs no GPU and little else, removing even less; the rest gets what the servers get.
    fn needed(&self, verb: &str) -> Value {
        match verb {
            "remove" => json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}),
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
