"""Validates Kubernetes objects against the schemas that Kubernetes publishes.

Run through `cargo xtask verify-manifests`. Reads a JSON list of objects and prints a JSON list of complaints, one for each object that is
not as its schema says; unknown fields are complaints. Objects of kinds that Kubernetes itself does not have are left to others.
Needs: kubernetes-validate.
"""

import json
import pathlib
import sys

import kubernetes_validate

OWN_GROUPS = ("apps", "autoscaling", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "apiextensions.k8s.io")


def is_own(obj):
    group, slash, _ = obj["apiVersion"].partition("/")
    return not slash or group in OWN_GROUPS


def main():
    objects = json.loads(pathlib.Path(sys.argv[1]).read_text())
    version = kubernetes_validate.latest_version()
    complaints, checked = [], 0
    for obj in filter(is_own, objects):
        checked += 1
        try:
            kubernetes_validate.validate(obj, version, strict=True)
        except Exception as error:  # whatever it finds is a complaint
            complaints.append(f"{obj['kind']} {obj['metadata']['name']}: {error}")
    print(json.dumps({"checker": f"Kubernetes {version}", "checked": checked, "complaints": complaints}))


main()
