"""An OTLP exporter over HTTP of what `otlp_encoding` makes: the SDK's own takes no bytes. It implements `SpanExporter`,
reads the same `OTEL_EXPORTER_OTLP_*` and retries by the specification.

Sources: https://opentelemetry.io/docs/specs/otlp/#otlphttp and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import gzip
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from importlib.metadata import entry_points
from typing import Final

import requests
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from roundtrip.backoff import Backoff
from roundtrip.telemetry.otlp_encoding import encode

log = structlog.get_logger(__name__)

MAX_REQUEST: Final = 64 << 20
"""Bytes of one request before compression: the limit of OTLP."""

_PREFIX: Final = "OTEL_EXPORTER_OTLP"
_TIMEOUT: Final = 10.0
_ATTEMPTS: Final = 6
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_BACKOFF: Final = Backoff(1.0, 32.0)
_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class PreencodedSpanExporter(SpanExporter):
    """Posts what `encode` makes of spans. Called in the batch processor's thread, one batch at a time."""

    def __init__(
        self,
        endpoint: str | None = None,
        max_request_size: int = MAX_REQUEST,
        environ: Mapping[str, str] = os.environ,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        """`endpoint` is a whole URL; without one `environ` has it, or its default is loopback's port 4318."""

        def setting(name: str) -> str:
            """A signal's own variable comes before the common one."""
            return environ.get(f"{_PREFIX}_TRACES_{name}") or environ.get(f"{_PREFIX}_{name}") or ""

        base = environ.get(f"{_PREFIX}_ENDPOINT") or "http://localhost:4318"
        self._endpoint = endpoint or environ.get(f"{_PREFIX}_TRACES_ENDPOINT") or f"{base.removesuffix('/')}/v1/traces"
        self._max_request_size = max_request_size
        self._backoff = backoff
        self._timeout = _seconds(setting("TIMEOUT"))
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "OTel-OTLP-Exporter-Roundtrip"}
        compression = setting("COMPRESSION").strip().lower()
        self._compress = _COMPRESS.get(compression)
        if self._compress is not None:
            self._headers["content-encoding"] = compression
        elif compression not in {"", "none"}:
            log.warning("otlp_compression_unknown", compression=compression, used="none")
        self._headers.update(parse_env_headers(setting("HEADERS"), liberal=True))
        self._session = _session(environ)
        self._session.verify = setting("CERTIFICATE") or True
        certificate, key = setting("CLIENT_CERTIFICATE"), setting("CLIENT_KEY")
        if certificate:
            self._session.cert = (certificate, key) if key else certificate
        self._stopping = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Post a batch, for `OTEL_EXPORTER_OTLP_TIMEOUT` seconds at most with all retries."""
        if self._stopping.is_set():
            return SpanExportResult.FAILURE
        body = encode(spans)
        if 0 < self._max_request_size < len(body):
            log.warning("span_batch_too_large", size=len(body), limit=self._max_request_size)
            return SpanExportResult.FAILURE
        problem = self._post(body if self._compress is None else self._compress(body))
        if problem is None:
            return SpanExportResult.SUCCESS
        log.error("span_batch_not_exported", spans=len(spans), reason=problem)
        return SpanExportResult.FAILURE

    def _post(self, body: bytes) -> str | None:
        """None when the collector took it, else why it did not. A first lost connection is retried at once."""
        deadline = time.monotonic() + self._timeout
        for attempt in range(_ATTEMPTS):
            delay = self._backoff.delay(attempt) if attempt else 0.0
            try:
                reply = self._session.post(
                    self._endpoint,
                    body,
                    headers=self._headers,
                    timeout=max(deadline - time.monotonic(), 0.001),
                    allow_redirects=False,
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = type(error).__name__
            except requests.RequestException as error:  # an endpoint that is no URL
                return type(error).__name__
            else:
                if reply.status_code < 400:
                    return None
                problem = f"HTTP {reply.status_code}"
                if reply.status_code not in _RETRYABLE:
                    break
                delay = _retry_after(reply.headers.get("retry-after"), self._backoff.delay(attempt + 1))
            if attempt + 1 == _ATTEMPTS or time.monotonic() + delay > deadline or self._stopping.wait(delay):
                break
        return problem

    def shutdown(self) -> None:
        """Post nothing more; a batch that waits for its next attempt is lost."""
        self._stopping.set()
        self._session.close()


def _seconds(text: str) -> float:
    try:
        return float(text or _TIMEOUT)
    except ValueError:
        log.warning("otlp_timeout_not_a_number", used=_TIMEOUT)
        return _TIMEOUT


def _retry_after(header: str | None, default: float) -> float:
    """Seconds by a `Retry-After` header: a number or an HTTP date."""
    try:
        if header is None or header.strip().isdigit():
            return default if header is None else float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return default


def _session(environ: Mapping[str, str]) -> requests.Session:
    """The session of the SDK's credential provider, an entry point, if the environment names one."""
    common, own = (f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{part}CREDENTIAL_PROVIDER" for part in ("", "TRACES_"))
    name = environ.get(common) or environ.get(own)
    if not name:
        return requests.Session()
    for provider in entry_points(group="opentelemetry_otlp_credential_provider", name=name):
        session: requests.Session = provider.load()()
        return session
    raise RuntimeError(f"no credential provider named {name!r} is installed")
