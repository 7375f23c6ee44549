"""The protocol between driver and worker: every message, and lines that are none."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe

EVERY_REPORT: list[pipe.WorkerReport] = [
    d.QrShown("2@a,b,c,d", 1, 6, 60.0),
    d.PairingCodeShown("ABCD-EFGH", 159.0),
    d.CodesUsedUp(),
    d.PairSucceeded("+447441395830"),
    d.Online("+447441395830", "Ada, “Countess”\n"),
    d.KeepAliveLost(),
    d.KeepAliveRestored(),
    d.Offline(),
    d.LoggedOutByPhone("401"),
    d.StreamReplaced(),
    d.TemporaryBan(101, 3600.0),
    d.TemporaryBan(0, None),
    d.Outdated(),
    d.ConnectFailed("500"),
    d.StreamFailed("503"),
    d.Unreachable("the dial failed"),
    d.Unreachable("the Noise handshake failed", d.ConnectStage.HANDSHAKE),
]


def reader(data: bytes, limit: int = pipe.LIMIT) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=limit)
    stream.feed_data(data)
    stream.feed_eof()
    return stream


@pytest.mark.parametrize(
    "message",
    [
        *(pipe.Reported(1, report) for report in EVERY_REPORT),
        pipe.AliveReply(3, None),
        pipe.AliveReply(4, True),
        pipe.Heartbeat(),
        pipe.Heartbeat(80_000_000),
        pipe.Closed(3),
        pipe.Closed(3, handed_over=True),
        pipe.HandledError("KeyError"),
        pipe.LoggedOut(3, True),
    ],
)
async def test_messages_of_a_worker_are_read_as_written(message: pipe.FromWorker) -> None:
    lines = pipe.from_worker(reader(pipe.encode(message)))
    assert await lines.next() == message
    assert await lines.next() is None


@pytest.mark.parametrize(
    "command",
    [
        pipe.Begin("/folder", "http://127.0.0.1:1"),
        pipe.Open(1, "id", "x.db", "+447441395830", code_life=20.0, hand_over=True),
        pipe.Open(2, "id", "x.db", paired=True),
        pipe.AliveQuery(1, 9),
        pipe.Close(1),
        pipe.LogOut(1),
        pipe.End(),
    ],
)
async def test_commands_of_the_driver_are_read_as_written(command: pipe.Command) -> None:
    assert await pipe.from_driver(reader(pipe.encode(command))).next() == command


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"panic: runtime error\n", "not_json"),
        (b"\x00\xff\xfe\n", "not_json"),
        (b"\n", "not_json"),
        (b'{"type": "Nonsense"}\n', "unknown"),
        (b'{"type": "Reported", "seat": 1, "report": {"type": "QrShown", "qr": 5}}\n', "unknown"),
        (b'{"type": "Reported", "seat": 1, "report": {"type": "WorkerDied", "exitStatus": 0}}\n', "unknown"),
        (b'{"type": "Offline"}\n', "unknown"),
        (b"[1, 2]\n", "unknown"),
        (b'{"type": "Offline"}', "unfinished"),
        (b"x" * 5000 + b"\n", "too_long"),
    ],
)
async def test_an_invalid_line_has_a_code_and_its_text_is_not_kept(line: bytes, code: str) -> None:
    lines = pipe.from_worker(reader(line, limit=1024))
    found = await lines.next()
    assert found == pipe.InvalidLine(code, len(line))
    assert await lines.next() is None


async def test_what_follows_garbage_is_read() -> None:
    lines = pipe.from_worker(reader(b"x" * 9000 + b"\n" + b"??\n" + pipe.encode(pipe.Closed(1)), limit=1024))
    assert isinstance(await lines.next(), pipe.InvalidLine)
    assert isinstance(await lines.next(), pipe.InvalidLine)
    assert await lines.next() == pipe.Closed(1)


@given(st.lists(st.binary(max_size=300), max_size=8), st.booleans())
async def test_no_bytes_break_the_reader(parts: list[bytes], ended: bool) -> None:
    data = b"\n".join(parts) + (b"\n" if ended else b"")
    lines = pipe.from_worker(reader(data, limit=128))
    count = 0
    while await lines.next() is not None:
        count += 1
        assert count <= data.count(b"\n") + 1


def test_the_first_line_of_a_worker() -> None:
    begin = pipe.Begin("/folder")
    assert pipe.decode_begin(pipe.encode(begin)) == begin


def test_a_report_is_written_whole_to_a_parent_that_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    write = os.write
    monkeypatch.setattr(pipe.os, "write", lambda fd, data: write(fd, bytes(data[:5])))  # type: ignore[attr-defined]
    pipe.MessageWriter(writing).write(d.QrShown("2@" + "x" * 90, 1, 6, 60.0))
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        assert lines.read() == pipe.encode(d.QrShown("2@" + "x" * 90, 1, 6, 60.0))
