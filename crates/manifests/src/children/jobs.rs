//! The Jobs that make a model: fetch, distil, quantise.
//!
//! Each is one process of Wharf on the cache volume, named by what it makes. The operator starts each when the one before it is done;
//! without an operator each waits for what it needs.

use serde_json::{Value, json};
use wharf_spec::Model;
use wharf_spec::scalar::Source;
use wharf_spec::service::{Credentials, Distill, Optimize, Placement, Resources};

use super::pod::{container_security, pod_security, resources};
use super::{shared, volume};
use crate::artifacts::{self, Artifact, MOUNT};
use crate::facts::{Facts, Files};
use crate::names::{self, MODEL, Part, SERVICE};
use crate::{Mode, Settings};

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
    };
    let digest = model.digest.as_ref().map(|digest| digest.as_str());
    let mut jobs = owner.steps(source, digest, model.optimize.as_ref(), &facts.artifact);
    for adapter in &model.adapters {
        jobs.extend(owner.fetch(&adapter.source, None));
    }
    jobs
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
    };
    let digest = spec.digest.as_ref().map(|digest| digest.as_str());
    let artifact = artifacts::artifact(&spec.source, digest, spec.optimize.as_ref());
    owner.steps(&spec.source, digest, spec.optimize.as_ref(), &artifact)
}

/// A process of Wharf, and what it is for.
struct Step {
    verb: &'static str,
    part: Part,
    args: Vec<String>,
    /// Files that must be there before.
    needs: Vec<String>,
    /// Claims of others that are read.
    claims: Vec<String>,
}

impl Owner<'_> {
    /// Everything from a source to the model that is served.
    fn steps(
        &self,
        source: &Source,
        digest: Option<&str>,
        optimize: Option<&Optimize>,
        artifact: &Artifact,
    ) -> Vec<Value> {
        let mut jobs: Vec<Value> = self.fetch(source, digest).into_iter().collect();
        let Some(Optimize { distill, quantize, data, gate }) = optimize else {
            jobs.extend(self.copy(source, digest));
            return jobs;
        };
        let others = data
            .iter()
            .chain(distill.iter().flat_map(|d| [&d.teacher, &d.data, &d.student].into_iter().flatten()));
        for source in others {
            jobs.extend(self.fetch(source, None));
        }
        let mut model = located(source, digest);
        if let (Some(distill), Some(out)) = (distill, &artifact.student) {
            jobs.push(self.job(distillation(distill, &model, out, source)));
            model.path.clone_from(out);
        }
        if let (Some(scheme), Some(out)) = (quantize, &artifact.quantized) {
            let mut args = ["quantize", &model.path, "-o", out, "--scheme", scheme.name(), "--retry"]
                .map(str::to_owned)
                .to_vec();
            let mut needs = vec![model.path.clone()];
            let mut claims: Vec<String> = model.claim.clone().into_iter().collect();
            if let Some(data) = data {
                let data = located(data, None);
                args.extend(["--text".to_owned(), data.path.clone()]);
                if scheme.can_calibrate() {
                    args.extend(["--calibrate".to_owned(), data.path.clone()]);
                }
                needs.push(data.path);
                claims.extend(data.claim);
            }
            if let Some(gate) = gate {
                let ppl = gate
                    .max_perplexity_increase
                    .as_ref()
                    .map(|share| ["--gate-ppl".to_owned(), share.to_string()]);
                let kl = gate.max_kl_divergence.map(|nats| ["--gate-kl".to_owned(), nats.to_string()]);
                args.extend([ppl, kl].into_iter().flatten().flatten());
            }
            jobs.push(self.job(Step { verb: "quantize", part: Part::Prepare, args, needs, claims }));
        }
        jobs
    }

    /// A source that has to be fetched.
    fn fetch(&self, source: &Source, digest: Option<&str>) -> Option<Value> {
        if !source.is_remote() {
            return None;
        }
        let folder = artifacts::fetched(source, digest);
        let mut args = ["fetch", source.as_str(), "-o", &folder].map(str::to_owned).to_vec();
        args.extend(digest.iter().flat_map(|digest| ["--digest".to_owned(), (*digest).to_owned()]));
        Some(self.job(Step { verb: "fetch", part: Part::Fetch, args, needs: Vec::new(), claims: Vec::new() }))
    }

    /// A source in a volume of others that is served as it is, but beside files of our own: it joins them.
    fn copy(&self, source: &Source, digest: Option<&str>) -> Option<Value> {
        let (claim, _) = source.claim()?;
        let folder = artifacts::fetched(source, digest);
        let volume = format!("{claim}={VOLUMES}/{claim}");
        let mut args =
            ["fetch", source.as_str(), "-o", &folder, "--volume", &volume].map(str::to_owned).to_vec();
        args.extend(digest.iter().flat_map(|digest| ["--digest".to_owned(), (*digest).to_owned()]));
        let claims = vec![claim.to_owned()];
        Some(self.job(Step { verb: "copy", part: Part::Prepare, args, needs: Vec::new(), claims }))
    }

    fn job(&self, step: Step) -> Value {
        let Step { verb, part, args, needs, claims } = step;
        let mut mounts =
            vec![json!({"name": "models", "mountPath": MOUNT}), json!({"name": "tmp", "mountPath": "/tmp"})];
        let mut volumes = vec![
            json!({"name": "models", "persistentVolumeClaim": {"claimName": self.claim}}),
            json!({"name": "tmp", "emptyDir": {}}),
        ];
        for (index, claim) in claims.iter().enumerate() {
            let name = format!("source-{index}");
            mounts.push(json!({"name": name, "mountPath": format!("{VOLUMES}/{claim}"), "readOnly": true}));
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
        let mut mounts = vec![json!({"name": "models", "mountPath": MOUNT, "readOnly": true})];
        for (index, claim) in claims.iter().enumerate() {
            mounts.push(json!({"name": format!("source-{index}"), "mountPath": format!("{VOLUMES}/{claim}"), "readOnly": true}));
        }
        shared::wait(&format!("await-{index}"), self.image, path, mounts)
    }
}

