"""Renders a Helm chart with Helm itself, and says what Helm finds wrong with it.

Run through `cargo xtask chart`. Arguments: chart, release, namespace, and files with values ("-" for the defaults alone). Prints a JSON object:
`lint`, what Helm finds wrong, and `renderings`, in the order of the files: text and objects by template. Objects are read as YAML 1.1, as
Helm and kubectl read them.
Needs: helm-python-sdk, PyYAML.
"""

import json
import pathlib
import sys

import helm_python
import yaml


def values_of(file):
    return {} if file == "-" else yaml.safe_load(pathlib.Path(file).read_text())


def main():
    folder, release, namespace, *files = sys.argv[1:]
    findings = helm_python.lint(folder)
    with helm_python.Chart.load(folder) as chart:
        renderings = []
        for file in files:
            values = values_of(file)
            chart.validate_schema(values)
            templates = chart.render(values, name=release, namespace=namespace)
            renderings.append(
                {
                    name: {"text": text, "objects": [one for one in yaml.safe_load_all(text) if one is not None]}
                    for name, text in templates.items()
                    if name.endswith(".yaml")
                }
            )
            notes = next(text for name, text in templates.items() if name.endswith("NOTES.txt"))
            renderings[-1]["NOTES.txt"] = {"text": notes, "objects": []}
    print(json.dumps({"helm": helm_python.helm_sdk_version(), "lint": findings, "renderings": renderings}))


main()
