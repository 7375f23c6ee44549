"""Takes Alertmanager's webhooks and prints a line for each alert: `docker compose logs -f alert-sink`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

WATCHDOG: Final = "RoundtripWatchdog"
SILENCE: Final = 300.0
"""Seconds without a watchdog after which the way of the alerts is broken; it comes every minute."""


def lines(message: dict[str, Any]) -> list[str]:
    """One line an alert of a webhook message, version 4. The watchdog is news only when it stops."""
    return [
        f"{alert['status'].upper():<8} {alert['labels']['severity']:<8} {alert['labels']['alertname']}: "
        f"{alert['annotations']['description']} {alert['annotations']['runbook_url']}"
        for alert in message["alerts"]
        if alert["labels"]["alertname"] != WATCHDOG
    ]


class Watch:
    """Says once when the watchdog has not come for `SILENCE`, and once when it is back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last = now()
        self._silent = False

    def came(self, message: dict[str, Any]) -> list[str]:
        """A message came; what to say."""
        if all(alert["labels"]["alertname"] != WATCHDOG for alert in message["alerts"]):
            return []
        self._last = self._now()
        was, self._silent = self._silent, False
        return [f"RESOLVED critical {WATCHDOG}: alerts arrive again."] if was else []

    def look(self) -> list[str]:
        """What to say of the time since."""
        if self._silent or self._now() - self._last < SILENCE:
            return []
        self._silent = True
        return [f"FIRING   critical {WATCHDOG}: nothing came for {SILENCE:.0f} s; Prometheus or Alertmanager is down."]


watch: Final = Watch()


def say(said: list[str]) -> None:
    if said:
        sys.stdout.write("\n".join(said) + "\n")
        sys.stdout.flush()


def watch_on() -> None:
    """Run for ever."""
    while True:
        time.sleep(SILENCE / 10)
        say(watch.look())


class Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the name that http.server calls
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        say([*watch.came(message), *lines(message)])
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gives
        """The alerts are the log."""


if __name__ == "__main__":
    threading.Thread(target=watch_on, daemon=True).start()
    ThreadingHTTPServer(("0.0.0.0", 9099), Sink).serve_forever()  # noqa: S104  # inside the stack's own network
