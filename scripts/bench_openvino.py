"""Times one row of OpenVINO GenAI on the CPU. Run through `cargo xtask bench peers`.

Loads a GGUF file once, runs the row once to warm up and prints `ready`; then each line on standard input starts one measurement,
which is answered by one JSON line {"seconds", "tokens", "rate"}. The row and the token counts are those of the other engines:
`prefill:TOKENS`, or `decode:STREAMS@CONTEXT` with `--steps` tokens for each stream. Times are those of OpenVINO's own metrics:
to the first token for prefill, from the first to the last token for decoding.
"""

import argparse
import contextlib
import json
import os
import re
import sys

import numpy as np
import openvino
import openvino_genai


def prompt(stream, tokens):
    """Streams differ, so that nothing can be computed once for several of them."""
    ids = [100 + (i * 7919 + stream * 104_729) % 5000 for i in range(tokens)]
    return openvino.Tensor(np.array([ids], np.int64))


class Paged:
    """Continuous batching over paged attention."""

    def __init__(self, model, threads):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = 8192
        scheduler.max_num_seqs = 64
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )

    def metrics(self, prompts, config):
        results = self.pipeline.generate(prompts, [config] * len(prompts))
        return results[0].perf_metrics


class Plain:
    """One request at a time, without paged attention."""

    def __init__(self, model, threads):
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=threads)

    def metrics(self, prompts, config):
        (only,) = prompts
        return self.pipeline.generate(only, config).perf_metrics


def greedy(tokens):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


def prefill(engine, tokens):
    seconds = engine.metrics([prompt(0, tokens)], greedy(1)).get_ttft().mean / 1e3
    return {"seconds": seconds, "tokens": tokens}


def decode(engine, streams, context, steps):
    # The first token comes from the prompt: what follows it is `steps` steps.
    prompts = [prompt(stream, context) for stream in range(streams)]
    times = list(engine.metrics(prompts, greedy(steps + 1)).raw_metrics.m_new_token_times)
    if len(times) != steps + 1:
        sys.exit(f"expected {steps + 1} token times, got {len(times)}")
    return {"seconds": (times[-1] - times[0]) / 1e3, "tokens": streams * steps}


def measurement(row, steps):
    if found := re.fullmatch(r"prefill:(\d+)", row):
        return lambda engine: prefill(engine, int(found[1]))
    if found := re.fullmatch(r"decode:(\d+)@(\d+)", row):
        return lambda engine: decode(engine, int(found[1]), int(found[2]), steps)
    sys.exit(f"row {row!r} is not understood")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--row", required=True)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--setting", choices=["paged", "plain"], default="paged")
    args = parser.parse_args()
    measure = measurement(args.row, args.steps)
    # The library writes to standard output as it likes: what we answer goes past it.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = (Paged if args.setting == "paged" else Plain)(args.model, args.threads)
    measure(engine)
    with contextlib.suppress(BrokenPipeError):
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            found = measure(engine)
            print(json.dumps({**found, "rate": found["tokens"] / found["seconds"]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
