//! One replica: a process of an engine with its ports and its configuration.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use wharf_manifests::{Places, Process, process};
use wharf_spec::LLMService;
use wharf_spec::service::Engine;

use crate::child::{Child, Program};
use crate::folder::Folder;
use crate::place::Place;
use crate::probe::{Prober, free_port, is_free};
use crate::supervisor::Message;
use crate::waiting::Waited;

/// How often a replica that was ready is asked whether it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Answers in a row that must be missing before it is taken for dead, as with the probes of pods.
const MISSED: u32 = 6;

/// Where models, caches and volumes are on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) models: PathBuf,
    pub(crate) volumes: PathBuf,
    pub(crate) cache: PathBuf,
}

impl Folders {
    /// As the processes of one replica see them.
    pub(crate) fn places(&self, config: PathBuf, http: u16, metrics: u16) -> Places {
        let text = |path: &PathBuf| path.display().to_string();
        Places {
            models: text(&self.models),
            volumes: text(&self.volumes),
            cache: text(&self.cache),
            config: text(&config),
            tls: text(&config),
            host: "127.0.0.1".to_owned(),
            http,
            metrics,
        }
    }
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It loads.
    Starting,
    /// It takes requests.
    Ready,
    /// It takes nothing new; since when.
    Draining,
}

/// Whether a replica has answered its first prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Warmth {
    Cold,
    Warming,
    Warm,
    Failed(String),
}

/// A replica that runs.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) since_ms: u64,
    pub(crate) started: Instant,
    /// Before that.
    pub(crate) waited: Waited,
    pub(crate) warmth: Warmth,
    pub(crate) place: Place,
    pub(crate) child: Child,
    /// The gateway knows that it drains.
    pub(crate) announced: bool,
    /// It was told to end: its end is no failure.
    pub(crate) told: Option<Instant>,
    /// Asks it how it is.
    pub(crate) watch: AbortHandle,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Everything that a replica is started from.
pub(crate) struct Start<'a> {
    pub(crate) service: &'a str,
    pub(crate) object: &'a LLMService,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) wharf: PathBuf,
    pub(crate) folder: &'a Folder,
    pub(crate) folders: &'a Folders,
    pub(crate) prober: Prober,
    pub(crate) messages: mpsc::UnboundedSender<Message>,
    pub(crate) now_ms: u64,
}

impl Start<'_> {
    /// Starts it, and says in messages when it is ready and how it ended.
    ///
    /// # Errors
    /// With a sentence, when it cannot even be started.
    pub(crate) fn start(self) -> Result<Replica, String> {
        let Start { service, object, name, place, wharf, folder, folders, prober, messages, now_ms } = self;
        let failed = |what: &str, error: io::Error| format!("failed to {what}: {error}");
        let http = free_port().map_err(|error| failed("find a free port", error))?;
        let metrics = free_port().map_err(|error| failed("find a free port", error))?;
        let config = folder.config(&name);
        let places = folders.places(config.clone(), http, metrics);
        let Process { launch, .. } = process(object, places).map_err(|error| error.to_string())?;
        // Whoever listens there already would be taken for this replica.
        if launch.http != http && !is_free(launch.http) {
            return Err(taken(launch.http));
        }
        if let Some(files) = &launch.config {
            write_config(&config, &files.data).map_err(|error| failed("write its configuration", error))?;
        }
        let engine = object.spec.runtime.engine;
        let mut env = environment(object, &launch.env, &place);
        if engine == Engine::Wharf {
            // What this process was told is not meant for its replicas; their files say everything.
            env.insert("WHARF_LOG_FORMAT".to_owned(), "text".to_owned());
        }
        let mut command = launch.command.clone();
        if engine == Engine::Wharf {
            command = vec![wharf.display().to_string()];
        }
        command.extend(launch.args.iter().cloned());
        let command = command.iter().map(|word| expand(word, &env)).collect();
        let log = folder.log(&name);
        let cpus = place.cpus.clone();
        let program = Program { wharf, command, env: env.into_iter().collect(), cpus, log };
        let (child, ended) = program.start().map_err(|error| failed("start its process", error))?;
        let address = format!("127.0.0.1:{}", launch.http);
        let of = |service: &str, replica: &str| (service.to_owned(), replica.to_owned());
        let (whose, exits) = (of(service, &name), messages.clone());
        tokio::spawn(async move {
            let exit = ended.await.unwrap_or_else(|error| crate::child::Exit {
                code: None,
                last: vec![format!("failed to follow it: {error}")],
            });
            let _ = exits.send(Message::Exited { service: whose.0, replica: whose.1, exit });
        });
        let (whose, at) = (of(service, &name), address.clone());
        let (readiness, liveness) = (launch.readiness, launch.liveness);
        let watch = tokio::spawn(async move {
            prober.until_ready(&at, &readiness).await;
            let ready = Message::Ready { service: whose.0.clone(), replica: whose.1.clone() };
            let _ = messages.send(ready);
            let mut missed = 0;
            while missed < MISSED {
                sleep(ALIVE_EVERY).await;
                missed = if prober.is_ready(&at, &liveness).await { 0 } else { missed + 1 };
            }
            let _ = messages.send(Message::Silent { service: whose.0, replica: whose.1 });
        });
        let now = Instant::now();
        Ok(Replica {
            name,
            address,
            state: State::Starting,
            since: now,
            since_ms: now_ms,
            started: now,
            waited: Waited::default(),
            warmth: Warmth::Cold,
            place,
            child,
            announced: false,
            told: None,
            watch: watch.abort_handle(),
        })
    }
}

