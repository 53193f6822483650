"""Whether `wharf up` keeps its promises with a real model: see `cargo xtask verify-up`.

Plain Python: processes, sockets and threads. Every fact is printed when it was seen; exits with 1 at the first that does not hold.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

# A gate that judges a model beside everything else that runs takes minutes.
PATIENCE = 400
LOOK = 0.05


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wharf", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--output")
    parser.add_argument("--llamacpp", action="store_true", help="also with the llama-server that is in the path")
    args = parser.parse_args()
    work = pathlib.Path(args.work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    up = Up(args.wharf, pathlib.Path(args.model), work)
    figures = {}
    try:
        figures = first_token_from_zero(up)
        wakes_for_a_herd(up)
        good_release(up)
        for name, change, expected in BAD:
            bad_release(up, name, change, expected)
        crash(up)
        killed(up)
        ended(up)
    finally:
        up.kill()
    if args.llamacpp:
        figures.update(llamacpp(args.wharf, pathlib.Path(args.model), work))
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(figures, indent=2) + "\n")


def fact(text):
    print(f"held  {text}", flush=True)


def fail(text, up=None):
    print(f"FAILED  {text}", flush=True)
    if up:
        print(up.log(), flush=True)
    sys.exit(1)


class Up:
    """A supervisor with a file of its own."""

    def __init__(self, wharf, model, work, **always):
        self.wharf, self.model, self.work, self.always = wharf, model, work, always
        self.file, self.state = work / "llm.yaml", work / "state"
        self.process = None
        self.write()
        self.start()

    def write(self, **change):
        """Writes the object; `change` replaces sections of its spec."""
        spec = {
            "model": {"source": f"file://{self.model}"},
            "scaling": {"min": 0, "max": 1, "target": {"concurrency": 8}, "idleAfter": "2s"},
            "rollout": {"rollbackOn": {"minRequests": 5}, "keepOldFor": "1s", "warmup": {"prompts": 2}},
        }
        for section, value in [*self.always.items(), *change.items()]:
            spec[section] = {**spec.get(section, {}), **value}
        body = {
            "apiVersion": "wharf.dev/v1alpha1",
            "kind": "LLMService",
            "metadata": {"name": "assistant"},
            "spec": spec,
        }
        partial = self.work / "llm.part"
        partial.write_text(json.dumps(body))
        partial.rename(self.file)

    def start(self):
        self.port, metrics = free_port(), free_port()
        command = [self.wharf, "up", "-f", self.file, "--state", self.state, "--cache", self.work / "cache"]
        command += ["--port", self.port, "--metrics-port", metrics]
        out = open(self.work / "up.log", "ab")
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        until("the gateway", lambda: self.answers(), self)

    def answers(self):
        if self.process.poll() is not None:
            fail(f"it ended by itself with {self.process.returncode}", self)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def log(self):
        return self.said()[-6000:]

    def said(self):
        return (self.work / "up.log").read_text(errors="replace")

    def facts(self):
        return self.service().get("facts") or {"phase": "", "message": "", "replicas": [], "versions": []}

    def service(self):
        command = [self.wharf, "ps", "--output", "json", "--state", str(self.state)]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
        services = json.loads(shown.stdout)["services"] if shown.returncode == 0 else []
        return services[0] if services else {}

    def until_ready(self):
        def ready():
            facts = self.facts()
            # A service that sleeps is woken.
            if facts["phase"] == "Idle":
                self.chat()
            return [r for r in facts["replicas"] if r["state"] == "ready"] and settled(facts)

        return until("a ready replica", ready, self)

    def chat(self, tokens=4, prompt="Name three colours."):
        return chat(self.port, tokens, prompt)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def settled(facts):
    """Nothing is being released; without a phase, what runs is what the file asks for."""
    return (facts.get("rollout") or {}).get("phase") in (None, "Promoted", "RolledBack")


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, holds, up):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = holds()
        if found:
            return found
        time.sleep(LOOK)
    fail(f"{what} never came: {json.dumps(up.facts(), indent=1)}", up)


def chat(port, tokens, prompt, stream=True):
    """A chat. Gives status, text of the answer, whether it ended whole, and seconds to the first token."""
    body = {
        "model": "assistant",
        "max_tokens": tokens,
        "temperature": 0,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    first, text = None, b""
    try:
        while piece := answer.read1(65536):
            text += piece
            if first is None and b'"content":"' in text:
                first = time.monotonic() - began
    except (http.client.IncompleteRead, ConnectionError):
        return answer.status, text, "broken", first
    # An error event is followed by the end of the stream, for clients that wait for it.
    if b'data: {"error"' in text:
        how = "error"
    elif b"data: [DONE]" in text:
        how = "whole"
    else:
        how = "silent"
    return answer.status, text, how, first


class Load:
    """Chats that go on, a few at a time, until they are told to stop."""

    def __init__(self, up, streams=2, tokens=6, prompt="Count to {}."):
        self.going, self.seen, self.lock = True, [], threading.Lock()
        arguments = (up.port, tokens, prompt)
        # Whatever fails meanwhile ends the script, and these with it.
        self.threads = [threading.Thread(target=self.run, args=arguments, daemon=True) for _ in range(streams)]
        for thread in self.threads:
            thread.start()

    def run(self, port, tokens, prompt):
        number = 0
        while self.going:
            number += 1
            try:
                status, _, how, _ = chat(port, tokens, prompt.format(number))
            except OSError as error:
                status, how = 0, str(error)
            with self.lock:
                self.seen.append((status, how))

    def end(self):
        self.going = False
        for thread in self.threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                fail("a request hangs")
        return self.seen


def bad(seen):
    return [outcome for outcome in seen if outcome != (200, "whole")]


def asleep(up):
    def holds():
        facts = up.facts()
        return facts["phase"] == "Idle" and not facts["replicas"]

    until("sleep", holds, up)


def first_token_from_zero(up):
    up.until_ready()
    status, text, how, _ = up.chat(tokens=16, prompt="What is the capital of France?")
    if (status, how) != (200, "whole"):
        fail(f"the first chat ended with {status} {how}: {text[:300]}", up)
    fact("it answers a chat as a stream")
    took, overhead = [], []
    for _ in range(7):
        asleep(up)
        status, text, how, first = up.chat()
        if (status, how) != (200, "whole") or first is None:
            fail(f"a chat at zero ended with {status} {how}: {text[:300]}", up)
        took.append(first)
        # The same length again, awake; and what the server itself took until it was ready.
        awake = up.chat(prompt="Name three animals.")[3]
        start = float(re.findall(r"ReplicaReady: .* after ([0-9.]+) s", up.log())[-1])
        overhead.append(first - awake - start)
    fact(f"it falls asleep and wakes; first token from zero: {spread(took)}")
    fact(f"of that neither the server's start nor the prompt: {spread(overhead)}")
    return {"first_token_from_zero_s": took, "overhead_s": overhead}


def spread(seconds):
    return f"median {statistics.median(seconds):.3f} s of {sorted(round(second, 3) for second in seconds)}"


def wakes_for_a_herd(up):
    asleep(up)
    before = up.said().count("ReplicaReady")
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(up.chat()[:3:2])) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if len(outcomes) != 60 or any(outcome != (200, "whole") for outcome in outcomes):
        fail(f"of 60 requests at zero: {outcomes}", up)
    started = up.said().count("ReplicaReady") - before
    if started != 1:
        fail(f"60 requests at zero started {started} replicas", up)
    fact("60 requests at zero are one wake, and all are answered")


AWAKE = {"min": 1}


def good_release(up):
    up.write(scaling=AWAKE)
    up.until_ready()
    load = Load(up)
    generation = up.facts()["generation"]
    up.write(scaling=AWAKE, server={"maxModelLen": 1024})
    until("the release", lambda: promoted(up, generation), up)
    until("the old version gone", lambda: len(up.facts()["versions"]) == 1, up)
    seen = load.end()
    if bad(seen) or len(seen) < 10:
        fail(f"of {len(seen)} requests during a good release these failed: {bad(seen)}", up)
    fact(f"a good release under load: {len(seen)} requests, none failed")


def promoted(up, after):
    rollout = up.facts().get("rollout") or {}
    return rollout.get("phase") == "Promoted" and rollout["generation"] > after


GATE = {"quantize": "q4_0", "gate": {"maxKlDivergence": 0.000001}}
BAD = [
    ("a missing file", lambda up: {"model": {"source": "file:///nowhere/model.gguf"}}, "nowhere"),
    ("a model that fails its gate", lambda up: {"model": {"source": f"file://{up.model}", "optimize": GATE}}, "KL"),
    ("a server that exits", lambda up: {"runtime": {"args": ["--no-such-flag"]}}, "no-such-flag"),
    (
        # One request at a time: the others wait for it, where the old version answers them side by side.
        "a server beyond its time to first token",
        lambda up: {
            "server": {"maxModelLen": 1024, "maxNumSeqs": 1},
            "rollout": {"rollbackOn": {"minRequests": 5, "ttftP95": "300ms"}},
        },
        "ttftP95",
    ),
]


def bad_release(up, name, change, expected):
    up.write(scaling=AWAKE, server={"maxModelLen": 1024})
    until("rest", lambda: settled(up.facts()) and len(up.facts()["versions"]) == 1, up)
    before = up.facts()["versions"][0]["colour"]
    taken_back = up.said().count("RolledBack:")
    load = Load(up, streams=4, tokens=40, prompt="Tell a story about river number {}.")
    changed = change(up)
    up.write(**{"scaling": AWAKE, "server": {"maxModelLen": 1024}, **changed})
    until(f"the way back from {name}", lambda: up.said().count("RolledBack:") > taken_back, up)
    reason = up.facts()["rollout"]["reason"]
    until("one version", lambda: len(up.facts()["versions"]) == 1, up)
    seen = load.end()
    if bad(seen):
        fail(f"of {len(seen)} requests during {name} these failed: {bad(seen)}", up)
    if expected not in reason:
        fail(f"the reason for {name} does not say {expected}: {reason}", up)
    if up.facts()["versions"][0]["colour"] != before:
        fail(f"after {name} another version serves", up)
    fact(f"{name} is taken back under load ({len(seen)} requests, none failed): {reason[:160]}")


def members(group):
    """Processes of a group."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = re.sub(r"^.*\) ", "", stat.read_text()).split(" ")
        except OSError:
            continue
        if fields[2] == str(group) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def crash(up):
    up.write(scaling={"min": 2, "max": 2}, server={"maxModelLen": 1024})
    until("two replicas", lambda: len([r for r in up.facts()["replicas"] if r["state"] == "ready"]) == 2, up)
    load = Load(up, streams=4, tokens=200, prompt="Tell a long story about river number {}.")
    victim = until("a replica with several requests", lambda: busiest(up), up)
    # Their answers have begun, so nobody can take them over.
    time.sleep(0.7)
    engine = [process for process in members(victim) if process != victim]
    os.kill(engine[0], signal.SIGKILL)
    until("another replica", lambda: replaced(up, victim), up)
    seen = load.end()
    wrong = bad(seen)
    # Only streams that the replica was answering end early, and they say so.
    if not 1 <= len(wrong) <= 4 or any(outcome != (200, "error") for outcome in wrong):
        fail(f"of {len(seen)} requests these failed: {wrong}", up)
    fact(f"a replica killed under load: of {len(seen)} requests {len(wrong)} ended with an error event, the others are whole")


