"""Compares the weights of a quantised folder as compressed-tensors decompresses them with those that Wharf computes with.

Run through `cargo xtask verify-formats`. Two questions are asked of every tensor, both to be answered to the bit:
  * exact: with its scales widened to single precision, in which a product of code and scale is exact, does the package decompress to our
    weights? FP8 is the exception: we keep these as BF16, so that their products are rounded to it before they are compared;
  * rounded: with scales as they are in the file, in whose type the package rounds its products, does it decompress to our weights,
    rounded to that type?
Then Transformers loads the folder, and the logits of both over the same real text are compared. Both round activations to bytes where
the folder says so; to FP8 neither does here, because we compute in BF16.
Prints the differences as JSON; judging them is the caller's. Needs: compressed-tensors, torch, transformers.
"""

import argparse
import json
import math
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from real_text import real_text

# What describes activations; weights do not depend on it.
OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")


def decompress(folder, tensors):
    """The package's own reading. It goes by names, where an embedding looks like a linear layer; models go by types."""
    package = CompressedTensorsDequantizer(folder, ignore=["re:.*embed_tokens"], dtype=torch.float32)
    return package.process(dict(tensors))


def compare_weights(folder, ours):
    stored = load_file(folder / "model.safetensors")
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith(OF_ACTIVATIONS)}
    widened = {name: tensor.float() if name.endswith("weight_scale") else tensor for name, tensor in stored.items()}
    exact, rounded = decompress(folder, widened), decompress(folder, stored)
    assert exact.keys() == rounded.keys() == ours.keys(), f"only one side has {exact.keys() ^ ours.keys()}"

    report = {"tensors": len(ours), "compressed": 0, "elements": 0, "exact": 0.0, "rounded": 0.0, "by_rounding": 0.0, "first": None}
    for name, mine in ours.items():
        scale, precise, coarse = stored.get(name + "_scale"), exact[name].float(), mine
        if scale is not None:
            report["compressed"] += 1
            report["elements"] += mine.numel()
            if stored.get(name, scale).dtype == torch.float8_e4m3fn:
                precise = precise.to(scale.dtype).float()
            coarse = mine.to(scale.dtype).float()
            # How far its rounding moves weights: what the first question takes out of the comparison.
            report["by_rounding"] = max(report["by_rounding"], difference(name, rounded[name], exact[name]))
        found = {"exact": difference(name, precise, mine), "rounded": difference(name, rounded[name].float(), coarse)}
        for key, value in found.items():
            report[key] = max(report[key], value)
        if any(found.values()):
            report["first"] = report["first"] or name
    return report


def difference(name, a, b):
    """The largest difference of two weights."""
    assert a.shape == b.shape, f"{name} is {list(a.shape)} here and {list(b.shape)} there"
    assert a.isfinite().all() and b.isfinite().all(), f"{name} has weights that are no numbers"
    return (a - b).abs().max().item()


def compare_logits(folder, command, count):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(real_text()[: 10 * count], add_special_tokens=False).input_ids[:count]
    model, problems = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(problems.values()), f"Transformers loads the folder with {problems}"
    for module in model.modules():
        activations = getattr(getattr(module, "quantization_scheme", None), "input_activations", None)
        module.quantization_enabled = activations is not None and activations.type == "int"
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0]
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.array(tokens, np.uint32).tobytes())
        file.flush()
        printed = subprocess.run([command, folder, file.name, str(count)], stdout=subprocess.PIPE, check=True).stdout
    vocabulary = int(np.frombuffer(printed[:4], np.uint32)[0])
    ours = torch.from_numpy(np.frombuffer(printed[4:], np.float32).reshape(len(tokens), vocabulary).copy())
    theirs, ours = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    kl = (theirs.exp() * (theirs - ours)).sum(-1).mean().item()
    return {"tokens": len(tokens), "kl": kl if math.isfinite(kl) else None, "same_top": (theirs.argmax(-1) == ours.argmax(-1)).double().mean().item()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="what `wharf quantize` wrote")
    parser.add_argument("--weights", type=pathlib.Path, required=True, help="safetensors file of our weights as floats")
    parser.add_argument("--logits", type=pathlib.Path, required=True, help="program that prints our logits")
    parser.add_argument("--tokens", type=int, required=True)
    args = parser.parse_args()
    weights = compare_weights(args.folder, load_file(args.weights))
    print(json.dumps({"weights": weights, "logits": compare_logits(args.folder, args.logits, args.tokens)}))


if __name__ == "__main__":
    main()
