"""What kustomize makes of an overlay, as far as deploy/kubernetes uses it: resources, components, patches, a namespace.

A patch is a strategic merge: mappings are merged, the lists of `LISTS` by their elements' names, all else is replaced.
tests/stack/test_kubernetes.py holds it against the real one where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

Manifest = dict[str, Any]

LISTS: Final = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "name"}
"""Lists whose elements a patch finds by this field."""
UNDERSTOOD: Final = {"apiVersion", "kind", "namespace", "resources", "components", "patches"}
CLUSTER_WIDE: Final = {"Namespace"}


def build(folder: Path) -> list[Manifest]:
    """The manifests of a folder with a kustomization.yaml. What it does not understand is an `AssertionError`."""
    about = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(about) <= UNDERSTOOD, folder
    found: list[Manifest] = []
    for name in (*about.get("resources", ()), *about.get("components", ())):
        path = folder / name
        found += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for patch in about.get("patches", ()):
        assert set(patch) == {"path"}, patch
        change = yaml.safe_load((folder / patch["path"]).read_text())
        targets = [one for one in found if identity(one) == identity(change)]
        assert len(targets) == 1, f"{patch['path']} is for one of what is there"
        found[found.index(targets[0])] = merged(targets[0], change)
    for one in found:
        if "namespace" in about and one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = about["namespace"]
    return found


def identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def merged(old: Any, new: Any, name: str = "") -> Any:
    """`new` over `old`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merged(old[key], value, key) if key in old else value for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and name in LISTS:
        field = LISTS[name]
        known = {one[field]: one for one in old}
        changed = {one[field]: merged(known.get(one[field], {}), one) for one in new}
        return [*(changed.pop(one[field], one) for one in old), *changed.values()]
    return new
