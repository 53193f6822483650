//! Makes a model by its recipe: each step is a process of Wharf, as each is a Job in a cluster. What is there already is not made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, mpsc};
use wharf_manifests::Step;

use crate::child::{Child, Program};

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// A step runs.
    Running {
        /// `fetch`, `quantize`, `distill`.
        verb: &'static str,
        /// What it said last about its progress.
        said: String,
    },
    /// It can be served.
    Ready,
    /// It cannot, and why.
    Failed(String),
}

/// One at a time for each thing that is made: two services with the same recipe share it.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<String, Arc<Turn<()>>>>);

impl Turns {
    fn of(&self, makes: &str) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(makes.to_owned()).or_default())
    }
}

/// Runs the steps in order. `told` hears how far they are; the last thing that it hears is `Ready` or `Failed`.
pub(crate) async fn prepare(
    wharf: PathBuf,
    steps: Vec<Step>,
    model: String,
    log: PathBuf,
    turns: Arc<Turns>,
    told: mpsc::UnboundedSender<Prepared>,
) {
    for step in &steps {
        let turn = turns.of(&step.makes);
        let _alone = turn.lock().await;
        if is_made(step) {
            continue;
        }
        if let Err(reason) = run(&wharf, step, &log, &told).await {
            let _ = told.send(Prepared::Failed(reason));
            return;
        }
    }
    // Nobody makes what lies in a folder of the user's; whether it is there is seen here.
    let end = match Path::new(&model).exists() {
        true => Prepared::Ready,
        false => Prepared::Failed(format!("there is no {model}")),
    };
    let _ = told.send(end);
}

/// Steps give what they make its name when it is whole, except for folders of fetched files, which `wharf fetch` looks through itself.
fn is_made(step: &Step) -> bool {
    step.verb != "fetch" && Path::new(&step.makes).exists()
}

async fn run(
    wharf: &Path,
    step: &Step,
    log: &Path,
    told: &mpsc::UnboundedSender<Prepared>,
) -> Result<(), String> {
    let verb = step.verb;
    let program = Program {
        wharf: wharf.to_owned(),
        command: std::iter::once(wharf.display().to_string()).chain(step.args.iter().cloned()).collect(),
        env: Vec::new(),
        cpus: Vec::new(),
        log: log.to_owned(),
    };
    let _ = told.send(Prepared::Running { verb, said: String::new() });
    let hears = told.clone();
    let hear = move |line: &str| {
        let _ = hears.send(Prepared::Running { verb, said: line.to_owned() });
    };
    let (child, ended) =
        program.start_following(hear).map_err(|error| format!("failed to start `wharf {verb}`: {error}"))?;
    // Should this task be dropped, so is the child, and with it the process.
    let _running: Child = child;
    let exit = ended.await.map_err(|error| format!("failed to follow `wharf {verb}`: {error}"))?;
    match exit.code {
        Some(0) => Ok(()),
        _ => Err(format!("`wharf {verb}` {}", exit.reason())),
    }
}
