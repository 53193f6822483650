//! How a model is made: the commands of Wharf from its source to what is served, in order.
//!
//! In a cluster each is a Job, on one machine a process. What each makes is named by what it is made from, so that a step whose
//! result is there has nothing to do.

use wharf_spec::scalar::Source;
use wharf_spec::service::{Distill, Optimize};

use crate::artifacts::{Artifact, Located, Store};
use crate::names::Part;

/// A process of Wharf, and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The command, and what it is called in names.
    pub verb: &'static str,
    /// Which rights on the network it needs.
    pub part: Part,
    /// Arguments, the command first.
    pub args: Vec<String>,
    /// Files that must be there before.
    pub needs: Vec<String>,
    /// Claims of others that are read.
    pub claims: Vec<String>,
    /// What it makes: a file or a folder, there when it is whole.
    pub makes: String,
}

/// Everything from a source to the model that is served.
pub(crate) fn steps(
    store: Store<'_>,
    source: &Source,
    digest: Option<&str>,
    optimize: Option<&Optimize>,
    artifact: &Artifact,
) -> Vec<Step> {
    let mut steps: Vec<Step> = fetch(store, source, digest).into_iter().collect();
    let Some(Optimize { distill, quantize, data, gate }) = optimize else {
        steps.extend(copy(store, source, digest));
        return steps;
    };
    let others = data
        .iter()
        .chain(distill.iter().flat_map(|d| [&d.teacher, &d.data, &d.student].into_iter().flatten()));
    for source in others {
        steps.extend(fetch(store, source, None));
    }
    let mut model = store.located(source, digest);
    if let (Some(distill), Some(out)) = (distill, &artifact.student) {
        steps.push(distillation(store, distill, &model, out, source));
        model.path.clone_from(out);
    }
    if let (Some(scheme), Some(out)) = (quantize, &artifact.quantized) {
        let mut args = ["quantize", &model.path, "-o", out, "--scheme", scheme.name(), "--retry"]
            .map(str::to_owned)
            .to_vec();
        let mut needs = vec![model.path.clone()];
        let mut claims: Vec<String> = model.claim.clone().into_iter().collect();
        if let Some(data) = data {
            let data = store.located(data, None);
            args.extend(["--text".to_owned(), data.path.clone()]);
            if scheme.can_calibrate() {
                args.extend(["--calibrate".to_owned(), data.path.clone()]);
            }
            needs.push(data.path);
            claims.extend(data.claim);
        }
        if let Some(gate) = gate {
            let ppl = gate
                .max_perplexity_increase
                .as_ref()
                .map(|share| ["--gate-ppl".to_owned(), share.to_string()]);
            let kl = gate.max_kl_divergence.map(|nats| ["--gate-kl".to_owned(), nats.to_string()]);
            args.extend([ppl, kl].into_iter().flatten().flatten());
        }
        let makes = out.clone();
        steps.push(Step { verb: "quantize", part: Part::Prepare, args, needs, claims, makes });
    }
    steps
}

/// A source that has to be fetched.
pub(crate) fn fetch(store: Store<'_>, source: &Source, digest: Option<&str>) -> Option<Step> {
    if !source.is_remote() {
        return None;
    }
    let folder = store.fetched(source, digest);
    let mut args = ["fetch", source.as_str(), "-o", &folder].map(str::to_owned).to_vec();
    args.extend(digest.iter().flat_map(|digest| ["--digest".to_owned(), (*digest).to_owned()]));
    let makes = store.fetched_file(source, digest);
    Some(Step { verb: "fetch", part: Part::Fetch, args, needs: Vec::new(), claims: Vec::new(), makes })
}

/// A source in a volume of others that is served as it is, but beside files of our own: it joins them.
fn copy(store: Store<'_>, source: &Source, digest: Option<&str>) -> Option<Step> {
    let (claim, _) = source.claim()?;
    let folder = store.fetched(source, digest);
    let volume = format!("{claim}={}", store.volume(claim));
    let mut args = ["fetch", source.as_str(), "-o", &folder, "--volume", &volume].map(str::to_owned).to_vec();
    args.extend(digest.iter().flat_map(|digest| ["--digest".to_owned(), (*digest).to_owned()]));
    let claims = vec![claim.to_owned()];
    let makes = store.fetched_file(source, digest);
    Some(Step { verb: "copy", part: Part::Prepare, args, needs: Vec::new(), claims, makes })
}

fn distillation(store: Store<'_>, distill: &Distill, model: &Located, out: &str, source: &Source) -> Step {
    let Distill { teacher, data, keep_layers, layers, student, steps, data_parallel } = distill;
    let teacher = match teacher {
        Some(teacher) => store.located(teacher, None),
        None => Located { path: model.path.clone(), claim: model.claim.clone() },
    };
    let data = store.located(data.as_ref().unwrap_or(source), None);
    let mut args = ["distill", "--teacher", &teacher.path, "--data", &data.path, "-o", out, "--retry"]
        .map(str::to_owned)
        .to_vec();
    let mut needs = vec![teacher.path, data.path];
    let mut claims: Vec<String> = teacher.claim.into_iter().chain(data.claim).collect();
    if let Some(student) = student {
        let student = store.located(student, None);
        args.extend(["--student".to_owned(), student.path.clone()]);
        needs.push(student.path);
        claims.extend(student.claim);
    }
    let options = [
        ("--keep-layers", keep_layers.clone()),
        ("--layers", layers.map(|count| count.to_string())),
        ("--steps", steps.map(|count| count.to_string())),
        ("--data-parallel", data_parallel.map(|count| count.to_string())),
    ];
    for (flag, value) in options {
        args.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    claims.dedup();
    Step { verb: "distill", part: Part::Prepare, args, needs, claims, makes: out.to_owned() }
}
