//! How each engine is started: one file an engine, one line in `of`.

mod custom;
mod llamacpp;
mod sglang;
mod vllm;
mod wharf;

use serde_json::{Value, json};
use wharf_spec::service::Engine;

use crate::facts::Facts;

/// How an engine is started, and where it tells how it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The program; the image's own if empty.
    pub command: Vec<String>,
    /// Its arguments, those of the user last.
    pub args: Vec<String>,
    /// Arguments of a process that computes for a server on another node.
    pub worker_args: Vec<String>,
    /// Environment that the engine itself needs.
    pub env: Vec<Value>,
    /// Port of the HTTP API.
    pub http: u16,
    /// Port of metrics, and their path.
    pub metrics: (u16, String),
    /// Path that answers 200 once the model is loaded, and while the process lives.
    pub liveness: String,
    /// Path that answers 200 while requests are taken.
    pub readiness: String,
    /// The environment variable that the engine takes a key from.
    pub api_key: Option<&'static str>,
    /// Files that the engine reads its configuration from.
    pub config: Option<Config>,
}

/// Configuration files, by a name that stands for their content.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the ConfigMap.
    pub name: String,
    /// Its data: file name to text.
    pub data: Value,
}

/// How the engine of a service is started.
pub(crate) fn of(facts: &Facts<'_>) -> Launch {
    let mut launch = match facts.spec.runtime.engine {
        Engine::Wharf => wharf::launch(facts),
        Engine::Vllm => vllm::launch(facts),
        Engine::Sglang => sglang::launch(facts),
        Engine::LlamaCpp => llamacpp::launch(facts),
        Engine::Custom => custom::launch(facts),
    };
    launch.args.extend(facts.spec.runtime.args.iter().cloned());
    launch.worker_args.extend(facts.spec.runtime.args.iter().cloned());
    launch
}

/// A variable of the environment.
pub(crate) fn variable(name: &str, value: impl ToString) -> Value {
    json!({"name": name, "value": value.to_string()})
}

/// Collects arguments; those without a value are left out.
#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flag(mut self, name: &str) -> Args {
        self.0.push(name.to_owned());
        self
    }

    fn with(mut self, name: &str, value: impl ToString) -> Args {
        self.0.extend([name.to_owned(), value.to_string()]);
        self
    }

    fn maybe(self, name: &str, value: Option<impl ToString>) -> Args {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Only where there is more than one.
    fn several(self, name: &str, count: u32) -> Args {
        if count > 1 { self.with(name, count) } else { self }
    }
}

/// What PyTorch's engines need in a pod that may write only to its cache and reaches nobody.
fn torch_env(cache: &str) -> Vec<Value> {
    vec![
        variable("HF_HUB_OFFLINE", 1),
        variable("HOME", format!("{cache}/home")),
        variable("TORCH_CUDNN_V8_API_ENABLED", 1),
        variable("TRITON_CACHE_DIR", format!("{cache}/triton")),
        variable("XDG_CACHE_HOME", cache),
    ]
}
