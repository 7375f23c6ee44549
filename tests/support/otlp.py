"""An OTLP receiver over HTTP that keeps what it gets."""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """`bodies` are the requests by path, decompressed, and `headers` theirs. It replies with `replies` first, each a
    status and headers, then with 200."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: deque[tuple[int, dict[str, str]]] = deque()

    @property
    def traces(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for path, body in self.bodies if path == "/v1/traces"]

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.traces
            for of in request.resource_spans
            for within in of.scope_spans
            for span in within.spans
        ]

    @property
    def logs(self) -> list[LogRecord]:
        return [
            record
            for path, body in self.bodies
            if path == "/v1/logs"
            for of in ExportLogsServiceRequest.FromString(body).resource_logs
            for within in of.scope_logs
            for record in within.log_records
        ]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            match self.headers["Content-Encoding"]:
                case "gzip":
                    body = gzip.decompress(body)
                case "deflate":
                    body = zlib.decompress(body)
            receiver.bodies.append((self.path, body))
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, headers = receiver.replies.popleft() if receiver.replies else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
