//! What a supervisor is told when it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_api::console::EventView;
use wharf_gateway::GatewayConfig;
use wharf_spec::{LLMService, Model};

use crate::place::{Gpu, Machine};

/// A service as its user wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The object.
    pub object: LLMService,
    /// Its text, for people.
    pub yaml: String,
}

/// What the files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Services.
    pub services: Vec<Written>,
    /// Models that services refer to.
    pub models: Vec<Model>,
}

/// Reads the files again: none if they are as they were, else what they say, or what is wrong with them, for people.
pub type Reader = Box<dyn FnMut() -> Option<Result<Objects, String>> + Send>;

/// Hears what happens: the service, and what.
pub type Listener = Arc<dyn Fn(&str, &EventView) + Send + Sync>;

/// Forecasts what a model needs.
pub trait Planner: Send + Sync {
    /// What one replica needs, from the headers of a model that is there; none if it cannot be told.
    fn needs(&self, object: &LLMService, model: &Path) -> Option<Needs>;
}

/// What a replica needs.
#[derive(Clone)]
pub struct Needs {
    /// Bytes of memory, where it computes on CPUs.
    pub memory: u64,
    /// Bytes that a GPU must have, where it computes on those; 0 if it cannot be told.
    pub gpu_memory: u64,
    /// Says why it does not fit.
    pub explain: Arc<dyn Fn(&Room) -> Explanation + Send + Sync>,
}

/// Where a replica does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many bytes of memory are free.
    Memory(u64),
    /// The largest GPU that it could have.
    Gpu(Gpu),
}

/// Why a replica does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What it needs in all, and for what.
    pub needs: String,
    /// What can be asked of the model instead, each for itself.
    pub changes: Vec<String>,
}

/// What a supervisor is told when it starts.
pub struct Options {
    /// Our own executable, which replicas and steps of recipes are started with.
    pub wharf: PathBuf,
    /// Where fetched and made models are kept.
    pub models: PathBuf,
    /// Where what can be computed again is kept.
    pub cache: PathBuf,
    /// Arguments of every `wharf fetch` besides those of the recipe: which addresses the owner of this machine allows.
    pub fetch_args: Vec<String>,
    /// How the gateway runs.
    pub gateway: GatewayConfig,
    /// Reads the files.
    pub reader: Reader,
    /// Hears what happens.
    pub listener: Listener,
    /// Forecasts what models need.
    pub planner: Arc<dyn Planner>,
    /// What there is to give to replicas.
    pub machine: Machine,
}
