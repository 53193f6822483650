#!/usr/bin/env python3
"""Write the tiny models of crates/testkit/fixtures/models with the logits that Transformers gives them.

Run by developers when an architecture is added; the output is checked in. Equal package versions give equal
files. Check the GGUF files against llama.cpp afterwards with check_model_fixtures.py.

    pip install torch transformers==5.23.0 gguf==0.19.0 safetensors numpy
    python scripts/make_model_fixtures.py [NAME ...]
"""

import json
import math
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf

ROOT = Path(__file__).resolve().parent.parent / "crates/testkit/fixtures/models"
VOCAB = 128
TOKENS = 40

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    max_position_embeddings=256,
    tie_word_embeddings=False,
)

# Phi-3 has no head_dim of its own: 32 / 2 = 16, of which half is rotated.
PHI3 = dict(num_attention_heads=2, num_key_value_heads=1, partial_rotary_factor=0.5)
SHORT = [1.0, 1.1, 1.3, 1.7]
LONG = [1.0, 1.9, 3.5, 6.0]


def longrope(original):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    rope |= {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": original}
    return dict(PHI3, rope_parameters=rope, original_max_position_embeddings=original)


# name: (configuration class, fields over COMMON, how it is saved)
MODELS = {
    "llama-llama3": (
        hf.LlamaConfig,
        dict(
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
        dict(),
    ),
    "llama-linear-f16-sharded": (
        hf.LlamaConfig,
        dict(
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
            tie_word_embeddings=True,
        ),
        dict(dtype=torch.float16, max_shard_size="20KB"),
    ),
    "llama-yarn": (
        hf.LlamaConfig,
        dict(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
        dict(),
    ),
    "llama-bias": (hf.LlamaConfig, dict(attention_bias=True), dict()),
    # The proportions of SmolLM2-135M: three query heads to a key-value head, tied, head size derived.
    "smollm2": (
        hf.LlamaConfig,
        dict(
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=None,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            tie_word_embeddings=True,
        ),
        dict(),
    ),
    "mistral": (hf.MistralConfig, dict(sliding_window=8), dict()),
    "qwen2-bf16": (hf.Qwen2Config, dict(head_dim=None, tie_word_embeddings=True), dict(dtype=torch.bfloat16)),
    "qwen2-window": (
        hf.Qwen2Config,
        dict(head_dim=None, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        # llama.cpp does not know windows in Qwen 2.
        dict(gguf=False),
    ),
    "qwen3": (hf.Qwen3Config, dict(), dict()),
    "gemma2": (
        hf.Gemma2Config,
        dict(
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            query_pre_attn_scalar=16,
            sliding_window=8,
            # Far below Google's 50 and 30, so that the caps bend these small numbers.
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        dict(),
    ),
    "gemma3": (
        hf.Gemma3TextConfig,
        dict(
            intermediate_size=24,
            num_hidden_layers=7,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            query_pre_attn_scalar=16,
            sliding_window=8,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        dict(),
    ),
    "phi3": (hf.Phi3Config, dict(PHI3, sliding_window=8, original_max_position_embeddings=256), dict()),
    "phi3-longrope-short": (hf.Phi3Config, dict(longrope(512), max_position_embeddings=2048), dict()),
    # Sequences longer than the original context take the long factors.
    "phi3-longrope-long": (hf.Phi3Config, dict(longrope(16), max_position_embeddings=256), dict(context=TOKENS)),
}

GGUF_ARCH = {"mistral": "llama", "gemma3_text": "gemma3"}


def build(name, config_class, fields, save):
    """A model with random weights that make every part of the computation visible in the logits."""
    fields = dict(COMMON, **fields)
    if fields.get("head_dim", 0) is None or config_class is hf.Phi3Config:
        fields.pop("head_dim")
    config = config_class(**fields)
    config._attn_implementation = "eager"
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(sum(name.encode()))
    is_gemma = config.model_type.startswith("gemma")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if key.endswith("norm.weight"):
                # Gemma stores the weight minus one.
                parameter.copy_(0.2 * noise + (0.0 if is_gemma else 1.0))
            elif key.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(0.3 * noise)
            # The reference computes in F32 with what is stored. Only the weights are rounded: casting the model
            # would round the rotary frequencies too.
            parameter.copy_(parameter.to(save.get("dtype", torch.float32)).to(torch.float32))
    model = model.eval()
    model.config.architectures = [type(model).__name__]
    return model


def reference(model, name):
    generator = torch.Generator().manual_seed(sum(name.encode()) + 1)
    tokens = torch.randint(3, VOCAB, (TOKENS,), generator=generator)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0].to(torch.float32).numpy()
    return tokens.tolist(), logits


def permute(weight, heads):
    """Rows of Q and K from Hugging Face's halves to llama.cpp's interleaved pairs."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(key, is_gemma):
    if key in NAMES:
        return NAMES[key]
    _, _, layer, rest = key.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    if part == "post_attention_layernorm":
        # Gemma has a norm after attention as well; elsewhere this is the one before the feed-forward.
        return f"blk.{layer}.{'post_attention_norm' if is_gemma else 'ffn_norm'}.{kind}"
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def rope_of(config):
    rope = config.rope_parameters
    return rope["full_attention"] if "full_attention" in rope else rope


def llama3_factors(rope, dim):
    """What each frequency is divided by, as llama.cpp stores it."""
    factors = []
    for pair in range(dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / dim)
        original = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def write_gguf(model, path):
    config = model.config
    arch = GGUF_ARCH.get(config.model_type, config.model_type)
    is_gemma = arch.startswith("gemma")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = rope_of(config)
    writer = gguf.GGUFWriter(path, arch)
    # Not the model's own name: llama.cpp expects certain tokens of files whose name contains "phi3".
    writer.add_name("fixture")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    rope_dim = int(head_dim * (rope.get("partial_rotary_factor") or 1.0))
    writer.add_rope_dimension_count(rope_dim)
    window = getattr(config, "sliding_window", None)
    if window is not None:
        writer.add_sliding_window(window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    kind = rope["rope_type"]
    extra = {}
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind == "llama3":
        extra["rope_freqs.weight"] = llama3_factors(rope, rope_dim)
    elif kind == "longrope":
        original = config.original_max_position_embeddings
        stretch = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
        extra["rope_factors_short.weight"] = np.array(rope["short_factor"], dtype=np.float32)
        extra["rope_factors_long.weight"] = np.array(rope["long_factor"], dtype=np.float32)
    add_tokenizer(writer)
    for key, value in extra.items():
        writer.add_tensor(key, value)
    for key, parameter in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = parameter.to(torch.float32).numpy()
        if arch == "llama" and ".q_proj." in key:
            value = permute(value, heads)
        if arch == "llama" and ".k_proj." in key:
            value = permute(value, kv_heads)
        if is_gemma and key.endswith("norm.weight"):
            value = value + 1
        writer.add_tensor(gguf_name(key, is_gemma), np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer):
    """The least that llama.cpp loads; the fixtures are driven by token ids."""
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = ["<unk>", "<s>", "</s>"] + letters
    tokens += [f"<t{n}>" for n in range(len(tokens), VOCAB)]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * len(letters)
    kinds += [gguf.TokenType.UNUSED] * (VOCAB - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def main(names):
    for name in names or MODELS:
        config_class, fields, save = MODELS[name]
        model = build(name, config_class, fields, save)
        tokens, logits = reference(model, name)
        folder = ROOT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if save.get("gguf", True):
            write_gguf(model, folder / "model.gguf")
        model.generation_config = hf.GenerationConfig(
            bos_token_id=1, eos_token_id=[2, 5], pad_token_id=0, do_sample=True, temperature=0.6, top_p=0.9
        )
        stored = model.to(save.get("dtype", torch.float32))
        stored.config.dtype = save.get("dtype", torch.float32)
        stored.save_pretrained(folder, max_shard_size=save.get("max_shard_size", "1GB"))
        described = {"tokens": tokens, "positions": len(tokens), "vocab": VOCAB}
        if "context" in save:
            described["context"] = save["context"]
        (folder / "reference.json").write_text(json.dumps(described) + "\n")
        logits.astype("<f4").tofile(folder / "logits.f32")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: {size / 1000:.0f} kB, logits deviate by {logits.std():.2f}, up to {abs(logits).max():.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
