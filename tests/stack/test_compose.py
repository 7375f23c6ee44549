"""docker-compose.yml by the compose binary, and the promises that it makes. No engine is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import yaml

from dashboards import stack, tour
from tests.stack.collector import VERSION
from tests.support.known import setting_names
from tests.support.program import running
from tests.support.programs import require
from tests.support.py_client import eventually

ROOT = Path(__file__).parents[2]
MADE_HERE = "roundtrip-backend:0.1.0"
ONCE = "volumes-ready"
"""Runs as root for a moment, to give new volumes away."""
PROBED = {"otel-collector", "tempo", "loki"}
"""Images without a shell: a service beside each asks whether it is healthy."""
OPENED = {"backend": {8080, 9464}, "grafana": {3000}, "prometheus": {9090}, "alertmanager": {9093}}


CLEAN = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
"""What a new shell has: nothing of the stack's."""


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The compose binary in the checkout, with no engine to be found."""
    return subprocess.run(
        [Path(sys.prefix) / "bin/docker-compose", *arguments],
        env=CLEAN | {"DOCKER_HOST": "unix:///nowhere/docker.sock"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def understood(file: str, **environment: str) -> dict[str, dict[str, Any]]:
    """A file's services as compose understands them: merged, interpolated."""
    done = compose("--file", file, "config", **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "compose warns"
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
    return loaded


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return understood(stack.FULL)


@pytest.fixture(scope="module")
def small() -> dict[str, dict[str, Any]]:
    return understood(stack.SMALL)


@pytest.fixture(scope="module")
def scale() -> dict[str, dict[str, Any]]:
    return understood(stack.SCALE)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    stack.make_secrets(folder)
    return folder


# what is documented works in a clean environment


def documented() -> set[tuple[str, ...]]:
    """Every `docker compose …` of the documents and of what `make stack` prints: its words up to the subcommand."""
    paths = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "dashboards/runbooks").glob("*.md")]
    texts = [*(path.read_text() for path in paths), *stack.ADDRESSES.values()]
    found = (re.findall(r"docker compose((?: -f \S+)?) ([a-z]+)", text) for text in texts)
    return {(*options.split(), command) for matches in found for options, command in matches}


def test_commands_are_documented_for_both_stacks() -> None:
    assert {("down",), ("logs",), ("ps",), ("-f", stack.SMALL, "down"), ("-f", stack.SCALE, "kill")} <= documented()


@pytest.mark.parametrize("words", sorted(documented()), ids=" ".join)
def test_a_documented_command_needs_nothing_but_an_engine(words: tuple[str, ...]) -> None:
    *options, command = words
    checked = compose(*options, "config", "-q")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    if command != "config":
        asked = compose(*options, command)
        assert asked.returncode != 0
        assert "/nowhere/docker.sock" in asked.stderr, asked.stderr


def test_one_service_builds_and_nobody_asks_a_registry_for_what_it_builds(
    services: dict[str, dict[str, Any]], small: dict[str, dict[str, Any]]
) -> None:
    for loaded in (services, small):
        assert [name for name, service in loaded.items() if "build" in service] == ["backend"]
        for name, service in loaded.items():
            if service["image"] == MADE_HERE and name != "backend":
                assert service["pull_policy"] == "never", name
                assert "backend" in service["depends_on"], name


def test_the_backend_does_not_wait_for_its_telemetry(
    services: dict[str, dict[str, Any]], small: dict[str, dict[str, Any]]
) -> None:
    for loaded in (services, small):
        assert not loaded["backend"].get("depends_on")


def test_secrets_come_as_files_that_make_stack_makes(
    services: dict[str, dict[str, Any]], small: dict[str, dict[str, Any]], keys: Path
) -> None:
    for file, loaded in ((stack.FULL, services), (stack.SMALL, small)):
        named = yaml.safe_load((ROOT / file).read_text())["secrets"]
        made = {name: (keys / Path(secret["file"]).name).read_text() for name, secret in named.items()}
        assert {Path(secret["file"]).parent for secret in named.values()} == {stack.KEYS.relative_to(ROOT)}
        environment = loaded["backend"]["environment"]
        assert not [name for name in environment if "KEY" in name and not name.endswith("_FILE")]
        taken = {name: str(path).rpartition("/")[2] for name, path in environment.items() if name.endswith("_FILE")}
        assert set(taken.values()) == {secret["source"] for secret in loaded["backend"]["secrets"]}
        assert all(len(made[secret]) >= 16 for secret in taken.values())


async def test_the_backend_starts_with_the_files_and_takes_the_stacks_token(
    keys: Path, tmp_path: Path, services: dict[str, dict[str, Any]]
) -> None:
    """With compose's own settings, the files where they are here, and the addresses of a test."""
    named = yaml.safe_load((ROOT / stack.FULL).read_text())["secrets"]
    here = {f"/run/secrets/{name}": str(keys / Path(secret["file"]).name) for name, secret in named.items()}
    given = services["backend"]["environment"]
    settings = {
        name.removeprefix("ROUNDTRIP_").lower(): here.get(value, value)
        for name, value in given.items()
        if name.startswith("ROUNDTRIP_")
    }
    async with running(tmp_path, ready=False, **settings) as program, aiohttp.ClientSession() as session:
        await eventually(lambda: program.url, within=20)
        headers = {"Authorization": f"Bearer {stack.token('ada', keys)}"}
        async with session.get(f"{program.url}/api/bots/bot/link", headers=headers) as response:
            assert (response.status, (await response.json())["userId"]) == (200, "ada")
        headers = {"Authorization": f"Bearer {(keys / 'admin_key').read_text()}"}
        async with session.get(f"{program.admin_url}/metrics", headers=headers) as response:
            assert response.status == 200


