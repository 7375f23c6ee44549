"""A session before its phone has paired, inside its worker: codes to scan, a code to type, and how they end."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Any, Final, Protocol

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import CodeSequence, LibraryLog, codes_ttl

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which this clock and the library's may differ on when the last code ends."""

_LOST: Final = d.Unreachable("the connection was lost before a phone was paired")


class PairingSession(Protocol):
    """The session, as far as its pairing needs it: `session.WorkerSession`."""

    paired: bool
    write: Callable[[Any], None]

    def enqueue(self, step: Callable[..., Any], *args: Any) -> None: ...

    def report(self, report: d.Report) -> None: ...

    def registered_by_event(self) -> None: ...


class Pairing:
    """One pairing. Does nothing for a session that is paired already."""

    def __init__(self, session: PairingSession, begin: pipe.Open, client: Any, library: Any, log: LibraryLog) -> None:
        self._session = session
        self._begin = begin
        self._client = client
        self._library = library
        self._log = log
        self._codes = CodeSequence(log)
        self._request: asyncio.Task[None] | None = None

    def subscribe(self) -> None:
        """Have the library call this, before its `connect`."""
        loop = asyncio.get_running_loop()

        async def on_qr(_client: Any, data: bytes) -> None:
            self._session.enqueue(self._on_code, data.decode())

        def on_login_status(_uuid: int, status: int) -> None:
            """From a thread of the library's: what became of its QR channel."""
            loop.call_soon_threadsafe(self._session.enqueue, self._on_login_status, ctypes.string_at(status))

        self._client.qr(on_qr)
        # private, but the only source; with a version without it, this worker's own clock decides
        self._client._NewAClient__onLoginStatus = on_login_status

    def _on_code(self, code: str) -> None:
        self._session.registered_by_event()
        loop = asyncio.get_running_loop()
        index, total, ttl = self._codes.next(loop.time())
        if index == 1:
            lifetime = min(self._begin.code_life, codes_ttl(total) + CLOCK_TOLERANCE)
            loop.call_later(lifetime, self._session.enqueue, self._on_codes_used_up)
            if self._begin.phone_number is not None:
                # as a task: the reply comes from the network, and events must not wait for it
                lifetime = min(self._begin.code_life, codes_ttl(total))  # the library disconnects with the last code
                self._request = asyncio.create_task(self._request_code(self._begin.phone_number, lifetime))
        if self._begin.phone_number is None:
            self._session.report(d.QrShown(code, index, total, ttl))

    def _on_login_status(self, status: bytes) -> None:
        """The only sign of some failures before a phone has paired; no event comes."""
        if self._session.paired:
            return
        if status == b"timeout":
            # The codes ran out, or the connection broke. The log distinguishes them; without a line of it, the clock.
            now = asyncio.get_running_loop().time()
            if self._log.ran_out or self._codes.used_up(now + CLOCK_TOLERANCE):
                self._on_codes_used_up()
            else:
                self._session.report(_LOST)
        elif status == b"error":
            self._session.report(d.ConnectFailed("pair_error"))

    async def _request_code(self, phone: str, lifetime: float) -> None:
        started = asyncio.get_running_loop().time()
        try:
            code = await self._library.pair_phone(self._client, phone.removeprefix("+"))
        except Exception as error:  # noqa: BLE001 -- whatever it is, there is no code; its text may hold the number
            self._session.write(pipe.HandledError(type(error).__name__))
            self._session.enqueue(self._session.report, d.ConnectFailed("pairing_code_refused"))
            return
        spent = asyncio.get_running_loop().time() - started
        self._session.enqueue(self._session.report, d.PairingCodeShown(code, max(0.0, lifetime - spent)))

    def _on_codes_used_up(self) -> None:
        if not self._session.paired:
            self._session.report(d.CodesUsedUp())
