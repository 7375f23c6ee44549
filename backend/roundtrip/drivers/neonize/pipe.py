"""The protocol between the driver and a worker: tagged structs, one JSON line each, bounded in size.

A worker holds one session or many; each has a *seat*, a number that the driver gives and never uses again for the same
process. Reports are `drivers.base`'s structs, wrapped in `Reported`; the other messages are here. Both ends run the
same code, so a message of an unknown kind is a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final, Generic, TypeVar, Union

import msgspec

from roundtrip.drivers import base as d

LIMIT: Final = 64 * 1024
"""Bytes of one line, at most. The longest is a QR text, under 1 KiB."""

_PANICS: Final = (b"panic:", b"fatal error:", b"SIGSEGV", b"SIGABRT")
_CHUNK: Final = 16 * 1024


# from the driver to the worker


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first message to a worker: what all its sessions have in common.

    `folder` holds their key files. `heartbeat` is the time between two `Heartbeat`, in seconds. `device_name` is what
    the phone's list of linked devices shows.
    """

    folder: str
    proxy: str | None = None
    niceness: int = 10
    device_name: str = "Roundtrip"
    heartbeat: float = 5.0


class RunUntil(msgspec.Struct, frozen=True, tag=True):
    """Exit at this time, in seconds by `clock.steady`, which is the same for every process of the machine, if no later
    one is named before: from then on somebody else may have the accounts, and the driver may be unable to say so."""

    deadline: float


class Open(msgspec.Struct, frozen=True, tag=True):
    """Start a session in a seat. `name` is its key file's, in the worker's folder.

    `paired`: the file holds a device. `code_life` is in seconds, for all codes of the session together. `hand_over`: a
    session that pairs ends before it logs in, so that the login is another worker's.
    """

    seat: int
    session: str
    name: str
    phone_number: str | None = None
    paired: bool = False
    code_life: float = 160.0
    hand_over: bool = False


class AliveQuery(msgspec.Struct, frozen=True, tag=True):
    """Asks whether an authenticated connection stands. `number` identifies the query."""

    seat: int
    number: int


class Close(msgspec.Struct, frozen=True, tag=True):
    """End the session in a seat, keep the account's keys."""

    seat: int


class LogOut(msgspec.Struct, frozen=True, tag=True):
    """Remove the device from the account and end the session."""

    seat: int


class End(msgspec.Struct, frozen=True, tag=True):
    """End every session, keep the keys, and exit."""


Command = Begin | RunUntil | Open | AliveQuery | Close | LogOut | End


# from the worker to the driver


class AliveReply(msgspec.Struct, frozen=True, tag=True):
    """To the `AliveQuery` of the same number. `connected` is None while that is unknown."""

    number: int
    connected: bool | None


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """The worker's event loop runs. Nothing is implied about the library, which may wait for the network for minutes.
    `memory` is the process' share of memory (PSS) in bytes, None when it was not measured with this beat."""

    memory: int | None = None


class HandledError(msgspec.Struct, frozen=True, tag=True):
    """An error in the worker that did not end it. `kind` is an exception's type, never its text."""

    kind: str


class Closed(msgspec.Struct, frozen=True, tag=True):
    """The session in a seat is over, and its key file is free. `handed_over`: it has paired, and the login is left to
    another worker."""

    seat: int
    handed_over: bool = False


class LoggedOut(msgspec.Struct, frozen=True, tag=True):
    """The result of `LogOut`: whether WhatsApp confirmed that the device is removed. The session ends either way."""

    seat: int
    removed: bool


WorkerReport = Union[  # noqa: UP007 -- msgspec wants the classes, and so does a reader
    d.QrShown,
    d.PairingCodeShown,
    d.CodesUsedUp,
    d.PairSucceeded,
    d.Online,
    d.KeepAliveLost,
    d.KeepAliveRestored,
    d.Offline,
    d.LoggedOutByPhone,
    d.StreamReplaced,
    d.TemporaryBan,
    d.Outdated,
    d.ConnectFailed,
    d.StreamFailed,
    d.Unreachable,
]
"""What a session can report: all but `WorkerDied` and `SessionCrashes`, which are the driver's."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    """A report of the session in a seat."""

    seat: int
    report: WorkerReport


FromWorker = Reported | AliveReply | Heartbeat | HandledError | LoggedOut | Closed


# reading and writing

T = TypeVar("T")


class InvalidLine(msgspec.Struct, frozen=True):
    """A line that is no message. Its text is never kept: it may hold a secret.

    `code`: too_long | not_json | unknown | unfinished. `size` is in bytes.
    """

    code: str
    size: int


def encode(message: msgspec.Struct) -> bytes:
    """One line, its end included."""
    return msgspec.json.encode(message) + b"\n"


_begin_decoder = msgspec.json.Decoder(Begin)


def decode_begin(line: bytes) -> Begin:
    """The first line that a worker reads. Raises `msgspec.DecodeError`."""
    return _begin_decoder.decode(line)


class MessageReader(Generic[T]):
    """Reads messages of one kind from a stream."""

    def __init__(self, stream: asyncio.StreamReader, kind: object) -> None:
        self._stream = stream
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    async def next(self) -> T | InvalidLine | None:
        """The next message, `InvalidLine` for a line that is none, or None at the end of the stream."""
        try:
            line = await self._stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return InvalidLine("unfinished", len(end.partial)) if end.partial else None
        except asyncio.LimitOverrunError:
            return InvalidLine("too_long", await self._skip())
        except OSError:
            return None
        try:
            return self._decoder.decode(line)
        except msgspec.ValidationError:
            return InvalidLine("unknown", len(line))
        except msgspec.DecodeError:
            return InvalidLine("not_json", len(line))

    async def _skip(self) -> int:
        """Read on to the end of the line. Returns its size in bytes."""
        size = 0
        while True:
            try:
                return size + len(await self._stream.readuntil(b"\n"))
            except asyncio.LimitOverrunError as more:
                size += len(await self._stream.readexactly(max(more.consumed, 1)))
            except asyncio.IncompleteReadError as end:
                return size + len(end.partial)


def from_worker(stream: asyncio.StreamReader) -> MessageReader[FromWorker]:
    """The driver's reader."""
    return MessageReader(stream, FromWorker)


def from_driver(stream: asyncio.StreamReader) -> MessageReader[Command]:
    """The worker's reader."""
    return MessageReader(stream, Command)


class MessageWriter:
    """The worker's writer. Blocks while the driver does not read: a slow driver shall slow its worker down."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, message: Any) -> None:
        """Write one line."""
        data = memoryview(encode(message))
        while data:
            data = data[os.write(self._fd, data) :]


class OutputCounter:
    """Counts what a worker prints, and keeps none of it."""

    def __init__(self) -> None:
        self.lines = 0
        self.panicked = False
        """Whether the Go runtime printed that it ends the process."""

    async def drain(self, stream: asyncio.StreamReader) -> None:
        """Read the stream to its end."""
        tail = b""
        with contextlib.suppress(OSError):
            while chunk := await stream.read(_CHUNK):
                self.lines += chunk.count(b"\n")
                seen = tail + chunk
                self.panicked = self.panicked or any(word in seen for word in _PANICS)
                tail = chunk[-16:]
