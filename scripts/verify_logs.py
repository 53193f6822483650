"""What shippers of logs make of containers' log files, with the configuration that the chart renders.

Run through `cargo xtask verify-logs`. Arguments: the shipper's kind (fluent-bit or fluentd), the file with its rendered configuration, the port of
its Elasticsearch, a program that prints log lines of Wharf, a program that is an API server (`fake-cluster`), and the shipper's command. A node's
files are written as containerd and kubelet write them, an Elasticsearch that only remembers takes what is shipped, and every record is
compared. The configuration is the rendered one but for the API server's address; the paths are a cluster's, in a mount namespace, which takes
root. Prints a line for each fact; exit code 1 when one is not so.
"""

import collections
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PATIENCE = 60
# containerd cuts lines here.
RECORD = 16 * 1024
NAMESPACE = "demo"
# A line that is a list is a record for each of its elements with Fluentd, whose JSON parser works so.
LISTS = {"fluent-bit": set(), "fluentd": {"[1, 2]"}}
POD = "assistant-blue-7d9f8b5c4d-abcde"


class Elasticsearch:
    """Remembers what is sent to it, unless it is told to be away."""

    def __init__(self, port):
        self.documents = []
        self.away = False
        self.refused = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, value, status=200):
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("X-Elastic-Product", "Elasticsearch")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def refuse(self):
                outer.refused += 1
                self.answer({"error": "away"}, 503)

            def do_GET(self):
                if outer.away:
                    self.refuse()
                    return
                self.answer({"name": "n", "cluster_name": "c", "version": {"number": "7.17.1", "build_flavor": "default"}, "tagline": "You Know, for Search"})

            do_HEAD = do_GET

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.away:
                    self.refuse()
                    return
                lines = [json.loads(line) for line in body.splitlines() if line]
                actions = [next(iter(line.items())) for line in lines[::2]]
                outer.documents += [(about.get("_index"), about.get("_id"), document) for (_, about), document in zip(actions, lines[1::2])]
                self.answer({"took": 1, "errors": False, "items": [{verb: {"status": 201}} for verb, _ in actions]})

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Node:
    """The log files of a node, as its runtime writes them and kubelet names them."""

    def __init__(self, folder):
        self.log = folder / "log"
        self.state = folder / "state"
        (self.log / "containers").mkdir(parents=True)
        self.state.mkdir()
        self.minute = 0

    def file(self, namespace, pod, container):
        place = self.log / "pods" / f"{namespace}_{pod}_0f5c" / container / "0.log"
        link = self.log / "containers" / f"{pod}_{namespace}_{container}-{'0123456789abcdef' * 4}.log"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(os.path.relpath(place, link.parent))
        return place

    def records(self, stream, text):
        """A line in the CRI's format: cut, and each piece tagged P or F."""
        pieces = [text[at : at + RECORD] for at in range(0, len(text), RECORD)] or [b""]
        for number, piece in enumerate(pieces):
            self.minute += 1
            tag = "F" if number == len(pieces) - 1 else "P"
            when = f"2026-11-27T03:{self.minute // 60:02}:{self.minute % 60:02}.123456789Z"
            yield f"{when} {stream} {tag} ".encode() + piece + b"\n"

    def write(self, place, *records):
        with place.open("ab") as file:
            for record in records:
                file.write(record)


