//! Sources, caches and optimisation.

use wharf_api::source::Scheme;

use super::Findings;
use crate::service::{AccessMode, Cache, CacheType, Engine, Optimize, Quantize};
use crate::{LLMService, Model};

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    let model = &spec.model;
    match (&model.source, &model.reference) {
        (None, None) => findings.error("spec.model.source", "is required, unless ref names a Model"),
        (Some(_), Some(_)) => findings.error("spec.model.ref", "cannot be given beside source: choose one"),
        (Some(_), None) | (None, Some(_)) => {}
    }
    if model.reference.is_some() {
        let beside = [
            ("digest", model.digest.is_some()),
            ("credentials", model.credentials.is_some()),
            ("optimize", model.optimize.is_some()),
        ];
        for (field, _) in beside.iter().filter(|(_, given)| *given) {
            findings
                .error(&format!("spec.model.{field}"), "belongs to the Model that ref names; move it there");
        }
    }
    cache(&model.cache, "spec.model.cache", findings);
    let kind = model.cache_type();
    if let Some(source) = &model.source {
        match kind {
            CacheType::EmptyDir => {
                let kept = source.is_remote() || model.optimize.is_some() || !model.adapters.is_empty();
                findings.require(
                    !kept,
                    "spec.model.cache.type",
                    "emptyDir keeps nothing that Jobs fetch or make; use pvc, or serve a pvc:// source as it is",
                );
            }
            CacheType::Image => findings.require(
                source.scheme() == Scheme::Oci && model.optimize.is_none(),
                "spec.model.cache.type",
                "image mounts an oci:// source as it is; use pvc for other sources and for optimised models",
            ),
            CacheType::Pvc => {}
        }
    }
    let several = spec.scaling.most() > 1 || spec.parallelism.nodes > 1;
    if kind == CacheType::Pvc
        && several
        && model.cache.access_mode == AccessMode::ReadWriteOnce
        && model.cache.claim_name.is_none()
    {
        findings.warning(
            "spec.model.cache.accessMode",
            "ReadWriteOnce holds all replicas on one node; use ReadWriteMany where the storage class has it",
        );
    }
    if let Some(optimise) = &model.optimize {
        optimize(optimise, findings);
        if let Some(scheme) = optimise.quantize {
            engine(spec.runtime.engine, scheme, findings);
        }
    }
    let made = model.optimize.as_ref().is_some_and(|optimise| optimise.quantize.is_some());
    if let (Some(source), false) = (&model.source, made) {
        format(spec.runtime.engine, source, findings);
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, adapter) in model.adapters.iter().enumerate() {
        let path = format!("spec.model.adapters[{index}].name");
        findings.require(seen.insert(adapter.name.as_str()), &path, "is the name of another adapter too");
    }
}

pub(super) fn model(object: &Model, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    cache(&spec.cache, "spec.cache", findings);
    findings.require(
        spec.source.scheme() != Scheme::File,
        "spec.source",
        "file:// names a file of one machine; a Model in a cluster needs another source",
    );
    if spec.cache.kind.is_some_and(|kind| kind != CacheType::Pvc) {
        findings.error("spec.cache.type", "a Model keeps its files in a volume: use pvc");
    }
    super::access::cidrs(&spec.egress_cidrs, "spec.egressCIDRs", findings);
    if let Some(optimise) = &spec.optimize {
        optimize(optimise, findings);
    }
}

fn cache(cache: &Cache, path: &str, findings: &mut Findings<'_>) {
    let Cache { kind, size, access_mode: _, storage_class, claim_name } = cache;
    findings.require(size.units() > 0, &format!("{path}.size"), "must not be 0");
    if claim_name.is_some() {
        let message = "belongs to a claim of our own; leave it out beside claimName";
        findings.require(storage_class.is_none(), &format!("{path}.storageClass"), message);
        let message = "must be pvc beside claimName";
        findings.require(kind.is_none_or(|kind| kind == CacheType::Pvc), &format!("{path}.type"), message);
    }
}

/// Paths begin with where the field is in both kinds: the document finds the line of whichever is there.
fn optimize(optimise: &Optimize, findings: &mut Findings<'_>) {
    let at = |field: &str| {
        let inside = findings.document.value().pointer("/spec/model").is_some();
        format!("{}optimize{field}", if inside { "spec.model." } else { "spec." })
    };
    let (gate_at, distill_at, whole) = (at(".gate"), at(".distill"), at(""));
    let Optimize { distill, quantize, data: _, gate } = optimise;
    if distill.is_none() && quantize.is_none() {
        findings.error(&whole, "does nothing: say quantize, distill, or both");
    }
    if let Some(gate) = gate {
        findings.require(
            gate.max_perplexity_increase.is_some() || gate.max_kl_divergence.is_some(),
            &gate_at,
            "lets everything through: say maxPerplexityIncrease, maxKlDivergence, or both",
        );
    }
    if let Some(distill) = distill {
        let students = [distill.keep_layers.is_some(), distill.layers.is_some(), distill.student.is_some()];
        findings.require(
            students.iter().filter(|given| **given).count() == 1,
            &distill_at,
            "needs exactly one of keepLayers, layers and student, to say what the student is",
        );
        findings.require(
            distill.data.is_some(),
            &format!("{distill_at}.data"),
            "is required: the text to train on",
        );
    }
}

/// Whether the engine reads a source as it is, as far as its name tells.
fn format(engine: Engine, source: &crate::scalar::Source, findings: &mut Findings<'_>) {
    let row = crate::engine::abilities(engine);
    let gguf = source.last_segment().ends_with(".gguf");
    let name = engine.name();
    findings.require(
        !gguf || row.gguf,
        "spec.model.source",
        format!(
            "is a GGUF file, which {name} does not read; engines that do: {}",
            crate::engine::engines_that(|row| row.gguf)
        ),
    );
    findings.require(
        gguf || row.safetensors || source.scheme() == Scheme::Oci,
        "spec.model.source",
        format!("must name a .gguf file for {name}, unless optimize.quantize makes one"),
    );
}

/// Whether the engine reads what the scheme makes.
fn engine(engine: Engine, scheme: Quantize, findings: &mut Findings<'_>) {
    let row = crate::engine::abilities(engine);
    let (reads, format) = match scheme.makes_gguf() {
        true => (row.gguf, "GGUF"),
        false => (row.safetensors, "safetensors"),
    };
    let readers =
        crate::engine::engines_that(|row| if scheme.makes_gguf() { row.gguf } else { row.safetensors });
    findings.require(
        reads,
        "spec.model.optimize.quantize",
        format!(
            "{} makes {format}, which {} does not read; engines that do: {readers}",
            scheme.name(),
            engine.name()
        ),
    );
}
