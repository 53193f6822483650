//! What the chosen engine can honour.

use super::Findings;
use crate::LLMService;
use crate::engine::{Abilities, abilities, engines_that};
use crate::service::{Engine, RequestDefaults};

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    let runtime = &spec.runtime;
    let engine = runtime.engine;
    let can = abilities(engine);
    let cannot = |what: &str, those: String| {
        let name = engine.name();
        if those.is_empty() {
            format!("{name} cannot {what}, nor can another engine")
        } else {
            format!("{name} cannot {what}; engines that can: {those}")
        }
    };
    findings.require(
        can.cpu || spec.resources.gpu.is_some(),
        "spec.resources.gpu",
        cannot("run without a GPU", engines_that(|row| row.cpu)),
    );
    let parallelism = &spec.parallelism;
    findings.require(
        can.tensor || parallelism.tensor <= 1,
        "spec.parallelism.tensor",
        cannot("divide layers", engines_that(|row| row.tensor)),
    );
    findings.require(
        can.pipeline || parallelism.pipeline <= 1,
        "spec.parallelism.pipeline",
        cannot("divide a model into stages", engines_that(|row| row.pipeline)),
    );
    findings.require(
        can.tensor_and_pipeline || parallelism.tensor <= 1 || parallelism.pipeline <= 1,
        "spec.parallelism.pipeline",
        cannot("combine tensor and pipeline", engines_that(|row| row.tensor_and_pipeline)),
    );
    findings.require(
        can.nodes || parallelism.nodes <= 1,
        "spec.parallelism.nodes",
        cannot("spread a replica over nodes", engines_that(|row| row.nodes)),
    );
    let gpus = spec.resources.gpu.as_ref().map_or(0, |gpu| gpu.count * parallelism.nodes);
    findings.require(
        can.several_gpus || gpus <= 1,
        "spec.resources.gpu.count",
        cannot("divide a model among GPUs", engines_that(|row| row.several_gpus)),
    );
    findings.require(
        can.adapters || spec.model.adapters.is_empty(),
        "spec.model.adapters",
        cannot("serve adapters", engines_that(|row| row.adapters)),
    );
    if let Some(kind) = spec.server.kv_cache.kind {
        findings.require(
            can.kv_cache.contains(&kind),
            "spec.server.kvCache.type",
            cannot("store keys and values so", engines_that(|row| row.kv_cache.contains(&kind))),
        );
        let on_gpus = |row: &Abilities| row.kv_cache_on_gpus.contains(&kind);
        findings.require(
            gpus == 0 || !can.kv_cache.contains(&kind) || on_gpus(can),
            "spec.server.kvCache.type",
            cannot("store keys and values so on a GPU", engines_that(on_gpus)),
        );
    }
    let defaults = &spec.server.defaults;
    let only_length = RequestDefaults { max_tokens: defaults.max_tokens, ..RequestDefaults::default() };
    // A custom engine is told the most tokens in its environment, and nothing else.
    findings.require(
        can.request_defaults
            || *defaults == only_length && (engine == Engine::Custom || defaults.max_tokens.is_none()),
        "spec.server.defaults",
        cannot("take defaults for requests", engines_that(|row| row.request_defaults)),
    );
    let penalties = [defaults.frequency_penalty, defaults.presence_penalty]
        .into_iter()
        .flatten()
        .any(|value| value != 0.0);
    findings.require(
        can.penalties || !penalties,
        "spec.server.defaults",
        cannot("take penalties as defaults", engines_that(|row| row.penalties)),
    );
    findings.require(
        can.tls || spec.expose.tls.is_none() || !spec.expose.direct,
        "spec.expose.tls",
        cannot("serve HTTPS itself, as direct asks for", engines_that(|row| row.tls)),
    );
    for (index, argument) in runtime.args.iter().enumerate() {
        let name = argument.split('=').next().unwrap_or_default();
        let path = format!("spec.runtime.args[{index}]");
        findings.require(
            !can.reserved_args.contains(&name),
            &path,
            format!("{name} is given by Wharf; leave it out"),
        );
    }
    custom(object, findings);
}

/// What only a custom engine needs, and only a custom engine has.
fn custom(object: &LLMService, findings: &mut Findings<'_>) {
    let runtime = &object.spec.runtime;
    if runtime.engine == Engine::Custom {
        findings.require(runtime.image.is_some(), "spec.runtime.image", "is required for a custom engine");
        findings.require(
            runtime.ports.is_some(),
            "spec.runtime.ports",
            "is required for a custom engine: where does it answer requests?",
        );
        return;
    }
    let given = [
        ("command", !runtime.command.is_empty()),
        ("ports", runtime.ports.is_some()),
        ("probes", runtime.probes.is_some()),
    ];
    for (field, _) in given.iter().filter(|(_, given)| *given) {
        let message = format!("is for engine: custom; {} has its own", runtime.engine.name());
        findings.error(&format!("spec.runtime.{field}"), message);
    }
}
