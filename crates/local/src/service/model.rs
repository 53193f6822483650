//! How the model of a revision comes to be there, and what a replica of it asks for then.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;
use wharf_manifests::process;
use wharf_spec::LLMService;
use wharf_spec::service::Engine;

use super::{Service, flat};
use crate::division::shares;
use crate::options::Needs;
use crate::place::Ask;
use crate::prepare::{self, Prepared};
use crate::supervisor::{Context, Message};

/// What is known of a model that is there.
#[derive(Default)]
pub(super) struct Known {
    /// What a replica of it asks for.
    pub(super) ask: Ask,
    /// What it needs, if that can be told.
    pub(super) needs: Option<Needs>,
    /// From when to when it was made.
    pub(super) made: Option<(Instant, Instant)>,
}

impl Service {
    /// Makes the model of a revision, if nobody does.
    pub(super) fn prepare(&mut self, revision: &str, context: &Context) {
        let busy = matches!(self.models.get(revision), Some(Prepared::Ready | Prepared::Running { .. }));
        let Some(written) = self.objects.get(revision).filter(|_| !busy) else { return };
        let places = context.folders.places(PathBuf::new(), 0, 0);
        let process = has_command(&written.object)
            .and_then(|()| process(&written.object, places).map_err(|error| error.to_string()));
        let mut process = match process {
            Ok(process) => process,
            Err(why) => {
                self.models.insert(revision.to_owned(), Prepared::Failed(why));
                return;
            }
        };
        for step in process.steps.iter_mut().filter(|step| step.verb == "fetch") {
            step.args.extend(context.fetch_args.iter().cloned());
        }
        self.models.insert(revision.to_owned(), Prepared::Running { verb: "prepare", said: String::new() });
        self.begun.insert(revision.to_owned(), Instant::now());
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let log = context.folder.log(&format!("{}-model", flat(&self.name)));
        let turns = Arc::clone(&context.turns);
        let made = prepare::prepare(context.wharf.clone(), process.steps, process.model, log, turns, told);
        let (service, of) = (self.name.clone(), revision.to_owned());
        let messages = context.messages.clone();
        let task = tokio::spawn(async move {
            let hearing = async {
                while let Some(how) = hears.recv().await {
                    let message = Message::Prepared { service: service.clone(), revision: of.clone(), how };
                    let _ = messages.send(message);
                }
            };
            tokio::join!(made, hearing);
        });
        self.preparing.insert(revision.to_owned(), task.abort_handle());
    }

    /// A model is so far.
    pub(crate) fn prepared(&mut self, revision: &str, how: Prepared, context: &Context) {
        if how == Prepared::Ready
            && let Some(written) = self.objects.get(revision)
            && let Ok(process) = process(&written.object, context.folders.places(PathBuf::new(), 0, 0))
        {
            let object = &written.object;
            let needs = context.planner.needs(object, process.model.as_ref());
            let made = self.begun.get(revision).map(|begun| (*begun, Instant::now()));
            self.known.insert(revision.to_owned(), Known { ask: ask(object, needs.as_ref()), needs, made });
        }
        if let Prepared::Failed(reason) = &how {
            self.tell(true, "ModelFailed", reason.clone(), context);
        }
        self.models.insert(revision.to_owned(), how);
    }
}

/// Whether it is said which program to start.
fn has_command(object: &LLMService) -> Result<(), String> {
    let runtime = &object.spec.runtime;
    if runtime.engine == Engine::Custom && runtime.command.is_empty() {
        let why = "is required for a custom engine on one machine, where no image says it";
        return Err(format!("spec.runtime.command: {why}"));
    }
    Ok(())
}

/// What a replica of a service asks for.
fn ask(object: &LLMService, needs: Option<&Needs>) -> Ask {
    let spec = &object.spec;
    let (requests, limits) = (&spec.resources.requests, &spec.resources.limits);
    let cpus = requests.cpu.as_ref().or(limits.cpu.as_ref()).map_or(0, |cpu| cpu.milli() / 1000);
    let said = requests.memory.as_ref().or(limits.memory.as_ref()).map(|memory| memory.units());
    let gpu = spec.resources.gpu.as_ref();
    // Ranks of Wharf's own engine compute on CPUs, whatever they hold.
    let on_gpus = gpu.is_some() && !(spec.runtime.engine == Engine::Wharf && spec.parallelism.ranks() > 1);
    let memory = said.or(needs.map(|needs| needs.memory)).unwrap_or(0);
    let gpu_memory = needs.map_or(0, |needs| needs.gpu_memory);
    let shares = shares(object);
    Ask {
        cpus: usize::try_from(cpus).unwrap_or(usize::MAX),
        // With GPUs the model is in their memory.
        memory: if on_gpus { 0 } else { memory },
        says_memory: said.is_some(),
        gpus: gpu.map_or(0, |gpu| gpu.count),
        product: gpu.and_then(|gpu| gpu.product.clone()),
        gpu_memory: if on_gpus || shares { gpu_memory } else { 0 },
        shares,
    }
}

#[cfg(test)]
mod tests {
    use wharf_spec::{Document, Object, check};

    use super::*;
    use crate::options::{Explanation, Room};

    fn asked(spec: &str) -> Ask {
        let text = format!(
            "{{apiVersion: wharf.dev/v1alpha1, kind: LLMService, metadata: {{name: a}}, spec: {{model: {{source: 'hf://o/r'}}, {spec}}}}}"
        );
        let Some(Object::Service(object)) = check(&Document::read("llm.yaml", &text).unwrap()[0]).0 else {
            panic!("not a service: {text}")
        };
        let explain = Arc::new(|_: &Room| Explanation { needs: String::new(), changes: Vec::new() });
        ask(&object, Some(&Needs { memory: 6_000, gpu_memory: 7_000, explain }))
    }

    #[test]
    fn memory_is_what_the_object_says_else_what_the_model_needs_and_none_on_gpus() {
        let cases = [
            ("replicas: 1", (6_000, false)),
            ("resources: {requests: {memory: 5k}}", (5_000, true)),
            ("resources: {limits: {memory: 9k}}", (9_000, true)),
            ("resources: {gpu: {count: 1}}", (0, false)),
            // Two ranks of Wharf's own engine compute on CPUs.
            ("resources: {gpu: {count: 2}}, parallelism: {tensor: 2}", (6_000, false)),
            ("resources: {gpu: {count: 2}}, parallelism: {tensor: 2}, runtime: {engine: vllm}", (0, false)),
        ];
        for (spec, expected) in cases {
            let ask = asked(spec);
            assert_eq!((ask.memory, ask.says_memory), expected, "{spec}");
        }
    }

    #[test]
    fn memory_of_a_gpu_is_asked_for_where_one_may_compute() {
        let cases = [
            ("replicas: 1", (0, 7_000, true)),
            ("resources: {gpu: {count: 1}}", (1, 7_000, false)),
            ("resources: {gpu: {count: 2}}, parallelism: {tensor: 2}", (2, 0, false)),
            ("runtime: {engine: llamacpp}", (0, 0, false)),
        ];
        for (spec, expected) in cases {
            let ask = asked(spec);
            assert_eq!((ask.gpus, ask.gpu_memory, ask.shares), expected, "{spec}");
        }
    }
}
