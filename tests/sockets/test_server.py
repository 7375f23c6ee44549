"""The requests of connected clients: the snapshot, and `status` during an outage."""

from __future__ import annotations

import json
from typing import Any

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.sockets.raw import connect, raw_socket
from tests.support.py_client import py_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def test_the_snapshot_comes_at_connect_and_on_request() -> None:
    async with stage() as s, py_client(s.url) as client:
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.count(1)
        await client.io.emit("status")
        await client.until(lambda: len(client.snapshots) == 2)
        assert [snapshot["seq"] for snapshot in client.snapshots] == [0, 1]


async def test_a_status_request_during_an_outage_keeps_the_socket() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as it:
        await it.until("42")
        from roundtrip.outbox.base import OutboxError

        async def down(_key: Any) -> int:
            raise OutboxError("outbox_unavailable", "down")

        real, s.outbox.last_seq = s.outbox.last_seq, down
        await it.send('421["status"]')
        assert json.loads((await it.until("431"))[3:]) == []
        s.outbox.last_seq = real
        await it.send('42["status"]')
        await it.until("42")
        assert not s.notes.disconnects
