"""Installs, upgrades and uninstalls a Helm chart with Helm itself, on an API server that need not run anything.

Run through `cargo xtask chart`. Arguments: chart, URL of the API server, and files with values. Prints a JSON list of what did not go as it
should. Releases are kept in memory: an API server that is a fake understands no protobuf, in which Helm writes Secrets.
Needs: helm-python-sdk, PyYAML.
"""

import json
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request

import helm_python
import yaml

RELEASE = "wharf"
NAMESPACE = "wharf-system"
# What the example values speak of.
NAMESPACES = (NAMESPACE, "team-a", "demo", "research")
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/llmservices.wharf.dev"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/wharf-gateway"
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/wharf-gateway"
SERVICES = "/apis/wharf.dev/v1alpha1/namespaces/demo/llmservices"


class Cluster:
    def __init__(self, url):
        self.url = url

    def call(self, method, path, body=None):
        """The object of the answer; None where there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def kubeconfig(self):
        cluster = {"name": "c", "cluster": {"server": self.url}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {}}]
        return json.dumps(
            {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context], "users": users}
        )


def older(chart, folder):
    """The chart as an older version may have been: its definitions know less."""
    copy = pathlib.Path(shutil.copytree(chart, pathlib.Path(folder) / "older"))
    file = copy / "files/crds.yaml"
    definitions = list(yaml.safe_load_all(file.read_text()))
    for definition in definitions:
        if definition["metadata"]["name"] == "llmservices.wharf.dev":
            properties_of(definition).pop("access")
    file.write_text(yaml.safe_dump_all(definitions))
    return str(copy)


def properties_of(definition):
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def life(helm, chart, cluster):
    """A release from its installation to its end, and what should be so after each step."""
    with tempfile.TemporaryDirectory() as folder:
        helm.install(older(chart, folder), RELEASE, {}, timeout=60)
    yield "an installation makes the gateway", cluster.call("GET", DEPLOYMENT) is not None
    yield "an installation makes the definitions", "access" not in properties_of(cluster.call("GET", DEFINITION))

    service = {"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "assistant"}, "spec": {"model": {"source": "hf://a/b"}}}
    cluster.call("POST", SERVICES, service)
    helm.upgrade(chart, RELEASE, {"gateway": {"replicas": 3}}, timeout=60)
    yield "an upgrade changes what the values change", cluster.call("GET", DEPLOYMENT)["spec"]["replicas"] == 3
    yield "an upgrade brings the definitions up to date", "access" in properties_of(cluster.call("GET", DEFINITION))

    helm.uninstall(RELEASE, timeout=60)
    yield "nothing that runs is left", cluster.call("GET", DEPLOYMENT) is None
    yield "no right is left", cluster.call("GET", ROLE) is None
    yield "the definitions are left", cluster.call("GET", DEFINITION) is not None
    yield "services are left", cluster.call("GET", f"{SERVICES}/assistant") is not None

    helm.install(chart, RELEASE, {}, timeout=60)
    yield "it can be installed again", cluster.call("GET", DEPLOYMENT) is not None
    helm.uninstall(RELEASE, timeout=60)


def main():
    chart, url, *files = sys.argv[1:]
    cluster = Cluster(url)
    for name in NAMESPACES:
        cluster.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    with helm_python.Config(kubeconfig_content=cluster.kubeconfig(), namespace=NAMESPACE, storage_driver="memory") as helm:
        facts = list(life(helm, chart, cluster))
        for file in files:
            values = yaml.safe_load(pathlib.Path(file).read_text())
            release = helm.install(chart, RELEASE, values, timeout=60)
            facts.append((f"{file} can be installed", release["status"] == "deployed"))
            helm.uninstall(RELEASE, timeout=60)
    print(json.dumps({"facts": len(facts), "complaints": [what for what, holds in facts if not holds]}))


main()
