//! Where scenarios play: on the API server in memory, or on a real one. What a scenario may ask of both is here.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::{Client, Config};
use serde_json::Value;

use crate::cluster::{Call, FakeCluster, NotReached};
use crate::real::{Asked, RealCluster};

/// A cluster that a scenario plays on.
#[derive(Clone)]
pub enum Stage {
    /// In memory.
    Memory(FakeCluster),
    /// A real API server.
    Real(RealCluster),
}

impl Stage {
    /// A real API server where the environment asks for one, else one in memory.
    ///
    /// # Panics
    /// When it cannot be had.
    pub async fn start() -> Stage {
        match Asked::by_environment() {
            Some(asked) => Stage::Real(RealCluster::start(&asked).await),
            None => Stage::Memory(FakeCluster::start().await.expect("a socket of loopback")),
        }
    }

    /// The one in memory; says that a scenario is left out where it is not one, and why.
    pub fn in_memory(&self, needs: &str) -> Option<&FakeCluster> {
        match self {
            Stage::Memory(cluster) => Some(cluster),
            Stage::Real(_) => {
                eprintln!("SKIPPED on a real API server: it cannot {needs}");
                None
            }
        }
    }

    /// Whether it is a real one.
    pub fn is_real(&self) -> bool {
        matches!(self, Stage::Real(_))
    }

    /// Starts the cluster's own controllers once all kinds are there. Says whether they run; else [`crate::actors`] take their place.
    pub fn start_controllers(&self) -> bool {
        match self {
            Stage::Memory(_) => false,
            Stage::Real(cluster) => cluster.start_controllers(),
        }
    }

    /// A configuration for kube's client that may do everything.
    pub fn config(&self) -> Config {
        match self {
            Stage::Memory(cluster) => cluster.config(),
            Stage::Real(cluster) => cluster.config(),
        }
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        match self {
            Stage::Memory(cluster) => cluster.client(),
            Stage::Real(cluster) => cluster.client(),
        }
    }

    /// A client whose calls [`Stage::calls`] shows with `name` as their user agent. On a real server it is this user and no other.
    ///
    /// # Panics
    /// When a client cannot be made.
    pub fn client_of(&self, name: &'static str, user: &str) -> Client {
        let mut config = self.config();
        config.headers.push((USER_AGENT, HeaderValue::from_static(name)));
        match self {
            Stage::Memory(_) => Client::try_from(config).expect("a client for plain HTTP"),
            Stage::Real(cluster) => {
                config.auth_info.impersonate = Some(user.to_owned());
                cluster.recorded(config, name)
            }
        }
    }

    /// As [`FakeCluster::install`].
    pub async fn install(&self, group: &str) {
        match self {
            Stage::Memory(cluster) => cluster.install(group),
            Stage::Real(cluster) => cluster.install(group).await,
        }
    }

    /// As [`FakeCluster::seed`].
    pub async fn seed(&self, object: Value) -> Value {
        match self {
            Stage::Memory(cluster) => cluster.seed(object),
            Stage::Real(cluster) => cluster.seed(object).await,
        }
    }

    /// As [`FakeCluster::try_seed`].
    ///
    /// # Errors
    /// What the server says.
    pub async fn try_seed(&self, object: &Value) -> Result<Value, String> {
        match self {
            Stage::Memory(cluster) => cluster.try_seed(object),
            Stage::Real(cluster) => cluster.try_seed(object).await.map_err(|error| error.to_string()),
        }
    }

    /// A kubeconfig file's content, for programs of their own process.
    pub fn kubeconfig(&self) -> String {
        match self {
            Stage::Memory(cluster) => cluster.kubeconfig(),
            Stage::Real(cluster) => cluster.kubeconfig(),
        }
    }

    /// As [`FakeCluster::get`].
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        match self {
            Stage::Memory(cluster) => cluster.get(kind, name),
            Stage::Real(cluster) => cluster.get(kind, name),
        }
    }

    /// As [`Stage::get`], for tasks that may outlive the test: it holds up no thread while a real server answers.
    pub async fn read(&self, kind: &str, name: &str) -> Option<Value> {
        match self {
            Stage::Memory(cluster) => cluster.get(kind, name),
            Stage::Real(cluster) => cluster.read(kind, name).await,
        }
    }

    /// As [`FakeCluster::list`].
    pub fn list(&self, kind: &str) -> Vec<Value> {
        match self {
            Stage::Memory(cluster) => cluster.list(kind),
            Stage::Real(cluster) => cluster.list(kind),
        }
    }

    /// As [`FakeCluster::delete`].
    pub fn delete(&self, kind: &str, name: &str) -> bool {
        match self {
            Stage::Memory(cluster) => cluster.delete(kind, name),
            Stage::Real(cluster) => cluster.delete(kind, name),
        }
    }

    /// As [`FakeCluster::await_object`].
    ///
    /// # Errors
    /// When it does not happen within `deadline`.
    pub async fn await_object(
        &self,
        kind: &str,
        name: &str,
        deadline: Duration,
        reached: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Value, NotReached> {
        match self {
            Stage::Memory(cluster) => cluster.await_object(kind, name, deadline, reached).await,
            Stage::Real(cluster) => cluster.await_object(kind, name, deadline, reached).await,
        }
    }

    /// As [`FakeCluster::until`].
    pub async fn until(&self, deadline: Duration, reached: impl Fn(&Stage) -> bool) -> bool {
        match self {
            Stage::Memory(cluster) => cluster.until(deadline, |_| reached(self)).await,
            Stage::Real(cluster) => cluster.until(deadline, || reached(self)).await,
        }
    }

    /// As [`FakeCluster::settle`].
    pub async fn settle(&self, quiet: Duration, deadline: Duration) -> bool {
        match self {
            Stage::Memory(cluster) => cluster.settle(quiet, deadline).await,
            Stage::Real(cluster) => cluster.settle(quiet, deadline).await,
        }
    }

    /// As [`FakeCluster::calls`]; on a real server those of [`Stage::client_of`] alone, without kinds and bodies.
    pub fn calls(&self) -> Vec<Call> {
        match self {
            Stage::Memory(cluster) => cluster.calls(),
            Stage::Real(cluster) => cluster.calls(),
        }
    }

    /// Drops what was kept of calls.
    pub fn forget_calls(&self) {
        match self {
            Stage::Memory(cluster) => cluster.forget_calls(),
            Stage::Real(cluster) => cluster.forget_calls(),
        }
    }
}
