"""Rewrites a GGUF model with another type of weights: `gguf_types.py SOURCE TARGET TYPE`. Needs: gguf, numpy.

`Llama-0.5B` is no type but another shape: random weights in Q4_0 behind the tokenizer of `SOURCE`.
"""

import sys

import gguf
import numpy as np

TYPES = {
    "F32": None,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
}


# Heads and feed-forward layer in proportions that the demo model does not have.
SHAPE = {
    "llama.block_count": 28,
    "llama.embedding_length": 1024,
    "llama.feed_forward_length": 4096,
    "llama.attention.head_count": 16,
    "llama.attention.head_count_kv": 8,
    "llama.rope.dimension_count": 64,
}


def write_fields(reader, writer, changes):
    """Copies everything that is said about the model, with some of it changed."""
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = changes.get(field.name, field.contents())
        writer.add_key_value(field.name, value, field.types[0], sub_type=item)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_shape(source, target):
    """Writes a model of `SHAPE` whose weights are noise of a size that keeps activations in range."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    write_fields(reader, writer, SHAPE)
    hidden, ffn = SHAPE["llama.embedding_length"], SHAPE["llama.feed_forward_length"]
    kv = hidden * SHAPE["llama.attention.head_count_kv"] // SHAPE["llama.attention.head_count"]
    noise = np.random.default_rng(1)
    kind = gguf.GGMLQuantizationType.Q4_0

    def matrix(name, outputs, inputs):
        values = noise.standard_normal((outputs, inputs), dtype=np.float32) / np.sqrt(inputs)
        writer.add_tensor(name + ".weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name):
        writer.add_tensor(name + ".weight", np.ones(hidden, dtype=np.float32))

    tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    matrix("token_embd", tokens, hidden)
    norm("output_norm")
    for block in range(SHAPE["llama.block_count"]):
        names = {"attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden)}
        names |= {"attn_output": (hidden, hidden), "ffn_down": (hidden, ffn)}
        names |= {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden)}
        for name, (outputs, inputs) in names.items():
            matrix(f"blk.{block}.{name}", outputs, inputs)
        norm(f"blk.{block}.attn_norm")
        norm(f"blk.{block}.ffn_norm")
    write(writer)


def rewrite(source, target, kind):
    """Writes `source` with every matrix as `kind`; `kind` of None keeps the values of `source` exactly, as F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    write_fields(reader, writer, {})
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(n) for n in reversed(tensor.shape)]).astype(np.float32)
        if kind is None or values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        elif kind == gguf.GGMLQuantizationType.F16:
            writer.add_tensor(tensor.name, values.astype(np.float16))
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    write(writer)


if __name__ == "__main__":
    source, target, name = sys.argv[1:]
    if name == "Llama-0.5B":
        random_shape(source, target)
    else:
        rewrite(source, target, TYPES[name])
