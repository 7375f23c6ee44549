"""Takes Alertmanager's webhooks and prints a line for each alert: `docker compose logs -f alert-sink`."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def lines(message: dict[str, Any]) -> list[str]:
    """One line an alert of a webhook message, version 4."""
    return [
        f"{alert['status'].upper():<8} {alert['labels']['severity']:<8} {alert['labels']['alertname']}: "
        f"{alert['annotations']['description']} {alert['annotations']['runbook_url']}"
        for alert in message["alerts"]
    ]


class Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the name that http.server calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sys.stdout.write("\n".join(lines(json.loads(body))) + "\n")
        sys.stdout.flush()
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gives
        """The alerts are the log."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 9099), Sink).serve_forever()  # noqa: S104  # inside the stack's own network
