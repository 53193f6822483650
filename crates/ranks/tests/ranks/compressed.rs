//! Folders whose weights are codes beside their scales, as the Python package compressed-tensors stores them.

use std::path::Path;

use crate::group::Checkpoint;

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Bytes; activations are rounded with a scale for each token.
    Int8,
    /// Bytes; activations are rounded with a stored scale.
    Int8Static,
    /// Four bits with a scale for each 32 inputs.
    Int4,
    /// Eight bits of a float.
    Fp8,
}

const HIDDEN: usize = 288;
const FFN: usize = 352;
const HEADS: usize = 9;
const KV: usize = 3 * HIDDEN / HEADS;
const VOCAB: usize = 288;
const LAYERS: usize = 2;

/// A Llama of nine query heads on three heads of keys and values.
pub(crate) fn write(kept: Kept) -> Checkpoint {
    Checkpoint::new("", |folder| {
        std::fs::write(folder.join("config.json"), config(kept)).unwrap();
        weights(kept, &folder.join("model.safetensors"));
    })
}

fn config(kept: Kept) -> String {
    let (bits, number) = match kept {
        Kept::Int8 | Kept::Int8Static => (8, "int"),
        Kept::Int4 => (4, "int"),
        Kept::Fp8 => (8, "float"),
    };
    let inputs = match kept {
        Kept::Int8 => r#"{"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true}"#,
        Kept::Int8Static => r#"{"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": false}"#,
        Kept::Int4 | Kept::Fp8 => "null",
    };
    format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": {HIDDEN}, "intermediate_size": {FFN}, "num_hidden_layers": {LAYERS},
        "num_attention_heads": {HEADS}, "num_key_value_heads": 3, "vocab_size": {VOCAB},
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "quantization_config": {{"quant_method": "compressed-tensors", "config_groups": {{"group_0": {{
        "weights": {{"num_bits": {bits}, "type": "{number}", "symmetric": true}}, "input_activations": {inputs}}}}}}}}}"#
    )
}

/// Numbers without structure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, count: usize, each: impl Fn(u64) -> u8) -> Vec<u8> {
        (0..count).map(|_| each(self.next())).collect()
    }

    /// Sixteen bits each, of which `mask` are random.
    fn halves(&mut self, count: usize, base: u16, mask: u16) -> Vec<u8> {
        (0..count).flat_map(|_| (base | self.next() as u16 & mask).to_le_bytes()).collect()
    }

    /// About a normal distribution.
    fn floats(&mut self, count: usize, mean: f32, size: f32) -> Vec<u8> {
        let mut uniform = || (self.next() & 0xffff) as f32 / 65_536.0 - 0.5;
        (0..count)
            .flat_map(|_| (mean + (uniform() + uniform() + uniform() + uniform()) * size).to_le_bytes())
            .collect()
    }
}

/// A file of tensors: names, types, shapes and bytes.
#[derive(Default)]
struct File {
    header: Vec<String>,
    data: Vec<u8>,
}

impl File {
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let first = self.data.len();
        self.data.extend_from_slice(bytes);
        let end = self.data.len();
        self.header.push(format!(
            r#""{name}": {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": [{first}, {end}]}}"#
        ));
    }

    fn write(&self, path: &Path) {
        let mut header = format!("{{{}}}", self.header.join(", "));
        // Data begins at a multiple of eight.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&self.data);
        std::fs::write(path, bytes).unwrap();
    }
}

fn weights(kept: Kept, path: &Path) {
    let (mut file, mut random) = (File::default(), Random(7));
    let norm = |file: &mut File, random: &mut Random, name: &str| {
        file.add(name, "F32", &[HIDDEN], &random.floats(HIDDEN, 1.0, 0.2));
    };
    file.add("model.embed_tokens.weight", "F32", &[VOCAB, HIDDEN], &random.floats(VOCAB * HIDDEN, 0.0, 0.15));
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        norm(&mut file, &mut random, &name("input_layernorm.weight"));
        norm(&mut file, &mut random, &name("post_attention_layernorm.weight"));
        for (part, rows, cols) in [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV, HIDDEN),
            ("self_attn.v_proj", KV, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", FFN, HIDDEN),
            ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ] {
            matrix(&mut file, &mut random, kept, &name(part), [rows, cols]);
        }
    }
    norm(&mut file, &mut random, "model.norm.weight");
    file.write(path);
}

/// Codes and scales whose products have about the size of weights.
fn matrix(file: &mut File, random: &mut Random, kept: Kept, name: &str, [rows, cols]: [usize; 2]) {
    let mut add = |part: &str, dtype, shape: &[usize], bytes: &[u8]| {
        file.add(&format!("{name}.{part}"), dtype, shape, bytes);
    };
    match kept {
        Kept::Int8 | Kept::Int8Static => {
            let codes = random.bytes(rows * cols, |bits| ((bits % 255) as i8).wrapping_sub(127) as u8);
            add("weight", "I8", &[rows, cols], &codes);
            add("weight_scale", "F16", &[rows, 1], &random.halves(rows, 0x1400, 0x3ff));
        }
        Kept::Int4 => {
            let codes = random.bytes(rows * cols / 2, |bits| bits as u8);
            add("weight_packed", "I32", &[rows, cols / 8], &codes);
            let groups = cols / 32;
            add("weight_scale", "F16", &[rows, groups], &random.halves(rows * groups, 0x2400, 0x3ff));
        }
        Kept::Fp8 => {
            // From one to two, of either sign.
            let codes = random.bytes(rows * cols, |bits| 0x38 | bits as u8 & 0x87);
            add("weight", "F8_E4M3", &[rows, cols], &codes);
            add("weight_scale", "BF16", &[rows, 1], &random.halves(rows, 0x3d00, 0x7f));
        }
    }
    if kept == Kept::Int8Static {
        add("input_scale", "F32", &[1], &0.0625f32.to_le_bytes());
    }
}
