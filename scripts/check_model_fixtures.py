#!/usr/bin/env python3
"""Check that the GGUF fixtures are honest: llama.cpp must give them the logits that Transformers gave.

    pip install llama-cpp-python numpy
    python scripts/check_model_fixtures.py [NAME ...]

llama.cpp ignores the sliding windows of Mistral and Phi-3, so those are compared only over the positions that
see the whole sequence.
"""

import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent / "crates/testkit/fixtures/models"
WITHOUT_WINDOWS = {"mistral", "phi3"}
TOLERANCE = 1e-2
F32 = 0


def logits_of(path, tokens, vocab):
    model = llama_cpp.Llama(
        str(path),
        n_ctx=256,
        n_batch=64,
        n_threads=1,
        logits_all=True,
        flash_attn=False,
        type_k=F32,
        type_v=F32,
        verbose=False,
    )
    model.eval(tokens)
    return np.array(model.scores[: len(tokens), :vocab])


def main(names):
    failed = False
    for folder in sorted(path.parent for path in ROOT.glob("*/model.gguf")):
        if names and folder.name not in names:
            continue
        described = json.loads((folder / "reference.json").read_text())
        tokens, vocab = described["tokens"], described["vocab"]
        wanted = np.fromfile(folder / "logits.f32", dtype="<f4").reshape(len(tokens), vocab)
        found = logits_of(folder / "model.gguf", tokens, vocab)
        config = json.loads((folder / "config.json").read_text())
        compared = len(tokens)
        if config["model_type"] in WITHOUT_WINDOWS and config.get("sliding_window"):
            compared = config["sliding_window"]
        worst = abs(found - wanted)[:compared].max()
        verdict = "ok" if worst < TOLERANCE else "WRONG"
        failed |= worst >= TOLERANCE
        print(f"{folder.name}: {verdict}, {compared} positions, largest difference {worst:.2e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
