"""Renders a Helm chart with Helm itself, and says what Helm finds wrong with it.

Run through `cargo xtask chart`. Arguments: chart, release, namespace, and files with values ("-" for the defaults alone). Prints a JSON object
with `findings`, what is wrong with the chart, and `renderings`, in the order of the files: the text of every document in the order in which
Helm applies kinds, but for CustomResourceDefinitions; all objects, read as YAML 1.1 as Helm and kubectl read them; and the notes.
Needs: helm-python-sdk, PyYAML.
"""

import json
import pathlib
import re
import sys

import helm_python
import yaml

# Helm's order of installation, of the kinds that the chart has.
ORDER = (
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodMonitor",
    "PrometheusRule",
    "ServiceMonitor",
)
WARNING = 2


def values_of(file):
    return {} if file == "-" else yaml.safe_load(pathlib.Path(file).read_text())


def documents_of(templates):
    for name, text in sorted(templates.items()):
        if name.endswith(".yaml"):
            for document in re.split(r"^---$", text, flags=re.MULTILINE):
                obj = yaml.safe_load(document)
                if obj is not None:
                    yield document.strip("\n"), obj


def render(chart, release, namespace, values):
    chart.validate_schema(values)
    templates = chart.render(values, name=release, namespace=namespace)
    documents = sorted(documents_of(templates), key=lambda one: ORDER.index(one[1]["kind"]))
    return {
        "documents": [text for text, obj in documents if obj["kind"] != "CustomResourceDefinition"],
        "objects": [obj for _, obj in documents],
        "notes": next(text for name, text in templates.items() if name.endswith("NOTES.txt")),
    }


def findings_of(folder, chart):
    lint = helm_python.lint(folder)
    findings = [f"{one['path']}: {one['error']}" for one in lint["messages"] if one["severity"] >= WARNING]
    findings += [str(error) for error in lint["errors"]]
    refused = (
        {"operater": {}},
        {"gateway": {"replicas": "three"}},
        {"image": {"digest": "latest"}},
        {"monitoring": {"rules": {"objectives": {"firstTokenSeconds": 3}}}},
    )
    for values in refused:
        try:
            chart.validate_schema(values)
            findings.append(f"values.schema.json: accepts {values}")
        except helm_python.HelmError:
            pass
    return findings


def main():
    folder, release, namespace, *files = sys.argv[1:]
    with helm_python.Chart.load(folder) as chart:
        result = {
            "helm": helm_python.helm_sdk_version(),
            "findings": findings_of(folder, chart),
            "renderings": [render(chart, release, namespace, values_of(file)) for file in files],
        }
    print(json.dumps(result))


main()
