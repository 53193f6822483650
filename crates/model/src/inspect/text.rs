//! Lays a [`Report`] out for a terminal: facts, shares of element types, one line per tensor.

use std::fmt::{self, Display, Formatter};

use super::{ArchitectureReport, GenerationReport, Report, RopeReport};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut facts: Vec<(&str, String)> = vec![
            ("model", self.name.clone()),
            ("format", format!("{}, {}", self.format, counted(self.files.len(), "file"))),
            ("size", bytes(self.file_bytes)),
            ("parameters", format!("{} ({:.2} bits each)", grouped(self.parameters), self.bits_per_weight)),
        ];
        facts.extend(architecture(&self.architecture));
        facts.extend(generation(&self.generation));
        if let Some(tokenizer) = &self.tokenizer {
            let special = counted(tokenizer.special_tokens.len(), "special token");
            let tokens = grouped(tokenizer.tokens as u64);
            facts.push(("tokenizer", format!("{}, {tokens} tokens, {special}", tokenizer.kind)));
        }
        if let Some(template) = &self.chat_template {
            let first = template.lines().next().unwrap_or_default();
            let shown: String = first.chars().take(60).collect();
            facts.push(("chat template", format!("{} characters: {shown}…", template.chars().count())));
        }
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, value) in &facts {
            writeln!(f, "{name:width$}  {value}")?;
        }
        writeln!(f)?;
        types(self, f)?;
        writeln!(f)?;
        tensors(self, f)
    }
}

fn architecture(arch: &ArchitectureReport) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("architecture", arch.name.clone()),
        ("context", format!("{} tokens", grouped(arch.context_length as u64))),
        ("vocabulary", format!("{} tokens{}", grouped(arch.vocab_size as u64), tied(arch))),
        (
            "layers",
            format!(
                "{} of width {}, feed-forward {} ({})",
                arch.n_layers, arch.hidden_size, arch.ffn_size, arch.activation
            ),
        ),
        (
            "heads",
            format!("{} query, {} key-value, of {} elements", arch.n_heads, arch.n_kv_heads, arch.head_dim),
        ),
        ("windows", windows(&arch.windows)),
    ];
    facts.extend(arch.ropes.iter().map(|one| ("rotation", rope(one, arch.head_dim))));
    let extras = [
        arch.qk_norm.then(|| "norms on Q and K".to_owned()),
        arch.post_norms.then(|| "norms after attention and feed-forward".to_owned()),
        arch.attn_softcap.map(|cap| format!("scores capped at {cap}")),
        arch.logit_softcap.map(|cap| format!("logits capped at {cap}")),
    ];
    let extras: Vec<String> = extras.into_iter().flatten().collect();
    if !extras.is_empty() {
        facts.push(("also", extras.join(", ")));
    }
    let per_token = arch.kv_bytes_per_token as u64;
    let whole = per_token.saturating_mul(arch.context_length as u64);
    facts.push((
        "cache",
        format!("{} per token in f16, {} for a whole context", bytes(per_token), bytes(whole)),
    ));
    facts
}

fn tied(arch: &ArchitectureReport) -> &'static str {
    if arch.tied_embeddings { ", output tied to embedding" } else { "" }
}

fn windows(windows: &[Option<usize>]) -> String {
    let mut sizes: Vec<usize> = windows.iter().copied().flatten().collect();
    let local = sizes.len();
    sizes.sort_unstable();
    sizes.dedup();
    let sizes: Vec<String> = sizes.into_iter().map(|size| grouped(size as u64)).collect();
    match local {
        0 => "none: every layer sees the whole context".to_owned(),
        _ if local == windows.len() => format!("{} tokens in every layer", sizes.join(", ")),
        _ => format!("{} tokens in {local} of {} layers", sizes.join(", "), windows.len()),
    }
}

fn rope(rope: &RopeReport, head_dim: usize) -> String {
    let amplitude =
        if rope.amplitude == 1.0 { String::new() } else { format!(", amplitude {}", rope.amplitude) };
    format!(
        "{} of {head_dim} elements as {} in {}, wavelengths {:.1} to {:.0} tokens{amplitude}",
        rope.dim,
        rope.layout,
        counted(rope.layers, "layer"),
        rope.shortest_wavelength,
        rope.longest_wavelength,
    )
}

fn generation(generation: &GenerationReport) -> Vec<(&'static str, String)> {
    let GenerationReport {
        eos_token_ids,
        bos_token_id,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
    } = generation;
    let ids: Vec<String> = eos_token_ids.iter().map(u32::to_string).collect();
    let mut facts = vec![("stop tokens", if ids.is_empty() { "none".to_owned() } else { ids.join(", ") })];
    if let Some(bos) = bos_token_id {
        facts.push(("start token", bos.to_string()));
    }
    let sampling = [
        temperature.map(|x| format!("temperature {x}")),
        top_k.map(|x| format!("top_k {x}")),
        top_p.map(|x| format!("top_p {x}")),
        min_p.map(|x| format!("min_p {x}")),
        repetition_penalty.map(|x| format!("repetition_penalty {x}")),
    ];
    let sampling: Vec<String> = sampling.into_iter().flatten().collect();
    if !sampling.is_empty() {
        facts.push(("sampling", sampling.join(", ")));
    }
    facts
}

fn types(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    const BAR: usize = 30;
    let total: u64 = report.types.iter().map(|share| share.bytes).sum();
    for share in &report.types {
        let fraction = share.bytes as f64 / total.max(1) as f64;
        let bar = "█".repeat(((fraction * BAR as f64).round() as usize).max(1));
        let (size, count) = (bytes(share.bytes), counted(share.tensors, "tensor"));
        writeln!(f, "{:6} {size:>10} {:5.1}%  {bar:BAR$}  {count}", share.dtype, fraction * 100.0)?;
    }
    Ok(())
}

fn tensors(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let shape = |shape: &[usize]| shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
    let names = report.tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or_default();
    let shapes = report.tensors.iter().map(|tensor| shape(&tensor.shape).len()).max().unwrap_or_default();
    for tensor in &report.tensors {
        let (shape, size) = (shape(&tensor.shape), bytes(tensor.bytes));
        writeln!(f, "{:names$}  {:6}  {shape:>shapes$}  {size:>10}", tensor.name, tensor.dtype)?;
    }
    Ok(())
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Decimal units, as disks and download pages count.
fn bytes(n: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| n as f64 >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", n as f64 / size),
        None => format!("{n} B"),
    }
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