/// Why an engine that names its port cannot start beside whoever has it.
fn taken(port: u16) -> String {
    format!(
        "cannot listen on port {port}, which is in use; with $(PORT) in runtime.command or runtime.args in place of the number \
         each replica gets a port of its own"
    )
}

/// Writes the files of a configuration: file name to text.
fn write_config(folder: &PathBuf, files: &Value) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, text) in files.as_object().into_iter().flatten() {
        std::fs::write(folder.join(name), text.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// The engine's own variables, those that say what it computes on, then the user's, which win.
fn environment(object: &LLMService, engine: &[Value], place: &Place) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = engine
        .iter()
        .filter_map(|variable| {
            Some((variable["name"].as_str()?.to_owned(), variable["value"].as_str()?.to_owned()))
        })
        .collect();
    env.extend(place.device.variables().into_iter().map(|(name, value)| (name.to_owned(), value)));
    for theirs in &object.spec.runtime.env {
        if let Some(value) = &theirs.value {
            env.insert(theirs.name.clone(), value.clone());
        }
    }
    env
}

/// Replaces `$(NAME)` by the variable of that name, as Kubernetes does in `command` and `args`; what names no variable stays.
fn expand(word: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = word;
    while let Some(start) = rest.find("$(") {
        let (before, after) = rest.split_at(start);
        expanded.push_str(before);
        let value = after[2..].find(')').and_then(|end| Some((env.get(&after[2..2 + end])?, end)));
        match value {
            // `$$(NAME)` is how a word says `$(NAME)` itself.
            Some((_, end)) if before.ends_with('$') => {
                expanded.pop();
                expanded.push_str(&after[..end + 3]);
                rest = &after[end + 3..];
            }
            Some((value, end)) => {
                expanded.push_str(value);
                rest = &after[end + 3..];
            }
            None => {
                expanded.push_str("$(");
                rest = &after[2..];
            }
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_arguments_are_replaced_as_kubernetes_does() {
        let env = BTreeMap::from([("PORT".to_owned(), "9000".to_owned())]);
        let cases = [
            ("--port=$(PORT)", "--port=9000"),
            ("$(PORT)$(PORT)", "90009000"),
            ("$(NOBODY) $(PORT)", "$(NOBODY) 9000"),
            ("$$(PORT)", "$(PORT)"),
            ("$(", "$("),
            ("plain", "plain"),
        ];
        for (word, expanded) in cases {
            assert_eq!(expand(word, &env), expanded, "{word}");
        }
    }
}
