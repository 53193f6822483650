"""Passes Grafana dashboards through the types that Grafana publishes, and says what is lost on the way.

Run through `cargo xtask verify-monitoring`. Arguments: the files. Prints a JSON object with the complaints: a field that is misspelt, in the wrong place
or of the wrong type does not come back. Needs: grafana-foundation-sdk.
"""

import importlib.metadata
import json
import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(before, after, path):
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is lost"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after)):
            yield from lost(*pair, f"{path}[{index}]")
    elif before != after:
        yield f"{path} is {after!r} in place of {before!r}"


def main():
    register_default_plugins()
    complaints = []
    for file in sys.argv[1:]:
        before = json.loads(pathlib.Path(file).read_text())
        after = json.loads(JSONEncoder().encode(Dashboard.from_json(before)))
        complaints += [f"{file}: {what}" for what in lost(before, after, "")]
    version = importlib.metadata.version("grafana-foundation-sdk")
    print(json.dumps({"checker": f"grafana-foundation-sdk {version}", "checked": len(sys.argv) - 1, "complaints": complaints}))


main()
