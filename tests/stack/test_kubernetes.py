"""deploy/kubernetes: both overlays are what Kubernetes takes, and keep the promises that they make."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from dashboards.builders.kubernetes import RULES, SOURCES
from tests.stack.promtool import promtool
from tests.support.known import setting_names
from tests.support.kustomize import Manifest, build, identity

ROOT: Final = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS: Final = ("production", "trial")
OWN_SCHEMA: Final = {"PrometheusRule", "ServiceMonitor"}
"""Of the Prometheus Operator: Kubernetes' own schemas have them not."""
PINNED: Final = r"[a-z0-9./-]+:[\w.-]+@sha256:[0-9a-f]{64}"
MADE_HERE: Final = "roundtrip-backend:0.1.0"

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def manifests(overlay: str) -> dict[tuple[str, str], Manifest]:
    """By kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in build(ROOT / "overlays" / overlay)}


def kustomize() -> list[str]:
    """The command of the real one. Without it the test is skipped; it is in no Debian, so that CI may lack it too."""
    if (alone := shutil.which("kustomize")) is not None:
        return [alone, "build"]
    kubectl = shutil.which("kubectl")
    told = subprocess.run(
        [kubectl or "false", "version", "--client"], capture_output=True, text=True, check=False
    ).stdout
    if kubectl is None or "Kustomize Version: v5" not in told:
        pytest.skip("kustomize 5 is missing; get it from https://kubectl.docs.kubernetes.io/installation/kustomize/")
    return [kubectl, "kustomize"]


@every_overlay
def test_it_is_what_the_real_kustomize_makes(overlay: str) -> None:
    made = subprocess.run(
        [*kustomize(), ROOT / "overlays" / overlay], capture_output=True, text=True, check=True
    ).stdout
    real = {identity(one): one for one in yaml.safe_load_all(made)}
    ours = {identity(one): one for one in build(ROOT / "overlays" / overlay)}
    assert real.keys() == ours.keys()
    for name, one in real.items():
        assert _in_order(one) == _in_order(ours[name]), name


def _in_order(value: Any) -> Any:
    """Kustomize puts what a patch adds to a list in front."""
    if isinstance(value, dict):
        return {key: _in_order(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted((_in_order(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


@every_overlay
def test_every_manifest_is_one_of_kubernetes(overlay: str) -> None:
    for (kind, _), manifest in manifests(overlay).items():
        if kind not in OWN_SCHEMA:
            kubernetes_validate.validate(manifest, "1.33", strict=True)
            kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_what_is_wrong_is_found() -> None:
    broken = json.loads(json.dumps(manifests("production")["Deployment", "roundtrip"]))
    broken["spec"]["replcas"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.33", strict=True)


@every_overlay
def test_every_reference_is_to_something_that_is_there(overlay: str) -> None:
    found = manifests(overlay)
    deployment = found["Deployment", "roundtrip"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    pod = deployment["template"]["spec"]
    ports = {port["name"] for port in pod["containers"][0]["ports"]}
    assert ("ServiceAccount", pod["serviceAccountName"]) in found
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    for name in ("roundtrip", "roundtrip-admin"):
        service = found["Service", name]["spec"]
        assert service["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["ports"]} <= ports
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert found[kind, "roundtrip"]["spec"][field]["matchLabels"].items() <= labels.items()
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
    for rule in found["NetworkPolicy", "roundtrip"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= ports


def environment(overlay: str) -> dict[str, str]:
    container = manifests(overlay)["Deployment", "roundtrip"]["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one.get("value", "") for one in container["env"]}


@every_overlay
def test_settings_are_the_backends_own_and_secrets_are_files_that_the_readme_makes(overlay: str) -> None:
    given = environment(overlay)
    ours = {name for name in given if name.startswith("ROUNDTRIP_")}
    assert {name.removesuffix("_FILE") for name in ours} <= setting_names()
    assert "ROUNDTRIP_STORE_FILE" in ours
    assert not [name for name in ours if "KEY" in name and not name.endswith("_FILE")]
    made = set(re.findall(r"--from-(?:literal|file)=([\w-]+)=", (ROOT / "README.md").read_text()))
    used = {Path(value).name for name, value in given.items() if name.endswith("_FILE")}
    assert used <= made
    for manifest in manifests(overlay).values():
        assert manifest["kind"] != "Secret"


@every_overlay
def test_everything_is_confined(overlay: str) -> None:
    for (kind, name), manifest in manifests(overlay).items():
        if kind not in {"Deployment", "StatefulSet"}:
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a service named roundtrip would set ROUNDTRIP_PORT"
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["image"] == MADE_HERE or re.fullmatch(PINNED, container["image"]), name


@every_overlay
def test_a_rolling_update_stops_no_node_before_another_is_ready(overlay: str) -> None:
    deployment = manifests(overlay)["Deployment", "roundtrip"]["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    readiness = container["readinessProbe"]
    assert before < pod["terminationGracePeriodSeconds"] / 3
    assert readiness["timeoutSeconds"] <= readiness["periodSeconds"]
    assert manifests(overlay)["PodDisruptionBudget", "roundtrip"]["spec"]["maxUnavailable"] == 1


def test_production_scrapes_each_pod_under_the_name_that_the_rules_know() -> None:
    found = manifests("production")
    monitor = found["ServiceMonitor", "roundtrip"]["spec"]
    service = found["Service", "roundtrip-admin"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert not monitor["selector"]["matchLabels"].items() <= found["Service", "roundtrip"]["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "roundtrip"  # the job in the rules
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "roundtrip", "key": "admin-key"}


def test_the_rules_are_those_of_the_stack(tmp_path: Path) -> None:
    spec = manifests("production")["PrometheusRule", "roundtrip"]["spec"]
    assert spec["groups"] == [g for name in SOURCES for g in yaml.safe_load((RULES / name).read_text())["groups"]]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    subprocess.run([promtool(), "check", "rules", tmp_path / "rules.yaml"], check=True, capture_output=True)
