//! What an `LLMService` asks of a plan: the lengths, streams, scheme and hardware that its fields name.

use anyhow::{Context, anyhow, bail};
use wharf_plan::footprint::KvType;
use wharf_plan::inventory::Stock;
use wharf_plan::split::Split;
use wharf_plan::{Product, Scheme};
use wharf_spec::scalar::Source;
use wharf_spec::service::{Gpu, KvCacheType, Optimize, Parallelism};
use wharf_spec::{Document, LLMServiceSpec, Object, Severity, check};

/// What is asked, as far as the object says it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// The model's source.
    pub(super) source: Option<String>,
    pub(super) scheme: Option<Scheme>,
    pub(super) context: Option<u64>,
    pub(super) streams: Option<u64>,
    pub(super) batch_tokens: Option<u64>,
    pub(super) kv_cache: Option<KvType>,
    /// Bytes that a pod may take.
    pub(super) memory: Option<u64>,
    /// CPUs of a pod.
    pub(super) threads: Option<usize>,
    pub(super) gpus: Option<Gpus>,
}

/// GPUs that a replica gets.
#[derive(Debug, PartialEq)]
pub(super) struct Gpus {
    /// `None`: any that there are.
    pub(super) product: Option<String>,
    per_node: u64,
    nodes: u64,
    split: Split,
}

impl Gpus {
    /// So many of a product, spread as the object says.
    pub(super) fn of(&self, product: Product) -> (Stock, Split) {
        (Stock { product, per_node: self.per_node, nodes: self.nodes }, self.split)
    }
}

impl Asked {
    /// Reads the one service in a text.
    pub(super) fn read(name: &str, text: &str) -> anyhow::Result<Asked> {
        let documents = Document::read(name, text)?;
        let checked: Vec<_> = documents.iter().map(check).collect();
        let errors: Vec<String> = checked
            .iter()
            .flat_map(|(_, problems)| problems)
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| format!("\n  {problem}"))
            .collect();
        if !errors.is_empty() {
            bail!("it is not valid:{}", errors.concat());
        }
        let objects: Vec<Object> = checked.into_iter().filter_map(|(object, _)| object).collect();
        let services = objects.iter().filter_map(|object| match object {
            Object::Service(service) => Some(service),
            Object::Model(_) | Object::Foreign(..) => None,
        });
        match services.collect::<Vec<_>>()[..] {
            [service] => Asked::of(&service.spec, &objects),
            [] => Err(anyhow!("there is no LLMService in it")),
            [..] => Err(anyhow!("there are several LLMServices in it; give a file with one")),
        }
    }

    fn of(spec: &LLMServiceSpec, objects: &[Object]) -> anyhow::Result<Asked> {
        let (source, optimize) = model(spec, objects);
        let quantize = optimize.and_then(|optimize| optimize.quantize);
        let scheme = quantize.map(|scheme| scheme.name().parse::<Scheme>()).transpose();
        let amounts = [&spec.resources.limits, &spec.resources.requests];
        let cpus = amounts.iter().find_map(|amounts| amounts.cpu.as_ref());
        let server = &spec.server;
        Ok(Asked {
            source: source.map(|source| source.as_str().to_owned()),
            scheme: scheme.context("failed to understand model.optimize.quantize")?,
            context: server.max_model_len.map(u64::from),
            streams: spec.scaling.target.concurrency.or(server.max_num_seqs).map(u64::from),
            batch_tokens: server.max_num_batched_tokens.map(u64::from),
            kv_cache: server.kv_cache.kind.map(|kind| match kind {
                KvCacheType::F16 => KvType::F16,
                KvCacheType::Int8 => KvType::Int8,
                KvCacheType::Fp8 => KvType::Fp8,
            }),
            memory: amounts.iter().find_map(|amounts| amounts.memory.as_ref()).map(|memory| memory.units()),
            threads: cpus.and_then(|cpus| usize::try_from(cpus.units()).ok()),
            gpus: spec.resources.gpu.as_ref().map(|gpu| gpus(gpu, &spec.parallelism)),
        })
    }
}

/// Where the model comes from and what is done to it: as the service says, or a `Model` beside it that it refers to.
fn model<'a>(spec: &'a LLMServiceSpec, objects: &'a [Object]) -> (Option<&'a Source>, Option<&'a Optimize>) {
    let Some(reference) = &spec.model.reference else {
        return (spec.model.source.as_ref(), spec.model.optimize.as_ref());
    };
    let referred = objects.iter().find_map(|object| match object {
        Object::Model(model) if model.metadata.name.as_deref() == Some(reference.as_str()) => Some(model),
        Object::Model(_) | Object::Service(_) | Object::Foreign(..) => None,
    });
    (referred.map(|model| &model.spec.source), referred.and_then(|model| model.spec.optimize.as_ref()))
}

fn gpus(gpu: &Gpu, parallelism: &Parallelism) -> Gpus {
    let Parallelism { tensor, pipeline, nodes } = *parallelism;
    Gpus {
        product: gpu.product.clone(),
        per_node: gpu.count.into(),
        nodes: nodes.into(),
        split: Split { tensor: tensor.into(), pipeline: pipeline.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "\
apiVersion: wharf.dev/v1alpha1
kind: LLMService
metadata: {name: assistant}
spec:
  model: {ref: llama}
  runtime: {engine: vllm}
  resources: {gpu: {count: 2, product: NVIDIA-L4}}
  parallelism: {tensor: 2}
  server: {maxModelLen: 4096}
  scaling: {max: 4, target: {concurrency: 16}}
---
apiVersion: wharf.dev/v1alpha1
kind: Model
metadata: {name: llama}
spec:
  source: hf://meta-llama/Llama-3.1-8B
  optimize: {quantize: fp8}
";

    #[test]
    fn a_service_and_its_model_say_what_is_wanted() {
        let asked = Asked::read("llm.yaml", YAML).unwrap();
        assert_eq!(asked.source.as_deref(), Some("hf://meta-llama/Llama-3.1-8B"));
        assert_eq!(asked.scheme.map(|scheme| scheme.name), Some("fp8"));
        assert_eq!((asked.context, asked.streams), (Some(4096), Some(16)));
        let gpus = asked.gpus.unwrap();
        let (stock, split) = gpus.of(Product::find("l4").unwrap());
        assert_eq!((stock.per_node, stock.nodes, split), (2, 1, Split { tensor: 2, pipeline: 1 }));
    }

    #[test]
    fn what_is_no_service_is_told() {
        let error = |text: &str| format!("{:#}", Asked::read("llm.yaml", text).unwrap_err());
        let only_model = YAML.split_once("---\n").unwrap().1;
        assert!(error(only_model).contains("no LLMService"));
        assert!(error(&YAML.replace("kind: LLMService", "kind: LLMServices")).contains("LLMService"));
    }
}
