"""Routing by prefix against round robin, before four real servers: see `cargo xtask bench routing`.

Two traces, each against both policies in alternating runs: conversations of several turns with long beginnings that no server can all
keep, and single prompts that have nothing in common. Plain Python: processes, sockets and threads.
"""

import argparse
import http.client
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

SERVERS = 4
PATIENCE = 300
# A server keeps the beginnings of about a quarter of the conversations.
KV_CACHE = "160MiB"
MAX_LEN = 2048


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wharf", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output")
    args = parser.parse_args()
    work = pathlib.Path(args.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    results = {}
    for trace in TRACES:
        taken = {"prefix": [], "roundRobin": []}
        for number in range(args.rounds):
            order = list(taken) if number % 2 == 0 else list(taken)[::-1]
            for policy in order:
                # New servers each time: nothing that the other policy cached helps.
                taken[policy].append(run(args, work, policy, trace, seed=number))
        ratios = [ours / theirs for ours, theirs in zip(taken["prefix"], taken["roundRobin"])]
        results[trace] = {**taken, "ratios": ratios, "ratio": statistics.median(ratios)}
        bar = TRACES[trace][1]
        word = "held" if results[trace]["ratio"] <= bar else "MISSED"
        print(f"{word}  {trace}: mean TTFT {results[trace]['ratio']:.2f} of round robin's (bar {bar}); {taken}", flush=True)
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(any(results[trace]["ratio"] > TRACES[trace][1] for trace in TRACES))


def run(args, work, policy, trace, seed):
    """Mean seconds to the first token."""
    processes, ports = [], []
    try:
        for number in range(SERVERS):
            port, metrics = free_port(), free_port()
            ports.append(port)
            command = [args.wharf, "serve", "--model", args.model, "--model-name", "m", "--threads", "1"]
            command += ["--port", port, "--metrics-port", metrics, "--kv-cache-bytes", KV_CACHE]
            command += ["--max-model-len", MAX_LEN, "--speculation", "off"]
            processes.append(start(command, work / f"server-{number}.log"))
        config = {
            "port": free_port(),
            "metricsPort": free_port(),
            "threads": 1,
            "console": False,
            "routing": {"policy": policy},
            "services": [{"name": "m", "endpoints": [f"127.0.0.1:{port}" for port in ports]}],
        }
        path = work / "gateway.yaml"
        path.write_text(json.dumps(config))
        processes.append(start([args.wharf, "gateway", "--config", path], work / "gateway.log"))
        for port in [*ports, config["port"]]:
            until_ready(port)
        took = TRACES[trace][0](config["port"], random.Random(seed))
        return statistics.mean(took)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def start(command, log):
    out = open(log, "ab")
    return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_ready(port):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"nothing is ready on port {port}")


def first_token(port, messages, tokens):
    """Seconds to the first token, and the answer."""
    body = {"model": "m", "stream": True, "temperature": 0, "max_tokens": tokens, "messages": messages}
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    first, text = None, ""
    for line in answer:
        if line.startswith(b"data: {"):
            delta = json.loads(line[6:])["choices"]
            content = delta[0]["delta"].get("content") if delta else None
            if content:
                first = first if first is not None else time.monotonic() - began
                text += content
    if answer.status != 200 or first is None:
        sys.exit(f"a request ended with {answer.status} and {text!r}")
    return first, text


WORDS = "river stone garden winter letter window market island silver candle forest harbour bridge morning paper copper".split()


def prose(random, words):
    return " ".join(random.choice(WORDS) + str(random.randrange(1000)) for _ in range(words))


def conversations(port, random):
    """24 conversations of 5 turns, a few at a time, whose turns come in turns, as people write."""
    began = [[{"role": "system", "content": prose(random, 160)}] for _ in range(24)]
    took = []
    for turn in range(5):
        waiting = list(began)
        random.shuffle(waiting)

        def one(messages):
            messages.append({"role": "user", "content": f"{turn}: " + prose_of(messages, turn)})
            first, text = first_token(port, messages, 8)
            messages.append({"role": "assistant", "content": text})
            # The first turn is cold with every policy.
            if turn > 0:
                took.append(first)

        at_once(one, waiting, 6)
    return took


def prose_of(messages, turn):
    return " ".join(messages[0]["content"].split(" ")[turn * 8 : turn * 8 + 8])


def strangers(port, random):
    """48 prompts that share nothing, a few at a time."""
    prompts = [[{"role": "user", "content": prose(random, 100)}] for _ in range(48)]
    took = []
    at_once(lambda messages: took.append(first_token(port, messages, 8)[0]), prompts, 6)
    return took


def at_once(work, items, most):
    items, lock = list(items), threading.Lock()

    def take():
        while True:
            with lock:
                if not items:
                    return
                item = items.pop()
            work(item)

    threads = [threading.Thread(target=take) for _ in range(most)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


TRACES = {"conversations": (conversations, 0.5), "strangers": (strangers, 1.0)}


if __name__ == "__main__":
    main()