def test_under_any_umask_containers_can_read_what_they_mount(tmp_path: Path) -> None:
    """A checkout and secrets that were made under umask 077."""
    files = [stack.FULL, stack.SMALL, stack.SCALE, "otel-collector.yaml", "dashboards", "deploy"]
    for name in files:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, tmp_path / name)
    for path in (tmp_path / "dashboards").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    (tmp_path / "otel-collector.yaml").chmod(0o600)
    before = os.umask(0o077)
    try:
        stack.make_secrets(tmp_path / "keys")
        stack.open_mounted(tmp_path / stack.FULL)
        stack.open_mounted(tmp_path / stack.SMALL)
        stack.open_mounted(tmp_path / stack.SCALE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    for file in (stack.FULL, stack.SMALL, stack.SCALE):
        for service in stack.read(tmp_path / file)["services"].values():
            for volume in service.get("volumes", []):
                if volume.startswith("./"):
                    mounted = tmp_path / volume.split(":")[0]
                    for path in (mounted, *mounted.rglob("*")):
                        mode = 0o555 if path.is_dir() else 0o444
                        assert path.stat().st_mode & mode == mode, path
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "chmod -R a+rX ." in dockerfile[: dockerfile.index("USER 10001")]


PINNED = r":v?\d+\.\d+(\.\d+)?[a-z-]*@sha256:[0-9a-f]{64}"


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
                own = services[other]["image"] == MADE_HERE  # its Dockerfile says how it is asked
                assert own or "test" in services[other]["healthcheck"], f"{name} waits for {other}"
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
    assert {name.removesuffix("_FILE") for name in given} <= setting_names()


def test_keys_are_made_once(tmp_path: Path) -> None:
    def made() -> dict[str, str]:
        stack.make_secrets(tmp_path)
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    assert made() == made()


# the small stack


def test_the_small_stack_is_one_container_with_the_full_ones_provisioning(
    services: dict[str, dict[str, Any]], small: dict[str, dict[str, Any]]
) -> None:
    assert set(small) == {"backend", "tour", "lgtm"}
    assert re.fullmatch(f"grafana/otel-lgtm{PINNED}", small["lgtm"]["image"])
    mounted = {Path(volume["source"]) for volume in small["lgtm"]["volumes"] if volume["type"] == "bind"}
    boards = {
        Path(volume["source"])
        for volume in services["grafana"]["volumes"]
        if volume["type"] == "bind" and volume["source"].endswith(".json")
    }
    rules = {ROOT / "dashboards/prometheus" / name for name in ("recording.yaml", "alerts.yaml")}
    assert boards | rules | {ROOT / "otel-collector.yaml", ROOT / "dashboards/grafana/runbooks"} <= mounted
    for service in small.values():
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}
        assert all(volume["read_only"] for volume in service["volumes"] if volume["type"] == "bind")
        assert int(service["mem_limit"]) > 0


def test_both_prometheus_scrape_the_same_jobs_by_the_same_rules(tmp_path: Path) -> None:
    full = yaml.safe_load((ROOT / "dashboards/prometheus/prometheus.yml").read_text())
    small = yaml.safe_load((ROOT / "dashboards/small/prometheus.yaml").read_text())
    assert small["global"] == full["global"]
    assert small["storage"] == full["storage"]
    assert [Path(path).name for path in small["rule_files"]] == full["rule_files"]
    jobs = {job["job_name"] for job in full["scrape_configs"]}
    assert {job["job_name"] for job in small["scrape_configs"]} == jobs & {"roundtrip", "otel-collector", "prometheus"}
    promtool = require("promtool", "apt-get install prometheus")
    subprocess.run(
        [promtool, "check", "config", "--syntax-only", "dashboards/small/prometheus.yaml"], cwd=ROOT, check=True
    )


def test_nobody_uses_the_stack_unless_asked(services: dict[str, dict[str, Any]]) -> None:
    assert services["tour"]["scale"] == 0
    for file in (stack.FULL, stack.SMALL):
        asked = understood(file, TOUR="1", TOUR_FAULT_EVERY="180")["tour"]
        assert asked["scale"] == 1
        assert asked["command"][-1] == "--fault-every=180"
        options = [*asked["command"][:2], "--people=1"]
        assert tour.parse(options).people == 1, "the command is one that it takes"


# three nodes


NODES = ("node-1", "node-2", "node-3")


