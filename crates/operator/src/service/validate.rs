//! From what is written to what is wanted: a service with a source of its own, its revision, and the release as it was kept. Calls nobody.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use wharf_autoscaler::Policy;
use wharf_manifests::{Mode, Settings, model_place, revision};
use wharf_rollout::{Command, CommandKind, Prepared, State};
use wharf_spec::scalar::Source;
use wharf_spec::service::{ConditionStatus, ServiceStatus};
use wharf_spec::{Document, LLMService, Model, Object, Severity, check};

use super::dereference::Found;
use crate::context::Context;
use crate::scaling;
use crate::workload::{RELEASED, Workload};

/// Says what somebody asks of a release: `promote@17`, where the number grows with every command.
pub(crate) const COMMAND: &str = "wharf.dev/rollout";
/// The commands that there are.
const COMMANDS: [(&str, CommandKind); 4] = [
    ("promote", CommandKind::Promote),
    ("abort", CommandKind::Abort),
    ("undo", CommandKind::Undo),
    ("retry", CommandKind::Retry),
];

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The service, with the source of the Model that it refers to.
    pub(crate) service: LLMService,
    pub(crate) generation: i64,
    pub(crate) revision: String,
    /// What the Model says, where there is one.
    pub(crate) model: Option<Prepared>,
    /// The release as it was kept.
    pub(crate) state: State,
    /// Specs of the versions that there are, by revision, as JSON.
    pub(crate) specs: BTreeMap<String, String>,
    /// Images that their engines run, by revision.
    pub(crate) images: BTreeMap<String, String>,
    /// The status as it is.
    pub(crate) before: ServiceStatus,
    pub(crate) commands: Vec<Command>,
    /// How our autoscaler scales it; none where somebody else does.
    pub(crate) policy: Option<Policy>,
}

/// Nothing can be done with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// In one word.
    pub(crate) reason: &'static str,
    /// In sentences.
    pub(crate) message: String,
}

pub(super) fn validate(context: &Context, found: &Found) -> Result<Wanted, Refusal> {
    let mut service = read(checked(context, &found.object)?)?;
    let refuse = |reason, message| Refusal { reason, message };
    let before = before(&found.object);
    let state = match &before.rollout {
        None => State::default(),
        Some(value) => State::read(value.clone())
            .map_err(|error| refuse("ReleaseUnreadable", wharf_telemetry::log::chain(&error)))?,
    };
    let model = service
        .spec
        .model
        .reference
        .clone()
        .map(|name| resolve(&mut service, name.as_str(), found.model.as_ref()));
    let revision = revision_of(&service, &context.settings, &found.workloads)
        .map_err(|error| refuse("InvalidSpec", error.to_string()))?;
    let policy = scaling::wanted(&service).map_err(|error| refuse("InvalidSpec", format!("spec.{error}")))?;
    Ok(Wanted {
        policy,
        generation: found.object.metadata.generation.unwrap_or(0),
        specs: noted(&before, SPECS),
        images: noted(&before, IMAGES),
        commands: command(&found.object).into_iter().collect(),
        service,
        revision,
        model,
        state,
        before,
    })
}

fn read(object: Object) -> Result<LLMService, Refusal> {
    match object {
        Object::Service(service) => Ok(*service),
        Object::Model(_) | Object::Foreign(..) => {
            Err(Refusal { reason: "InvalidSpec", message: "it is no LLMService".to_owned() })
        }
    }
}

/// An object of ours that has no faults; found once for each generation.
pub(crate) fn checked(context: &Context, object: &DynamicObject) -> Result<Object, Refusal> {
    let (uid, generation) = (object.metadata.uid.clone().unwrap_or_default(), object.metadata.generation);
    let known = context.memory().checked.get(&uid).cloned();
    if let Some((_, found)) = known.filter(|(of, _)| Some(*of) == generation) {
        return found;
    }
    let found = check_object(object);
    if let Some(generation) = generation {
        context.memory().checked.insert(uid, (generation, found.clone()));
    }
    found
}

fn check_object(object: &DynamicObject) -> Result<Object, Refusal> {
    let types = object.types.clone().unwrap_or_default();
    let plain = json!({
        "apiVersion": types.api_version, "kind": types.kind,
        "metadata": {"name": object.name_any(), "namespace": object.namespace()},
        "spec": object.data["spec"],
    });
    let invalid = |message: String| Refusal { reason: "InvalidSpec", message };
    let documents =
        Document::read("the object", &plain.to_string()).map_err(|error| invalid(error.to_string()))?;
    let Some(document) = documents.first() else { return Err(invalid("it is empty".to_owned())) };
    let (read, problems) = check(document);
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    let words: Vec<String> = errors.map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    match read {
        Some(read) if words.is_empty() => Ok(read),
        _ => Err(invalid(words.join("; "))),
    }
}

/// The status as it is; what cannot be read of it is made anew.
pub(super) fn before(object: &DynamicObject) -> ServiceStatus {
    serde_json::from_value(object.data["status"].clone()).unwrap_or_default()
}

