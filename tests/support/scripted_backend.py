"""The whole program with a driver whose sessions do what the bot's name says:

    python -m tests.support.scripted_backend

Settings come from the environment as ever.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
import uvloop

from roundtrip.app import Backend
from roundtrip.cli import serve
from roundtrip.drivers.base import (
    ConnectFailed,
    DeviceNotRemovedError,
    KeepAliveLost,
    Offline,
    Online,
    Outdated,
    PairSucceeded,
    QrShown,
    Report,
    SessionSpec,
    TemporaryBan,
    Unreachable,
    WorkerDied,
)
from roundtrip.environment import load
from roundtrip.identity import BotKey
from tests.support.links import write_key_file

log = structlog.get_logger(__name__)

PHONES = "+141555501"


class Scripted:
    """A session. `number` counts those of one link, from 1."""

    pid = None

    def __init__(self, bot: str, number: int, spec: SessionSpec, report: Callable[[Report], None]) -> None:
        self.bot = bot
        self.number = number
        self.spec = spec
        self.report = report
        self.lives: bool | None = True
        self.asked = 0
        self._task = asyncio.create_task(self._play())

    async def stop(self) -> None:
        log.info("scripted_stop", bot=self.bot.replace("-", " "), number=self.number, asked=self.asked)
        self._task.cancel()

    async def logout(self) -> None:
        self._task.cancel()
        if self.bot == "keeps":
            raise DeviceNotRemovedError

    async def alive(self) -> bool | None:
        self.asked += 1
        return self.lives

    async def _play(self) -> None:
        await SCRIPTS.get(self.bot.partition(".")[0], shows)(self)

    @property
    def phone_number(self) -> str:
        """A ban is a number's, so the bot that is banned has one of its own; and a removal's session has no seed."""
        own = {"banned": "01", "keeps": "03"}
        return PHONES + (own.get(self.bot) or str(int(self.spec.seed[:6], 16) % 90 + 10))

    async def connect(self) -> None:
        """Pair, in a link's first life, and get in."""
        if not self.spec.store.exists():
            write_key_file(self.spec.store)
            self.report(QrShown("2@code", 1, 6, 60.0))
            self.report(PairSucceeded(self.phone_number))
        await self.online()

    async def online(self) -> None:
        if self.lives is False and self.bot != "lies":
            self.lives = True
        self.report(Online(self.phone_number, "Ada"))

    def offline(self) -> None:
        self.lives = False
        self.report(Offline())


async def silent(_session: Scripted) -> None:
    """Says nothing."""


async def shows(session: Scripted) -> None:
    session.report(QrShown("2@code", 1, 6, 60.0))


async def pairs(session: Scripted) -> None:
    """Is let in by nobody after its scan."""
    if session.number == 1:
        await shows(session)
        write_key_file(session.spec.store)
        session.report(PairSucceeded(PHONES + "02"))


async def once(session: Scripted) -> None:
    """Is linked in its first life, and silent in each later one."""
    if not session.spec.store.exists():
        await session.connect()


async def drops(session: Scripted) -> None:
    await session.connect()
    await asyncio.sleep(0.2)
    session.offline()


async def unreachable(session: Scripted) -> None:
    session.report(Unreachable("no route"))


async def lost(session: Scripted) -> None:
    """Was linked once, and cannot be reached any more."""
    if session.number == 1:
        await session.connect()
        await asyncio.sleep(0.2)
    session.report(Unreachable("no route"))


async def dies(session: Scripted) -> None:
    session.report(WorkerDied(1))


async def dies_slowly(session: Scripted) -> None:
    await asyncio.sleep(0.8)
    session.report(WorkerDied(1))


async def lies(session: Scripted) -> None:
    session.lives = False
    await session.connect()


async def hangs(session: Scripted) -> None:
    await session.connect()
    if session.number == 1:
        session.lives = None


async def flaps(session: Scripted, pause: float = 0.02) -> None:
    await session.connect()
    for _ in range(3):
        await asyncio.sleep(pause)
        session.offline()
        await asyncio.sleep(min(pause, 0.3))
        await session.online()


async def flaps_slowly(session: Scripted) -> None:
    await flaps(session, 0.8)


async def ails(session: Scripted) -> None:
    await session.connect()
    session.report(KeepAliveLost())


async def banned(session: Scripted) -> None:
    await session.connect()
    if session.number == 1:
        session.report(TemporaryBan(0, None))


async def refused(session: Scripted) -> None:
    if session.number == 1:
        await session.connect()
    session.report(ConnectFailed("400"))


async def outdated(session: Scripted) -> None:
    await session.connect()
    if session.number == 1:
        session.report(Outdated())


async def keeps(session: Scripted) -> None:
    """Its device cannot be removed."""
    await session.connect()


SCRIPTS: Mapping[str, Callable[[Scripted], Awaitable[None]]] = {
    script.__name__.replace("_", "-"): script
    for script in (
        *(silent, shows, pairs, once, drops, unreachable, lost, dies, dies_slowly, lies, hangs),
        *(ails, banned, refused, outdated, keeps),
    )
} | {"flaps": flaps, "flaps-slowly": flaps_slowly}

BOTS = tuple(SCRIPTS) + tuple(f"{name}.{number}" for name in ("once", "stays") for number in range(6))


class ScriptedDriver:
    """Bots named `stays.N` are held up while they start; `most` says in the log how many were at once."""

    name = "scripted"

    def __init__(self) -> None:
        self._bots = {_seed("user", bot): bot for bot in BOTS}
        self._counts: dict[str, int] = {}
        self._held = 0

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> Scripted:
        bot = self._bots.get(spec.seed, "keeps")  # the removal of a device names no bot
        self._counts[spec.link_id] = self._counts.get(spec.link_id, 0) + 1
        log.info("scripted_start", bot=bot.replace("-", " "), number=self._counts[spec.link_id])
        if bot.startswith("stays"):
            self._held += 1
            log.info("scripted_held", count=self._held)
            await asyncio.sleep(0.3)
            self._held -= 1
        return Scripted(bot, self._counts[spec.link_id], spec, report)

    async def close(self) -> None:
        """Nothing is left."""


def _seed(user: str, bot: str) -> str:
    return hashlib.sha256(msgspec.json.encode(BotKey.parse(user, bot))).hexdigest()


def main() -> None:
    settings = load()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, lambda settings: Backend(settings, ScriptedDriver())))


if __name__ == "__main__":
    main()
