//! Any image that speaks the OpenAI protocol: told only where the model is, in the variables that the guide to LLMs on Kubernetes
//! uses, which are also those of Wharf's own server, and where to listen (`PORT`).

use super::{Launch, variable};
use crate::Mode;
use crate::facts::Facts;

pub(super) fn launch(facts: &Facts<'_>) -> Launch {
    let runtime = &facts.spec.runtime;
    let probes = runtime.probes.clone().unwrap_or_default();
    let named = runtime.ports.as_ref().map(|ports| ports.http.get());
    let mut words = runtime.command.iter().chain(&runtime.args);
    let http = match named {
        // Replicas of one machine share its ports: whoever asks for one gets one.
        Some(_) if facts.mode == Mode::Local && words.any(|word| word.contains("$(PORT)")) => {
            facts.places.http
        }
        Some(port) => port,
        None => facts.places.http,
    };
    let metrics = runtime.ports.as_ref().and_then(|ports| ports.metrics).map_or(http, |port| port.get());
    let mut env =
        vec![variable("MODEL_PATH", &facts.artifact.path), variable("MODEL_NAME", facts.served_name())];
    env.extend(facts.spec.server.defaults.max_tokens.map(|most| variable("MAX_TOKENS", most)));
    env.push(variable("PORT", http));
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
