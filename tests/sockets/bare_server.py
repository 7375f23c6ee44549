"""A socket server without a network, for tests that call its handlers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from tests.support.sockets import Faults, Notes


def make_server(access: Any = None, notes: Notes | None = None, admit: Any = None) -> SocketServer:
    courier: Any = SimpleNamespace()
    return SocketServer(
        Registry(),
        courier,
        courier,
        admit,
        notes or Notes(),
        Faults(),
        cors_origins=(),
        max_sockets_per_key=1,
        send_queue_limit=1,
        ping_interval=1,
        ping_timeout=1,
        max_packet=1,
        door=access,
    )