def busiest(up):
    """The process id of a replica that answers at least two requests."""
    service = up.service()
    busy = [endpoint["address"] for endpoint in service["endpoints"] if endpoint["in_flight"] >= 2]
    return next((r["pid"] for r in service["facts"]["replicas"] if r["address"] in busy), None)


def replaced(up, victim):
    replicas = up.facts()["replicas"]
    return len(replicas) == 2 and all(r["state"] == "ready" and r["pid"] != victim for r in replicas)


def killed(up):
    groups = [replica["pid"] for replica in up.facts()["replicas"]]
    second = subprocess.run(
        [up.wharf, "up", "-f", str(up.file), "--state", str(up.state), "--port", "0"], capture_output=True, text=True, timeout=60
    )
    if second.returncode != 2 or str(up.process.pid) not in second.stderr:
        fail(f"a second supervisor ended with {second.returncode}: {second.stderr}", up)
    fact("a second supervisor for the same folder is refused with the process id of the first")
    releases = up.said().count("Preparing:")
    up.process.kill()
    up.process.wait()
    until("the end of all processes", lambda: not any(members(group) for group in groups), up)
    fact("killed, it leaves no process behind")
    up.start()
    up.until_ready()
    if up.said().count("Preparing:") != releases:
        fail("the next one released anew", up)
    fact("the next one goes on where it was")