/// Where claims of others are mounted.
const VOLUMES: &str = "/volumes";

/// A source as Jobs read it.
struct Located {
    path: String,
    claim: Option<String>,
}

fn located(source: &Source, digest: Option<&str>) -> Located {
    match source.claim() {
        Some((claim, path)) => Located {
            path: format!("{VOLUMES}/{claim}/{path}").trim_end_matches('/').to_owned(),
            claim: Some(claim.to_owned()),
        },
        None => Located { path: artifacts::fetched_file(source, digest), claim: None },
    }
}

fn distillation(distill: &Distill, model: &Located, out: &str, source: &Source) -> Step {
    let Distill { teacher, data, keep_layers, layers, student, steps, data_parallel } = distill;
    let teacher = match teacher {
        Some(teacher) => located(teacher, None),
        None => Located { path: model.path.clone(), claim: model.claim.clone() },
    };
    let data = located(data.as_ref().unwrap_or(source), None);
    let mut args = ["distill", "--teacher", &teacher.path, "--data", &data.path, "-o", out, "--retry"]
        .map(str::to_owned)
        .to_vec();
    let mut needs = vec![teacher.path, data.path];
    let mut claims: Vec<String> = teacher.claim.into_iter().chain(data.claim).collect();
    if let Some(student) = student {
        let student = located(student, None);
        args.extend(["--student".to_owned(), student.path.clone()]);
        needs.push(student.path);
        claims.extend(student.claim);
    }
    let options = [
        ("--keep-layers", keep_layers.clone()),
        ("--layers", layers.map(|count| count.to_string())),
        ("--steps", steps.map(|count| count.to_string())),
        ("--data-parallel", data_parallel.map(|count| count.to_string())),
    ];
    for (flag, value) in options {
        args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    claims.dedup();
    Step { verb: "distill", part: Part::Prepare, args, needs, claims }
}