def test_three_nodes_share_one_store_behind_one_proxy(
    services: dict[str, dict[str, Any]], scale: dict[str, dict[str, Any]]
) -> None:
    """And everything that observes is as in the full stack."""
    assert set(scale) == (set(services) - {"backend"}) | {*NODES, "proxy", "postgres"}
    for name in set(services) - {"backend", "tour", "alert-sink", "prometheus"}:
        assert scale[name] == services[name], name
    assert [name for name, service in scale.items() if service.get("build")] == ["node-1"]
    for name in NODES:
        given, alone = scale[name]["environment"], services["backend"]["environment"]
        assert given["ROUNDTRIP_NODE_ID"] == name
        assert {key: given[key] for key in alone} == alone
        assert {key.removesuffix("_FILE") for key in given if key.startswith("ROUNDTRIP_")} <= setting_names()
        assert scale[name]["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert [volume["source"] for volume in scale[name]["volumes"]] == [name], "no two write the same files"
    published = {
        name: {int(port["published"]) for port in one["ports"]} for name, one in scale.items() if "ports" in one
    }
    assert published == {"proxy": {8080}, "node-1": {9464}, "node-2": {9465}, "node-3": {9466}} | {
        name: ports for name, ports in OPENED.items() if name != "backend"
    }
    assert {port["host_ip"] for one in scale.values() for port in one.get("ports", [])} == {"127.0.0.1"}


def test_what_the_three_nodes_mount_is_there_and_their_images_are_pinned(scale: dict[str, dict[str, Any]]) -> None:
    test_every_mounted_file_exists(scale)
    test_everything_is_confined(scale)
    test_every_image_is_pinned_by_digest_and_has_a_tag_for_people(scale)
    test_everything_that_is_waited_for_can_say_that_it_is_healthy(scale)


def test_the_secrets_of_three_nodes_are_made_too(scale: dict[str, dict[str, Any]], keys: Path) -> None:
    named = stack.read(ROOT / stack.SCALE)["secrets"]
    made = {name: (keys / Path(secret["file"]).name).read_text() for name, secret in named.items()}
    assert made["store"] == f"postgresql://roundtrip:{made['postgres_password']}@postgres/roundtrip"
    for service in scale.values():
        assert {secret["source"] for secret in service.get("secrets", [])} <= set(made)
        assert made["postgres_password"] not in json.dumps(service)
    taken = {value for name, value in scale["node-1"]["environment"].items() if name.endswith("_FILE")}
    assert taken == {f"/run/secrets/{secret['source']}" for secret in scale["node-1"]["secrets"]}


def test_its_prometheus_differs_by_the_nodes_only() -> None:
    full = yaml.safe_load((ROOT / "dashboards/prometheus/prometheus.yml").read_text())
    three = yaml.safe_load((ROOT / "dashboards/scale/prometheus.yml").read_text())
    [nodes] = three["scrape_configs"][0]["static_configs"]
    assert nodes["targets"] == [f"{name}:9464" for name in NODES]
    three["scrape_configs"][0]["static_configs"] = full["scrape_configs"][0]["static_configs"]
    assert three == full


def test_the_proxys_configuration_loads_with_what_compose_gives_it(scale: dict[str, dict[str, Any]]) -> None:
    haproxy = require("haproxy", "apt-get install haproxy")
    proxy = scale["proxy"]
    [mounted] = proxy["volumes"]
    assert proxy["command"][-1] == mounted["target"]
    done = subprocess.run(
        [haproxy, "-c", "-f", mounted["source"]],
        env=CLEAN | proxy["environment"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# make stack


@pytest.mark.parametrize(
    ("arguments", "file"), [([], stack.FULL), (["--small"], stack.SMALL), (["--scale"], stack.SCALE)]
)
def test_make_stack_starts_compose_waits_and_says_where_to_look(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    file: str,
) -> None:
    fake = tmp_path / "docker"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(stack, "KEYS", tmp_path / "keys")
    assert stack.main(arguments) == 0
    words = (tmp_path / "called").read_text().split()
    assert words[0] == "compose"
    assert ("--file" in words) == (file != stack.FULL)
    assert words[words.index("up") :][:4] == ["up", "--detach", "--build", "--wait"]
    said = capsys.readouterr().out
    published = [port for service in understood(file).values() for port in service.get("ports", [])]
    assert len(published) >= 4
    for port in published:
        assert f"127.0.0.1:{port['published']}" in said
    claims = jwt.decode(said.split()[-1], options={"verify_signature": False})
    assert (claims["sub"], claims["iss"]) == ("ada", stack.ISSUER)


def test_without_docker_make_stack_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stack.main([]) == 127
    assert "docker is missing" in capsys.readouterr().err


def test_dockerfile_is_small_and_unprivileged_and_needs_nothing_made_on_the_host() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(stages) == 3
    assert all(re.fullmatch(f"(node|python){PINNED}", stage) for stage in stages)
    assert len({stage for stage in stages if stage.startswith("python")}) == 1
    assert stages[-1].startswith("python")
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    own = [line.split() for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = {word for line in own for word in line[1:-1]}
    tracked = subprocess.run(
        ["git", "ls-files", "--", *copied], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {path.split("/")[0] for path in tracked} == copied, "what it copies is in the repository"
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line}
    assert copied == allowed