def ended(up):
    groups = [replica["pid"] for replica in up.facts()["replicas"]]
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(up.chat(tokens=60)[:3:2]))
    thread.start()
    time.sleep(0.3)
    down = subprocess.run([up.wharf, "down", "--state", str(up.state)], capture_output=True, text=True, timeout=PATIENCE)
    thread.join(PATIENCE)
    if down.returncode != 0 or outcome != [(200, "whole")]:
        fail(f"down ended with {down.returncode} {down.stderr}, the request with {outcome}", up)
    if up.process.wait(PATIENCE) != 0 or any(members(group) for group in groups):
        fail("something is left after down", up)
    fact("down lets a running request end and leaves nothing behind")


def llamacpp(wharf, model, work):
    """The same service by an engine of others."""
    if not shutil.which("llama-server"):
        fail("there is no llama-server in the path")
    work = work / "llamacpp"
    work.mkdir()
    # Its rules know GGUF files by their names.
    named = work / "model.gguf"
    named.symlink_to(model)
    up = Up(wharf, named, work, runtime={"engine": "llamacpp"})
    try:
        up.until_ready()
        status, text, how, _ = up.chat(tokens=24, prompt="What is the capital of France? Answer in English.")
        answer = "".join(re.findall(r'"content":"([^"]*)"', text.decode()))
        if (status, how) != (200, "whole") or "Paris" not in answer:
            fail(f"llama-server answered {status} {how}: {text[:300]}", up)
        fact(f"llama-server from the path answers a chat as a stream: {answer[:60]}")
        asleep(up)
        status, _, how, first = up.chat()
        if (status, how) != (200, "whole"):
            fail(f"a chat at zero ended with {status} {how}", up)
        fact(f"it falls asleep and wakes; first token from zero: {first:.3f} s")
        good_release(up)
        ended(up)
    finally:
        up.kill()
    return {"llamacpp_first_token_from_zero_s": first}


if __name__ == "__main__":
    main()
