//! Any image that speaks the OpenAI protocol: told only where the model is, in the variables that the guide to LLMs on Kubernetes
//! uses, which are also those of Wharf's own server.

use super::{Launch, variable};
use crate::facts::Facts;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let runtime = &facts.spec.runtime;
    let probes = runtime.probes.clone().unwrap_or_default();
    let http = runtime.ports.as_ref().map_or(facts.places.http, |ports| ports.http.get());
    let metrics = runtime.ports.as_ref().and_then(|ports| ports.metrics).map_or(http, |port| port.get());
    let mut env =
        vec![variable("MODEL_PATH", &facts.artifact.path), variable("MODEL_NAME", facts.served_name())];
    env.extend(facts.spec.server.defaults.max_tokens.map(|most| variable("MAX_TOKENS", most)));
    Launch {
        command: runtime.command.clone(),
        args: Vec::new(),
        worker_args: Vec::new(),
        env,
        http,
        metrics: (metrics, probes.metrics),
        liveness: probes.liveness,
        readiness: probes.readiness,
        api_key: Some("API_KEY"),
        config: None,
    }
}
