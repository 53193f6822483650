"""Envoy with the endpoint picker: whether a real proxy and ours understand each other.

Started by `cargo xtask verify-epp`. Runs Envoy with the ext_proc filter in front of fake model servers, once for each way in which gateways use
the picked endpoint: the load balancing policy override_host, with TLS to the picker, and an ORIGINAL_DST cluster. Prints one line
for each fact; exits with 1 when one does not hold.
"""

import argparse
import dataclasses
import http.client
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

PATIENCE = 20.0
ENGINES = 3
DESTINATION = "x-gateway-destination-endpoint"


class Failed(Exception):
    """A fact that does not hold."""


def expect(condition, what):
    if not condition:
        raise Failed(what)
    print(f"  {what}", flush=True)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise Failed(f"this did not happen: {what}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    def __init__(self, program, name, *options, port=0):
        command = [program, "--name", name, "--port", str(port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = f"127.0.0.1:{int(self.process.stdout.readline())}"
        self.name = name

    def kill(self):
        self.process.kill()
        self.process.wait()


def extension(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.{kind}", **fields}}


def address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def assignment(name, addresses):
    endpoints = [{"endpoint": {"address": address(text)}} for text in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def picker_cluster(picker, tls):
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    kind = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster = {
        "name": "picker",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment("picker", [picker]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": kind, **http2}
        },
    }
    if tls:
        cluster["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            common_tls_context={"alpn_protocols": ["h2"]},
        )
    return cluster


def override_host(addresses):
    key = lambda name: {"key": "envoy.lb", "path": [{"key": name}]}
    fallback = extension(
        "envoy.load_balancing_policies.round_robin",
        "extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    )
    policy = extension(
        "envoy.load_balancing_policies.override_host",
        "extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[{"metadata": key(DESTINATION)}, {"header": DESTINATION}],
        selected_host_key=key(f"{DESTINATION}-served"),
        fallback_policy={"policies": [{"typed_extension_config": fallback}]},
    )
    return {
        "name": "pool",
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": assignment("pool", addresses),
        "load_balancing_policy": {"policies": [{"typed_extension_config": policy}]},
    }


def original_dst(_):
    return {
        "name": "pool",
        "type": "ORIGINAL_DST",
        "connect_timeout": "0.5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }


def subset_hint(addresses):
    """What a gateway says when a route allows only some of the endpoints."""
    if not addresses:
        return []
    value = {f"{DESTINATION}-subset": addresses}
    metadata = [{"metadata_namespace": "envoy.lb.subset_hint", "value": value}]
    kind = "extensions.filters.http.set_metadata.v3.Config"
    return [extension("envoy.filters.http.set_metadata", kind, metadata=metadata)]


def envoy_config(port, pool, picker, tls, subset):
    namespaces = {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]}
    ext_proc = extension(
        "envoy.filters.http.ext_proc",
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker"}, "timeout": "10s"},
        failure_mode_allow=False,
        message_timeout="5s",
        processing_mode={
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_trailer_mode": "SEND",
        },
        metadata_options={
            "forwarding_namespaces": namespaces,
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    )
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": "pool",
            "timeout": "0s",
            "retry_policy": {"retry_on": "connect-failure,reset-before-request,refused-stream", "num_retries": 2},
        },
    }
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="front",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            *subset_hint(subset),
            ext_proc,
            extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router"),
        ],
    )
    listener = {"name": "front", "address": address(f"127.0.0.1:{port}"), "filter_chains": [{"filters": [manager]}]}
    clusters = [pool, picker_cluster(picker, tls)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


class Setup:
    """Engines, a picker and an Envoy, all of their own processes."""

    def __init__(self, args, engines, run):
        self.engines, work = engines, args.work
        addresses = [engine.address for engine in engines]
        config = {
            "port": 0, "healthPort": 0, "metricsPort": 0, "drain": 2, "pool": "demo/pool", "endpoints": addresses,
            "tls": "selfSigned" if run.tls else "plaintext", "polling": {"health": 0.1, "metrics": 0.1}, **run.picker,
        }
        (work / "epp.yaml").write_text(json.dumps(config))
        self.picker = subprocess.Popen([args.epp, work / "epp.yaml"], stdout=subprocess.PIPE, text=True)
        grpc, self.side = self.picker.stdout.readline().split()
        self.port = free_port()
        (work / "envoy.json").write_text(json.dumps(envoy_config(self.port, run.pool(addresses), grpc, run.tls, addresses[: run.subset])))
        self.log = work / "envoy.log"
        command = [args.envoy, "-c", work / "envoy.json", "--log-path", self.log, "--use-dynamic-base-id", "--concurrency", "2"]
        self.envoy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        until(self.answers, "Envoy listens")
        return self

    def __exit__(self, *_):
        for process in [self.envoy, self.picker]:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        for engine in self.engines:
            engine.kill()

    def answers(self):
        if self.envoy.poll() is not None:
            raise Failed(f"Envoy ended: {self.log.read_text()[-2000:]}")
        try:
            return self.ask("hello")[0] == 200
        except OSError:
            return False

    def send(self, body, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **(headers or {})})
        return connection.getresponse()

    def ask(self, text, headers=None, **fields):
        response = self.send(json.dumps(chat(text, **fields)), headers)
        return response.status, dict(response.getheaders()), response.read().decode()

    def engine_of(self, text, headers=None):
        status, headers, body = self.ask(text, headers)
        if status != 200:
            raise Failed(f"{status}: {body}")
        return headers["x-fake-engine"]

    def demand(self):
        connection = http.client.HTTPConnection(self.side, timeout=PATIENCE)
        connection.request("GET", "/wharf/v1/demand")
        line = connection.getresponse().readline()
        connection.close()
        return json.loads(line)["services"]["demo/pool"]


def chat(text, **fields):
    return {"model": "fake-model", "messages": [{"role": "user", "content": text}], **fields}


def routes_streams_and_counts(setup):
    prefix = "Everybody reads the same instructions before they ask. " * 60
    engines = {setup.engine_of(f"{prefix}{number}") for number in range(6)}
    expect(len(engines) == 1, "requests with the same beginning reach one engine")
    engines = {setup.engine_of(f"{number}" * 2000) for number in range(12)}
    expect(len(engines) == ENGINES, "others reach all engines")
    kept = setup.engine_of(prefix)
    others = [engine.address for engine in setup.engines if engine.name != kept]
    headers = {DESTINATION: others[0], "x-gateway-other": "1"}
    expect(setup.engine_of(prefix, headers) == kept, "a destination that the client sends changes nothing")
    words = 7000
    status, _, body = setup.ask(f"{'long' * 12} " * words)
    tokens = json.loads(body).get("usage", {}).get("prompt_tokens", 0)
    expect(status == 200 and tokens >= words, f"a body of {49 * words // 1000} kB arrives whole: {tokens} tokens of prompt")
    response = setup.send(json.dumps(chat("stream", stream=True, max_tokens=8)))
    times, events = [], []
    while line := response.readline():
        if line.startswith(b"data:"):
            times.append(time.monotonic())
            events.append(line)
    expect(events[-1] == b"data: [DONE]\n", "a stream arrives up to its last event")
    spread = times[-1] - times[0]
    expect(spread > 0.15, f"its events arrive one by one, over {spread:.2f} s")
    until(lambda: setup.demand()["in_flight"] == 0, "nothing is in flight")
    demand = setup.demand()
    expect(demand["generated_tokens"] > 0 and demand["prompt_tokens"] > 0, "tokens are counted from what engines say")


def client_leaves(setup):
    response = setup.send(json.dumps(chat("leave", stream=True, max_tokens=500)))
    response.readline()
    expect(setup.demand()["in_flight"] == 1, "a stream counts as in flight")
    response.close()
    until(lambda: setup.demand()["in_flight"] == 0, "the stream of a client that left is released")
    expect(True, "the stream of a client that left is released")


def fails_over(setup):
    prefix = "One of the engines is going to disappear. " * 60
    first = setup.engine_of(prefix)
    gone = next(engine for engine in setup.engines if engine.name == first)
    gone.kill()
    answers = [setup.ask(prefix) for _ in range(8)]
    statuses = [status for status, _, _ in answers]
    expect(statuses == [200] * 8, "no request is lost when the engine that has the prefix is killed")
    expect(all(headers["x-fake-engine"] != first for _, headers, _ in answers), "others answer for it")
    until(lambda: not setup.demand()["endpoints"][gone.address]["ready"], "the picker knows that it is gone")
    expect(setup.demand()["in_flight"] == 0, "the picker knows that it is gone, and nothing stays in flight")
    for engine in setup.engines:
        engine.kill()
    until(lambda: not any(load["ready"] for load in setup.demand()["endpoints"].values()), "all are gone")
    status, _, body = setup.ask(prefix)
    expect(status == 503 and "error" in json.loads(body), "nobody ready is a 503 in OpenAI's form")


def sheds(setup):
    answers = []
    slow = lambda number: answers.append(setup.ask(f"slow {number}", max_tokens=60)[0])
    threads = [threading.Thread(target=slow, args=(number,)) for number in range(2 * ENGINES)]
    for thread in threads:
        thread.start()
    until(lambda: setup.demand()["in_flight"] == 2 * ENGINES, "all places are taken")
    status, headers, body = setup.ask("one too many")
    error = json.loads(body)["error"]
    expect(status == 429 and headers["retry-after"] == "1", f"one too many is a 429 with Retry-After: {error['code']}")
    for thread in threads:
        thread.join()
    expect(answers == [200] * 2 * ENGINES, "those before it are answered")
    expect(setup.ask("after")[0] == 200, "there is room again after that")


def fails_over_by_the_list_alone(setup):
    prefix = "Nobody looks whether this engine is well. " * 60
    first = setup.engine_of(prefix)
    gone = next(engine for engine in setup.engines if engine.name == first)
    gone.kill()
    answers = [setup.ask(prefix) for _ in range(6)]
    statuses = [status for status, _, _ in answers]
    expect(statuses == [200] * 6, "Envoy goes to the next endpoint of the list")
    until(lambda: not setup.demand()["endpoints"][gone.address]["ready"], "the picker learns from Envoy who answered")
    expect(setup.demand()["in_flight"] == 0, "the picker learns from Envoy who answered instead, and opens the breaker")


def keeps_to_the_subset(setup):
    engines = {setup.engine_of(f"{number}" * 2000) for number in range(12)}
    expect(engines == {"e0", "e1"}, "only the endpoints of the subset hint are picked")


@dataclasses.dataclass
class Run:
    name: str
    checks: list
    pool: object = override_host
    tls: bool = True
    picker: dict = dataclasses.field(default_factory=dict)
    subset: int = 0


RUNS = [
    Run("override_host, TLS", [routes_streams_and_counts, client_leaves, fails_over]),
    Run("ORIGINAL_DST, plain text", [routes_streams_and_counts, client_leaves], original_dst, False, {"alternatives": 0}),
    Run("overload", [sheds], picker={"routing": {"maxInFlight": 2}}),
    Run("no health checks", [fails_over_by_the_list_alone], picker={"polling": {"health": 1000, "metrics": 1000}}),
    Run("subset hint", [keeps_to_the_subset], subset=2),
]


def main():
    parser = argparse.ArgumentParser()
    for name in ["envoy", "epp", "engine", "work"]:
        parser.add_argument(f"--{name}", required=True, type=pathlib.Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failures = 0
    for run in RUNS:
        print(run.name, flush=True)
        engines = [Engine(args.engine, f"e{number}", "--itl-ms", "30") for number in range(ENGINES)]
        with Setup(args, engines, run) as setup:
            for check in run.checks:
                try:
                    check(setup)
                except Failed as failed:
                    failures += 1
                    print(f"  FAILED: {failed}", flush=True)
    print("all facts hold" if failures == 0 else f"{failures} do not hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