/// Gives a service the files of its Model, and says how far that is.
fn resolve(service: &mut LLMService, name: &str, model: Option<&Model>) -> Prepared {
    let Some(model) = model else {
        return Prepared::Pending(format!(
            "there is no Model {name} in its namespace; create it, or correct spec.model.ref"
        ));
    };
    let status = model.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.kind == "Ready");
    // A Model whose new files are being made goes on serving the old ones.
    let Some(path) = &status.path else {
        let said = ready.map_or("it was not looked at yet", |ready| ready.message.as_str());
        let failed = ready
            .is_some_and(|ready| ready.status == ConditionStatus::False && ready.reason.ends_with("Failed"));
        return match failed {
            true => Prepared::Failed(format!("the Model {name} cannot be served: {said}")),
            false => Prepared::Pending(format!("waits for the Model {name}: {said}")),
        };
    };
    let (claim, _) = model_place(model);
    let section = &mut service.spec.model;
    match Source::parse(&format!("pvc://{claim}/{path}")) {
        Ok(source) => {
            section.reference = None;
            section.source = Some(source);
            Prepared::Ready
        }
        Err(error) => Prepared::Failed(format!("the Model {name} is at {path}, which is no path: {error}")),
    }
}

/// What stands for everything that restarts pods. A version that was made from the same keeps its revision whatever Wharf renders today, so that
/// an upgrade of Wharf restarts nothing.
fn revision_of(
    service: &LLMService,
    settings: &Settings,
    workloads: &[Workload],
) -> Result<String, wharf_manifests::RenderError> {
    let now = revision(service, settings, Mode::Managed)?;
    for workload in workloads.iter().filter(|workload| workload.revision != now) {
        let released = workload.object.annotations().get(RELEASED);
        let spec = released.and_then(|text| serde_json::from_str(text).ok());
        let Some(spec) = spec else { continue };
        let then = LLMService { spec, ..service.clone() };
        if revision(&then, settings, Mode::Managed)? == now {
            return Ok(workload.revision.clone());
        }
    }
    Ok(now)
}

fn command(object: &DynamicObject) -> Option<Command> {
    let text = object.annotations().get(COMMAND)?;
    let (kind, sequence) = text.split_once('@')?;
    let (_, kind) = COMMANDS.into_iter().find(|(word, _)| *word == kind)?;
    Some(Command { sequence: sequence.parse().ok()?, kind })
}

/// What a command is called.
pub(crate) fn word(kind: CommandKind) -> &'static str {
    COMMANDS.into_iter().find(|(_, known)| *known == kind).map_or("", |(word, _)| word)
}

/// Where the specs of versions are in what a release remembers: beside the state, which leaves out what it does not know.
pub(crate) const SPECS: &str = "specs";
/// Where the images of their engines are.
pub(super) const IMAGES: &str = "images";

fn noted(before: &ServiceStatus, key: &str) -> BTreeMap<String, String> {
    let kept = before.rollout.as_ref().and_then(|rollout| rollout.get(key)).cloned().unwrap_or_default();
    serde_json::from_value(kept).unwrap_or_default()
}

/// The spec of a service as a version remembers it.
pub(super) fn released(service: &LLMService) -> String {
    // What was read from JSON has a form in it.
    serde_json::to_value(&service.spec).unwrap_or(Value::Null).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn service(spec: Value) -> DynamicObject {
        object(
            json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a", "namespace": "n"}, "spec": spec}),
        )
    }

    #[test]
    fn a_faulty_object_is_refused_in_the_words_of_check() {
        let refusal =
            check_object(&service(json!({"model": {"source": "hf://a/b"}, "scaling": {"min": 3, "max": 1}})))
                .unwrap_err();
        assert_eq!(refusal.reason, "InvalidSpec");
        assert!(refusal.message.contains("spec.scaling"), "{}", refusal.message);
        let refusal = check_object(&service(json!({"model": 5}))).unwrap_err();
        assert!(refusal.message.contains("spec.model"), "{}", refusal.message);
    }

    #[test]
    fn a_command_is_an_annotation_with_a_number() {
        let with = |text: &str| {
            command(&object(
                json!({"apiVersion": "v1", "kind": "X", "metadata": {"annotations": {COMMAND: text}}}),
            ))
        };
        assert_eq!(with("promote@17"), Some(Command { sequence: 17, kind: CommandKind::Promote }));
        assert_eq!(with("undo@2"), Some(Command { sequence: 2, kind: CommandKind::Undo }));
        for nonsense in ["promote", "dance@1", "abort@x", ""] {
            assert_eq!(with(nonsense), None);
        }
    }

    #[test]
    fn a_service_waits_for_its_model_and_says_what_the_model_says() {
        let mut service = read(check_object(&service(json!({"model": {"ref": "m"}}))).unwrap()).unwrap();
        let told = |service: &mut LLMService, status: Value| {
            let model = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "Model", "metadata": {"name": "m"}, "spec": {"source": "hf://a/b"}, "status": status});
            resolve(service, "m", Some(&serde_json::from_value(model).unwrap()))
        };
        let Prepared::Pending(why) = resolve(&mut service, "m", None) else { panic!("there is none") };
        assert!(why.contains("no Model m"), "{why}");
        let condition = |reason: &str, message: &str| json!({"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": message, "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
        let pending = told(&mut service, condition("Fetching", "`wharf fetch` runs"));
        assert_eq!(pending, Prepared::Pending("waits for the Model m: `wharf fetch` runs".to_owned()));
        let failed = told(&mut service, condition("GateFailed", "+3.1% is more than 2%"));
        assert_eq!(
            failed,
            Prepared::Failed("the Model m cannot be served: +3.1% is more than 2%".to_owned())
        );
        assert_eq!(told(&mut service, json!({"path": "artifact-1"})), Prepared::Ready);
        assert_eq!(service.spec.model.source.as_ref().unwrap().as_str(), "pvc://m-model/artifact-1");
    }
}
