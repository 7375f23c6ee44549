"""A worker's session with a fake library and a stepped clock; the exit of its process is recorded, not executed."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import READERS
from roundtrip.drivers.neonize.session import WorkerSession
from tests.support.stepped_loop import SteppedLoop

PHONE = "447441395830"
SEAT = 7
LOST = d.Unreachable("the connection was lost before a phone was paired")


class FakeClient:
    """As much of neonize's client as a worker touches."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any, Any], Awaitable[None]]] = {}
        self.on_qr: Callable[[Any, bytes], Awaitable[None]]
        self.proxy: Any = None
        self.me = SimpleNamespace(PushName="Ada", BussinessName="", JID=SimpleNamespace(User=PHONE))
        self.logged_in, self.connected = True, True
        self.calls: list[str] = []
        self.hangs = False
        self.dials = False
        """Its lock is held: whoever asks whether it is connected waits."""
        self.fails = False
        self.connection: asyncio.Future[None]

    def qr(self, handler: Callable[[Any, bytes], Awaitable[None]]) -> None:
        self.on_qr = handler

    def event(self, name: str) -> Callable[[Any], None]:
        return lambda handler: self.handlers.__setitem__(name, handler)

    async def connect(self, proxy: Any) -> asyncio.Future[None]:
        self.proxy = proxy
        self.connection = asyncio.get_running_loop().create_future()
        return self.connection

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.fails:
            raise RuntimeError("447441395830")
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    async def get_me(self) -> Any:
        return self.me

    @property
    async def is_logged_in(self) -> bool:
        await self._call("is_logged_in")
        return self.logged_in

    @property
    async def is_connected(self) -> bool:
        if self.dials:
            await asyncio.get_running_loop().create_future()
        return self.connected

    async def stop(self) -> None:
        await self._call("stop")

    async def logout(self) -> None:
        await self._call("logout")


class Worker:
    """A session that runs, and what it wrote until it was over."""

    def __init__(self, loop: SteppedLoop, **begin: Any) -> None:
        self.loop = loop
        self.client = FakeClient()
        self.written: list[Any] = []
        self.log_callback: Callable[[bytes], None]
        self.pairing: bool
        self.pair_code: Any = "ABCD-EFGH"
        self.requested_for: list[str] = []
        self.pair_takes = 0.0
        library = SimpleNamespace(
            ProxySettings=lambda address: ("proxy", address),
            EVENTS={name: name for name in (*READERS, "Connected")},
            read_log=self._read_log,
            pair_phone=self._pair_phone,
            is_running=lambda _client: True,
        )
        proxy = begin.pop("proxy", None)
        begin_message = pipe.Open(SEAT, "one", "one.db", **begin)
        self.session = WorkerSession(self._write, begin_message, self.client, library, proxy)
        self.task = loop.create_task(self.session.run())
        loop.settle()
        loop.settle()

    def _write(self, message: Any) -> None:
        self.written.append(message)

    def _read_log(self, callback: Callable[[bytes], None], *, pairing: bool) -> None:
        self.log_callback, self.pairing = callback, pairing

    async def _pair_phone(self, _client: Any, digits: str) -> str:
        self.requested_for.append(digits)
        await asyncio.sleep(self.pair_takes)
        if isinstance(self.pair_code, Exception):
            raise self.pair_code
        return str(self.pair_code)

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self.task.done()

    def settle(self) -> None:
        for _ in range(3):
            self.loop.settle()

    def event(self, name: str, **fields: Any) -> None:
        """An event of the library."""
        message = SimpleNamespace(**fields)
        self.loop.run(self.client.handlers[name](None, message))  # type: ignore[arg-type]  # they are coroutines
        self.settle()

    def code(self, text: str = "2@abc") -> None:
        self.loop.run(self.client.on_qr(None, text.encode()))  # type: ignore[arg-type]
        self.settle()

    def status(self, text: bytes) -> None:
        """What became of the library's QR channel."""
        buffer = ctypes.create_string_buffer(text)
        self.client._NewAClient__onLoginStatus(0, ctypes.addressof(buffer))  # type: ignore[attr-defined]
        self.settle()

    def log(self, line: bytes) -> None:
        self.log_callback(line)
        self.settle()

    def online(self) -> None:
        self.event("Connected")

    def ask(self, *numbers: int) -> None:
        """Ask whether it is connected."""
        for number in numbers:
            self.loop.call_soon(self.session.answer_alive, number)
        self.settle()

    def log_out(self) -> None:
        self.leaving = self.loop.create_task(self.session.log_out())
        self.settle()

    def paired(self) -> None:
        self.event("PairStatus", ID=SimpleNamespace(User=PHONE), Error="", Status=2, DESCRIPTOR=_status())

    def advance(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass in small steps, as it does."""
        for _ in range(round(seconds / step)):
            self.loop.advance(step)


def _status() -> Any:
    """As much of a message's description as names its status."""
    success = SimpleNamespace(values_by_number={2: SimpleNamespace(name="SUCCESS")})
    return SimpleNamespace(fields_by_name={"Status": SimpleNamespace(enum_type=success)})


ONLINE = d.Online(f"+{PHONE}", "Ada")
Make = Callable[..., Worker]