class Shipper:
    """Runs with the node's folders where the chart mounts them, and the files of a service account."""

    def __init__(self, kind, config, command, folder, node, environment):
        place = "/var/run/secrets/kubernetes.io/serviceaccount"
        mounts = (
            f"mount --bind {node.log} /var/log",
            "mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/wharf/logs",
            f"mount --bind {node.state} /var/lib/wharf/logs",
            f"mount -t tmpfs tmpfs /run && mkdir -p {place}",
            f"printf wharf-logs > {place}/namespace && printf token > {place}/token",
        )
        option = "-c" if kind == "fluentd" else "--config"
        script = " && ".join((*mounts, 'exec "$@"'))
        self.arguments = ["unshare", "--mount", "sh", "-c", script, "sh", *command, option, str(config)]
        self.environment = environment
        self.said = folder / "shipper.log"
        self.start()

    def start(self):
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(self.arguments, stdout=said, stderr=said, env={**os.environ, **self.environment})

    def is_gone(self):
        return self.process.poll() is not None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def end(self):
        """Asks first: a supervisor that is killed leaves its worker, and the worker its port."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()


class Facts:
    def __init__(self):
        self.broken = 0

    def __call__(self, what, holds, seen=None):
        print(f"{'ok ' if holds else 'NOT SO'} {what}" + ("" if holds else f": {str(seen)[:2000]}"), flush=True)
        self.broken += not holds


def until(condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    return condition()


def cluster(program):
    process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def create(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(request, timeout=10).read()


def check(kind, rendered, port, lines_program, cluster_program, command):
    fact = Facts()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="verify-logs-"))
    node = Node(folder)
    server, url = cluster(cluster_program)
    elastic = Elasticsearch(port)
    try:
        create(url, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {"team": "a"}}})
        labels = {"app": "assistant", "app.kubernetes.io/name": "wharf"}
        spec = {"nodeName": "node-1", "containers": [{"name": "server", "image": "wharf:1"}]}
        create(url, f"/api/v1/namespaces/{NAMESPACE}/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE, "labels": labels}, "spec": spec})

        ours = [line for line in subprocess.run([lines_program], capture_output=True, check=True).stderr.splitlines()]
        fact("lines of Wharf are one record each", all(len(line) < RECORD for line in ours) and len(ours) == 3, [len(line) for line in ours])
        place = node.file(NAMESPACE, POD, "server")
        long = {"message": "a long one", "payload": "0123456789abcdef" * 2560, "n": 7}
        wide = {"message": "w", "payload": "ü" * 12000}
        for line in ours:
            node.write(place, *node.records("stderr", line))
        node.write(place, *node.records("stdout", json.dumps(long).encode()))
        node.write(place, *node.records("stdout", json.dumps(wide, ensure_ascii=False).encode()))
        node.write(place, *node.records("stdout", b"INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)"))
        node.write(place, *node.records("stdout", b"plain " + b"z" * 20000 + b" end"))
        one, other = list(node.records("stderr", b"E" * RECORD + b"rr")), list(node.records("stdout", b"between"))
        node.write(place, one[0], *other, one[1])
        for text in (b"42", b'"a string"', b'{"half": ', b"[1, 2]"):
            node.write(place, *node.records("stdout", text))
        node.write(node.file("wharf-logs", "wharf-logs-x", kind), *node.records("stdout", b"of the shipper itself"))
        config = folder / ("fluent.conf" if kind == "fluentd" else "fluent-bit.yaml")
        config.write_text(pathlib.Path(rendered).read_text().replace("https://kubernetes.default.svc:443", url))
        environment = {"KUBERNETES_URL": url, "K8S_NODE_NAME": "node-1", "OUTPUT_USER": "elastic", "OUTPUT_PASSWORD": "x"}
        shipper = Shipper(kind, config, command, folder, node, environment)
        try:
            follow(fact, kind, node, place, elastic, shipper, ours, long, wide)
        finally:
            shipper.end()
        if fact.broken:
            print(shipper.said.read_text()[-6000:])
    finally:
        server.kill()
        elastic.server.shutdown()
    return fact.broken


def follow(fact, kind, node, place, elastic, shipper, ours, long, wide):
    documents = lambda: [document for _, _, document in elastic.documents]
    having = lambda name, value: [document for document in documents() if document.get(name) == value]
    texts = lambda: collections.Counter(document.get("message") for document in documents())
    until(lambda: len(documents()) >= 13 or shipper.is_gone())
    if shipper.is_gone():
        fact("the shipper takes the configuration", False, shipper.process.returncode)
        return
    wanted = [json.loads(line) for line in ours]
    for line in wanted:
        found = having("msg", line["msg"])
        same = len(found) == 1 and all(found[0].get(name) == value for name, value in line.items())
        fact(f"{line['msg']!r} of Wharf: every field with its type", same, found)
    ended = (having("msg", "request ended") or [{}])[0]
    pod = ended.get("kubernetes", {})
    fact("a record says which pod it is of", (pod.get("pod_name"), pod.get("namespace_name"), pod.get("container_name")) == (POD, NAMESPACE, "server"), pod)
    names = set(pod.get("labels", {}))
    fact("labels are there and have no dots", "app" in names and len(names) == 2 and not any("." in name for name in names), pod)
    fact("a record says which stream it is of", ended.get("stream") == "stderr", ended)
    fact("the record's time is the runtime's", str(ended.get("@timestamp", "")).startswith("2026-11-27T03:00:02.123"), ended.get("@timestamp"))
    fact("tags of the CRI are gone", not {"_p", "logtag", "log"} & set(ended), ended)
    index = {index for index, _, _ in elastic.documents}
    fact("indices carry prefix and day", index == {"llm-2026.11.27"}, index)
    found = having("n", 7)
    fact("a JSON payload of three pieces is whole", len(found) == 1 and found[0].get("payload") == long["payload"], found)
    found = having("payload", wide["payload"])
    fact("a character that was cut in two is whole", len(found) == 1, [d for d in documents() if d.get("message") == "w"])
    fact("a line of text is the message", texts()["INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)"] == 1, texts())
    fact("a line of text of two pieces is whole", texts()["plain " + "z" * 20000 + " end"] == 1)
    fact("pieces of two streams are kept apart", texts()["E" * RECORD + "rr"] == 1 and texts()["between"] == 1)
    odd = ["42", '"a string"', '{"half": ', "[1, 2]"]
    fact("what is no JSON object stays text", all(texts()[text] == 1 or texts()[text] > 1 and text in LISTS[kind] for text in odd), [text for text in texts() if text and len(text) < 100])
    fact("the shipper's own lines are left out", texts()["of the shipper itself"] == 0)

    before = place.stat().st_ino
    node.write(place, *node.records("stdout", b"last of the old file"))
    place.rename(place.with_name("0.log.20261127-031500"))
    node.write(place, *node.records("stdout", b"first of the new file"))
    fact("kubelet turns the file over", place.stat().st_ino != before)
    arrived = until(lambda: texts()["last of the old file"] and texts()["first of the new file"])
    fact("no line is lost when the file is turned over", arrived, [text for text in texts() if text and len(text) < 100])

    shipper.stop()
    node.write(place, *node.records("stdout", b"while the shipper was away"))
    shipper.start()
    fact("a shipper that starts again goes on", until(lambda: texts()["while the shipper was away"]))

    elastic.away = True
    node.write(place, *node.records("stdout", b"while Elasticsearch was away"))
    until(lambda: elastic.refused)
    shipper.stop()
    refused, elastic.refused = elastic.refused, 0
    shipper.start()
    until(lambda: elastic.refused or shipper.is_gone())
    fact("a shipper starts while the output is away", elastic.refused > 0 and not shipper.is_gone())
    elastic.away = False
    arrived = until(lambda: texts()["while Elasticsearch was away"])
    fact("what waits for the output survives a restart", refused > 0 and arrived, (refused, arrived))
    again = collections.Counter((name, document.get("message"), document.get("msg")) for _, name, document in elastic.documents)
    again = [what for what, count in again.items() if count > 1 and what[1] not in LISTS[kind]]
    fact("nothing is there twice", not again, again)


def main():
    kind, rendered, port, lines_program, cluster_program, *command = sys.argv[1:]
    sys.exit(1 if check(kind, rendered, int(port), lines_program, cluster_program, command) else 0)


main()
