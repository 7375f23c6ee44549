"""A collector built by the official builder from exactly the components that otel-collector.yaml names, and run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.ports import free_ports
from tests.support.programs import require

CONFIG: Final = Path(__file__).parents[2] / "otel-collector.yaml"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "roundtrip"

VERSION: Final = "0.161.0"
"""The release whose names the configuration uses; docker-compose.yml has the image of the same."""
STABLE: Final = "1.67.0"
"""The same release's number of the modules that are past 0."""

CORE: Final = "go.opentelemetry.io/collector"
CONTRIB: Final = "github.com/open-telemetry/opentelemetry-collector-contrib"

MODULES: Final = {
    "extensions": {"health_check": f"{CONTRIB}/extension/healthcheckextension"},
    "receivers": {"otlp": f"{CORE}/receiver/otlpreceiver"},
    "processors": {
        "memory_limiter": f"{CORE}/processor/memorylimiterprocessor",
        "redaction": f"{CONTRIB}/processor/redactionprocessor",
        "transform": f"{CONTRIB}/processor/transformprocessor",
    },
    "exporters": {"otlp_http": f"{CORE}/exporter/otlphttpexporter"},
    "connectors": {
        "span_metrics": f"{CONTRIB}/connector/spanmetricsconnector",
    },
}
"""Where the component of each name lives. A name that the configuration uses and this lacks is a test's error."""


def components() -> dict[str, list[str]]:
    """The component types that the configuration names, by kind."""
    config = yaml.safe_load(CONFIG.read_text())
    return {kind: sorted({name.split("/")[0] for name in config[kind]}) for kind in MODULES}


def manifest() -> dict[str, Any]:
    """The builder's configuration."""
    modules = {
        kind: [{"gomod": f"{MODULES[kind][name]} v{VERSION}"} for name in names] for kind, names in components().items()
    }
    providers = [{"gomod": f"{CORE}/confmap/provider/{name}provider v{STABLE}"} for name in ("env", "file", "yaml")]
    return {"dist": {"name": "otelcol", "version": VERSION}, **modules, "providers": providers}


def build() -> Path:
    """The binary, from the cache or built: two minutes of two cores the first time. Skips where Go is missing."""
    go = require("go", "https://go.dev/dl (1.25 or newer)")
    wanted = manifest()
    folder = CACHE / f"otelcol-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:16]}"
    binary = folder / "otelcol"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.is_file():
            return binary
        source = folder / "source"
        wanted["dist"]["output_path"] = str(source)
        (folder / "builder.yaml").write_text(yaml.safe_dump(wanted))
        # Go's own caches are kept: they are shared with whatever else is built here
        env = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false", "GOBIN": str(folder)}
        for command in (
            [go, "install", f"{CORE}/cmd/builder@v{VERSION}"],
            [folder / "builder", "--config", folder / "builder.yaml", "--skip-compilation"],
            [go, "build", "-C", source, "-ldflags=-s -w", "-o", folder / "unfinished", "."],
        ):
            done = subprocess.run(["nice", "-n", "15", *command], env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
        (folder / "unfinished").rename(binary)
    return binary


class Collector:
    """A running collector: where it takes OTLP and where its own metrics are."""

    def __init__(self, otlp: int, metrics: int) -> None:
        self.otlp = f"http://127.0.0.1:{otlp}"
        self.metrics_port = metrics

    def send(self, signal: str, body: bytes) -> None:
        """Export one request, as the OTLP/HTTP exporter does. `signal` is `traces` or `logs`."""
        kind = {"Content-Type": "application/x-protobuf"}
        request = urllib.request.Request(f"{self.otlp}/v1/{signal}", data=body, headers=kind)  # noqa: S310  # loopback
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  # loopback
            assert response.status == 200

    def own_metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as response:
            return str(response.read().decode())


@contextmanager
def running(backends: str, log: Path, *more: str) -> Iterator[Collector]:
    """The collector with the repository's own configuration, sending to `backends` (a URL) in place of the stack;
    `more` are configurations that are laid over it."""
    http, grpc, health, metrics = free_ports(4)
    env = os.environ | {
        "OTLP_HTTP_ADDRESS": f"127.0.0.1:{http}",
        "OTLP_GRPC_ADDRESS": f"127.0.0.1:{grpc}",
        "HEALTH_ADDRESS": f"127.0.0.1:{health}",
        "METRICS_HOST": "127.0.0.1",
        "METRICS_PORT": str(metrics),
        "TEMPO_URL": backends,
        "LOKI_URL": f"{backends}/otlp",
        "PROMETHEUS_URL": f"{backends}/api/v1/otlp",
        "SPAN_METRICS_INTERVAL": "1s",
    }
    with log.open("wb") as out:
        configs = [part for each in (str(CONFIG), *more) for part in ("--config", each)]
        process = subprocess.Popen([build(), *configs], env=env, stdout=out, stderr=out)
        try:
            _wait_until_healthy(health, process, log)
            yield Collector(http, metrics)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, "the collector is not healthy after 30 s"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)


if __name__ == "__main__":  # CI builds it beside the lint: python -m tests.stack.collector
    print(build())
