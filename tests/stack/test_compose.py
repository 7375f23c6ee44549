"""docker-compose.yml by the compose binary, and the promises that it makes. No engine is needed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import stack
from tests.stack.collector import VERSION
from tests.support.inside import inside
from tests.support.known import setting_names

ROOT = Path(__file__).parents[2]
MADE_HERE = "roundtrip-backend:0.1.0"
ONCE = "volumes-ready"
"""Runs as root for a moment, to give new volumes away."""
PROBED = {"otel-collector", "tempo", "loki"}
"""Images without a shell: a service beside each asks whether it is healthy."""
OPENED = {"backend": {8080, 9464}, "grafana": {3000}, "prometheus": {9090}, "alertmanager": {9093}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def services(keys: Path) -> dict[str, dict[str, Any]]:
    """The services as compose understands them: merged, interpolated."""
    done = subprocess.run(
        [Path(sys.prefix) / "bin/docker-compose", "-f", ROOT / "docker-compose.yml", "config"],
        env=os.environ | stack.environment(keys),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "compose warns"
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return loaded


PINNED = r":v?\d+\.\d+\.\d+[a-z-]*@sha256:[0-9a-f]{64}"


def test_every_image_is_pinned_by_digest_and_has_a_tag_for_people(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["image"] == MADE_HERE or re.fullmatch(f"[a-z0-9./-]+{PINNED}", service["image"]), name
    one_digest_each = {service["image"].split("@")[0]: service["image"] for service in services.values()}
    assert len(one_digest_each) == len({service["image"] for service in services.values()})


def test_nobody_logs_in_to_grafana_and_nobody_changes_what_is_there(services: dict[str, dict[str, Any]]) -> None:
    told = services["grafana"]["environment"]
    assert told["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    for name in ("GF_AUTH_BASIC_ENABLED", "GF_SNAPSHOTS_ENABLED", "GF_PUBLIC_DASHBOARDS_ENABLED"):
        assert told[name] == "false"
    for name in ("GF_AUTH_DISABLE_LOGIN_FORM", "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"):
        assert told[name] == "true"
    provisioning = ROOT / "dashboards/grafana/provisioning"
    providers = yaml.safe_load((provisioning / "dashboards/dashboards.yaml").read_text())["providers"]
    assert not [provider for provider in providers if provider.get("allowUiUpdates")]
    sources = yaml.safe_load((provisioning / "datasources/datasources.yaml").read_text())["datasources"]
    assert not [source["name"] for source in sources if source["editable"]]


def test_the_collector_is_the_one_that_the_tests_build(services: dict[str, dict[str, Any]]) -> None:
    assert services["otel-collector"]["image"].partition("@")[0].endswith(f":{VERSION}")


def test_only_what_a_person_opens_is_published_and_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert {name: {int(port["published"]) for port in ports} for name, ports in published.items()} == OPENED
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_everything_is_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        made_here = service["image"] == MADE_HERE  # its Dockerfile says who it is
        assert made_here or name == ONCE or not service["user"].startswith("0"), name


def test_everything_that_is_waited_for_can_say_that_it_is_healthy(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"], f"{name} waits for {other}"
    assert {name.removesuffix("-ready") for name in services if name.endswith("-ready")} - {"volumes"} == PROBED


def test_every_mounted_file_exists(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), f"{name}: {volume['source']}"
                assert volume["read_only"] is True, name


def test_state_is_in_named_volumes() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(compose["volumes"]) == {"backend", "tempo", "loki", "prometheus", "alertmanager", "grafana"}


def test_the_settings_that_compose_gives_are_the_backends_own(services: dict[str, dict[str, Any]]) -> None:
    given = {name for name in services["backend"]["environment"] if name.startswith("ROUNDTRIP_")}
    assert given <= setting_names()


async def test_the_stacks_token_opens_the_stacks_backend(keys: Path, tmp_path: Path) -> None:
    key = stack.environment(keys)["ROUNDTRIP_JWT_PUBLIC_KEY"]
    async with inside(tmp_path, auth="jwt", jwt_public_key=key, jwt_issuer=stack.ISSUER) as program:
        headers = {"Authorization": f"Bearer {stack.token('ada', keys)}"}
        status, snapshot, _ = await program.request("GET", "/api/bots/bot/link", headers=headers)
        assert (status, snapshot["userId"]) == (200, "ada")


def test_keys_are_made_once(keys: Path) -> None:
    assert stack.environment(keys) == stack.environment(keys)


def test_without_keys_compose_says_how_to_get_them() -> None:
    done = subprocess.run(
        [Path(sys.prefix) / "bin/docker-compose", "-f", ROOT / "docker-compose.yml", "config", "-q"],
        env={name: value for name, value in os.environ.items() if not name.startswith("ROUNDTRIP_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "make stack" in done.stderr


def test_make_stack_starts_compose_waits_and_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keys: Path
) -> None:
    fake = tmp_path / "docker"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\ntest -n "$ROUNDTRIP_ADMIN_KEY"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(stack, "environment", lambda: {"ROUNDTRIP_ADMIN_KEY": "key"})
    monkeypatch.setattr(stack, "token", lambda user_id: f"token of {user_id} at {int(time.time())}")
    assert stack.main() == 0
    assert (tmp_path / "called").read_text().split()[:3] == ["compose", "up", "--detach"]
    assert "--wait" in (tmp_path / "called").read_text().split()
    said = capsys.readouterr().out
    for ports in OPENED.values():
        for port in ports:
            assert f"127.0.0.1:{port}" in said
    assert "token of ada" in said


def test_without_docker_make_stack_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stack.main() == 127
    assert "docker is missing" in capsys.readouterr().err


def test_dockerfile_is_small_and_unprivileged() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [line for line in lines if line.startswith("FROM ")]
    assert len(stages) == 2
    assert all(re.search(f" python{PINNED}", stage) for stage in stages)
    assert len({stage.split()[1] for stage in stages}) == 1
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    own = [line.split() for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = {word for line in own for word in line[1:-1]}
    assert not [path for path in copied if path != "LICENSE" and not (ROOT / path).exists()]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line}
    assert copied == allowed
