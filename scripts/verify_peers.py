"""Compares our logits with llama.cpp's, teacher-forced over the same real text. Run through `cargo xtask verify-peers`.

For each weight type the demo model is rewritten as a GGUF file of that type. Both engines and an F32 evaluation of the same
(dequantised) weights score the same tokens in windows of 512. Reported per type, with standard errors:
  * top-1 agreement of ours with llama.cpp, beside llama.cpp's with itself between micro-batches of 64 and 512 (the bar), and
    between fused and plain attention (for information: where both micro-batches run the same instructions, the bar is 100%);
  * mean KL divergence to the F32 evaluation, ours and llama.cpp's;
  * the same with keys and values in bytes: ours in int8, llama.cpp's in q8_0.
Exits 1 when a bar is missed. Needs: llama-cpp-python, gguf, numpy.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import llama_cpp
import numpy as np

from gguf_types import TYPES, rewrite
from real_text import real_text

WINDOW = 512
GGML_F32, GGML_F16, GGML_Q8_0 = 0, 1, 8
NAMES = ["F16", "Q8_0", "Q4_0"]


class LlamaCpp:
    def __init__(self, path, threads, ubatch=WINDOW, kv_type=GGML_F16, flash=True):
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=WINDOW, n_batch=WINDOW, n_ubatch=ubatch, n_threads=threads, n_threads_batch=threads,
            logits_all=True, verbose=False, type_k=kv_type, type_v=kv_type, flash_attn=flash,
        )

    def window(self, tokens):
        self.llama.reset()
        self.llama.eval(tokens)
        return self.llama.scores[: len(tokens)].copy()


class Ours:
    """Our logits, streamed from a process that scores one window after another."""

    def __init__(self, command, path, tokens_file, kv_type="f16"):
        arguments = [str(path), str(tokens_file), str(WINDOW), str(WINDOW), kv_type]
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE)
        self.vocab = int(np.frombuffer(self.process.stdout.read(4), np.uint32)[0])

    def window(self, tokens):
        raw = self.process.stdout.read(len(tokens) * self.vocab * 4)
        if len(raw) != len(tokens) * self.vocab * 4:
            sys.exit("our process ended early: see its message above")
        return np.frombuffer(raw, np.float32).reshape(len(tokens), self.vocab)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def kl(reference, other):
    """KL(reference || other) per token, nats."""
    return (np.exp(reference) * (reference - other)).sum(axis=1)


def summary(values):
    values = np.concatenate(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def compare(name, path, f32_path, tokens, tokens_file, args):
    engines = {
        "llama": LlamaCpp(path, args.threads),
        "llama64": LlamaCpp(path, args.threads, ubatch=64),
        "unfused": LlamaCpp(path, args.threads, flash=False),
        "f32": LlamaCpp(f32_path, args.threads, kv_type=GGML_F32, flash=False),
        "llama_bytes": LlamaCpp(path, args.threads, kv_type=GGML_Q8_0),
        "ours": Ours(args.ours, path, tokens_file),
        "ours_bytes": Ours(args.ours, path, tokens_file, "int8"),
    }
    found = {key: [] for key in ("agree", "self64", "self_unfused", "kl_ours", "kl_llama", "kl_ours_bytes", "kl_llama_bytes")}
    for start in range(0, len(tokens), WINDOW):
        window = tokens[start : start + WINDOW]
        scores = {key: log_softmax(engine.window(window)) for key, engine in engines.items()}
        best = {key: score.argmax(axis=1) for key, score in scores.items()}
        found["agree"].append(best["ours"] == best["llama"])
        found["self64"].append(best["llama64"] == best["llama"])
        found["self_unfused"].append(best["unfused"] == best["llama"])
        for key in ("ours", "llama", "ours_bytes", "llama_bytes"):
            found[f"kl_{key}"].append(kl(scores["f32"], scores[key]))
        print(f"{name}: {start + len(window)} of {len(tokens)} tokens", file=sys.stderr, flush=True)
    return {key: summary(values) for key, values in found.items()}


def verdict(name, row):
    """What is missed, in words; empty when every bar holds."""
    missed = []
    agree, agree_error = row["agree"]
    itself, self_error = row["self64"]
    if name == "F16":
        if agree < 0.995:
            missed.append(f"top-1 agreement {agree:.4f} < 0.995")
        if row["kl_ours"][0] >= 1e-5:
            missed.append(f"mean KL {row['kl_ours'][0]:.2e} >= 1e-5")
    else:
        bar = itself - 2 * (agree_error**2 + self_error**2) ** 0.5
        if agree < bar:
            missed.append(f"top-1 agreement {agree:.4f} < {bar:.4f}")
        if row["kl_ours"][0] > 1.05 * row["kl_llama"][0]:
            missed.append(f"mean KL {row['kl_ours'][0]:.3e} > 1.05 x {row['kl_llama'][0]:.3e}")
    if row["kl_ours_bytes"][0] > 1.1 * row["kl_llama_bytes"][0]:
        missed.append(f"mean KL with int8 KV {row['kl_ours_bytes'][0]:.3e} > 1.1 x {row['kl_llama_bytes'][0]:.3e} with q8_0")
    return missed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the derived files")
    parser.add_argument("--ours", nargs="+", required=True, help="command that prints our logits")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", default=NAMES, choices=list(TYPES))
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    tokenizer = llama_cpp.Llama(str(args.model), vocab_only=True, verbose=False)
    tokens = tokenizer.tokenize(real_text().encode()[: args.tokens * 10], add_bos=False)[: args.tokens]
    assert len(tokens) == args.tokens, "the text is too short"
    tokens_file = args.work / "tokens.u32"
    np.array(tokens, np.uint32).tofile(tokens_file)

    report, failed = {}, False
    for name in args.types:
        path, f32_path = args.work / f"{name}.gguf", args.work / f"{name}-as-F32.gguf"
        if not f32_path.exists():
            rewrite(args.model, path, TYPES[name])
            rewrite(path, f32_path, None)
        row = report[name] = compare(name, path, f32_path, tokens, tokens_file, args)
        row["missed"] = verdict(name, row)
        failed |= bool(row["missed"])

    print(f"{'type':5} {'ours with llama.cpp':>20} {'it, 64 with 512':>20} {'it, attention':>20} {'KL ours':>22} {'KL llama.cpp':>22} {'KL ours, int8 KV':>22} {'it, q8_0 KV':>22}")
    for name, row in report.items():
        cells = [f"{row[key][0]:.4f} ± {row[key][1]:.4f}" for key in ("agree", "self64", "self_unfused")]
        cells += [f"{row[key][0]:.3e} ± {row[key][1]:.1e}" for key in ("kl_ours", "kl_llama", "kl_ours_bytes", "kl_llama_bytes")]
        print(f"{name:5} {' '.join(f'{cell:>20}' for cell in cells[:3])} {' '.join(f'{cell:>22}' for cell in cells[3:])}")
        for missed in row["missed"]:
            print(f"      MISSED: {missed}")
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
