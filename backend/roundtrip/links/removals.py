"""Devices that are still to be removed from their accounts: a user logged out, and WhatsApp could not be reached.

The keys are kept for as long as it is tried. A new link of the same bot does not wait for it: it has keys of its own.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Driver, Report, Session, SessionSpec
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.identity import BotKey
from roundtrip.links.policy import Bans
from roundtrip.links.record import DeviceState, Removal
from roundtrip.links.session import StartSlots
from roundtrip.links.storage import LinkStorage, StoreError

log = structlog.get_logger(__name__)

RESULT_WAIT: Final = 3.0
"""Seconds that a logout waits for the device to be removed."""

ANSWER_LIMIT: Final = 60.0
"""Seconds that a session started for this may take to log in."""

_END_LIMIT: Final = 15.0
"""Seconds that a session may take to log out or stop."""
_RETRIES: Final = Backoff(5.0, 300.0)


class LoginFailure(enum.Enum):
    """Why there is no session to log out with."""

    ALREADY_REMOVED = enum.auto()
    """The user removed the device on the phone."""
    KEYS_UNKNOWN = enum.auto()
    """WhatsApp asks to scan: with these keys nothing can be removed."""
    UNREACHABLE = enum.auto()
    """To be tried again."""


class Removals:
    """One task for each. `on_result` is called for what did not end within `RESULT_WAIT`: the removal, and whether the
    device was removed.
    """

    def __init__(self, driver: Driver, store: LinkStorage, clock: TimerClock, slots: StartSlots, bans: Bans) -> None:
        self._driver = driver
        self._store = store
        self._clock = clock
        self._slots = slots
        self._bans = bans
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._pending: dict[str, Removal] = {}
        self.on_result: Callable[[Removal, bool], None] = lambda _removal, _removed: None

    def pending(self, link_id: str) -> bool:
        """Whether a link's keys are still needed for this."""
        return link_id in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def load(self, removals: Iterable[Removal]) -> None:
        """Take what an earlier run of the program left; `resume` goes on with it."""
        self._pending.update({removal.link_id: removal for removal in removals})

    def resume(self) -> None:
        """Go on with everything that was loaded."""
        for removal in list(self._pending.values()):
            if removal.link_id not in self._tasks:
                self._begin(removal, None)
                self._tasks[removal.link_id].add_done_callback(partial(self._ended, removal))

    def of(self, key: BotKey) -> set[str]:
        """Links of a key whose devices are still to be removed."""
        return {link_id for link_id, removal in self._pending.items() if removal.key == key}

    async def forget(self, key: BotKey) -> None:
        """Leave what concerns a key to whoever has its link now."""
        mine = self.of(key)
        tasks = [task for link_id in mine if (task := self._tasks.get(link_id)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for link_id in mine:
            self._pending.pop(link_id, None)

    async def add(self, removal: Removal) -> None:
        """Commit it. Raises `StoreError`, and then nothing was done."""
        await self._store.save_removal(removal)
        self._pending[removal.link_id] = removal

    async def begin(self, removal: Removal, session: Session | None, *, online: bool) -> DeviceState:
        """Remove the device with a running session, or with one to be started: `REMOVING` while that takes longer.

        Only a session that is `online` is waited for.
        """
        done = asyncio.Event()
        self._begin(removal, session, done.set)
        task = self._tasks[removal.link_id]
        if online and session is not None:
            task.add_done_callback(lambda _: done.set())
            handle = self._clock.call_later(RESULT_WAIT, done.set)
            await done.wait()
            handle.cancel()
            if task.done() and not task.cancelled() and task.exception() is None:
                return DeviceState.REMOVED if task.result() else DeviceState.KEPT
        task.add_done_callback(partial(self._ended, removal))
        return DeviceState.REMOVING

    async def close(self) -> None:
        """Stop trying; the next run of the program goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, removal: Removal, session: Session | None, on_failure: Callable[[], None] = lambda: None) -> None:
        self._pending[removal.link_id] = removal
        if removal.link_id in self._tasks:
            return
        task = asyncio.create_task(self._remove(removal, session, on_failure), name="device-removal")
        self._tasks[removal.link_id] = task

    def _ended(self, removal: Removal, task: asyncio.Task[bool]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("device_removal_died", link_id=removal.link_id, error=type(error).__name__)
            return
        self.on_result(removal, task.result())

    async def _remove(self, removal: Removal, session: Session | None, on_failure: Callable[[], None]) -> bool:
        try:
            removed = await self._retry(removal, session, on_failure)
            log.info("device_removal_ended", link_id=removal.link_id, removed=removed)
            try:
                await self._store.delete_keys(removal.link_id)
                await self._store.delete_removal(removal.link_id)
            except StoreError:
                log.warning("device_removal_left", link_id=removal.link_id)  # the next run of the program ends it
            self._pending.pop(removal.link_id, None)
            return removed
        finally:
            self._tasks.pop(removal.link_id, None)

    async def _retry(self, removal: Removal, session: Session | None, on_failure: Callable[[], None]) -> bool:
        """Try until it is decided; return whether the device was removed. `on_failure` is called at each failure."""
        end = self._clock.monotonic() + removal.remaining(self._clock.now())
        attempt = 0
        while True:
            if session is not None and await self._log_out(removal, session):
                return True
            on_failure()
            banned = self._bans.left(removal.phone_number)
            rest = end - self._clock.monotonic()
            if rest <= 0.001 or await self._condition(removal) is KeyFileState.MISSING:
                return False
            await self._clock.sleep(max(banned, min(_RETRIES.delay(attempt + 1), rest)))
            attempt += 1
            match await self._log_in(removal):
                case LoginFailure.ALREADY_REMOVED:
                    return True
                case LoginFailure.KEYS_UNKNOWN:
                    return False
                case LoginFailure.UNREACHABLE:
                    session = None
                case opened:
                    session = opened

    async def _condition(self, removal: Removal) -> KeyFileState:
        try:
            return await self._store.key_state(removal.link_id)
        except StoreError:
            return KeyFileState.GOOD

    async def _log_in(self, removal: Removal) -> Session | LoginFailure:
        """Start a session; returns it once it is online."""
        reports: asyncio.Queue[Report | None] = asyncio.Queue()
        spec = SessionSpec(removal.link_id, self._store.key_file(removal.link_id), None)
        async with self._slots.slot(removal.key.user_id):
            try:
                session = await self._driver.start(spec, reports.put_nowait)
            except Exception as error:  # noqa: BLE001  whatever the driver raises, it is tried again
                log.warning("device_removal_not_started", link_id=removal.link_id, error=type(error).__name__)
                return LoginFailure.UNREACHABLE
            handle = self._clock.call_later(ANSWER_LIMIT, lambda: reports.put_nowait(None))
            try:
                while True:
                    report = await reports.get()
                    match report:
                        case d.Online():
                            return session
                        case d.KeepAliveLost() | d.KeepAliveRestored() | d.StreamFailed() | d.Offline():
                            continue
                        case d.TemporaryBan(code=code, expires_in=expires_in):
                            log.info("device_removal_banned", link_id=removal.link_id, code=code, seconds=expires_in)
                    break
            except asyncio.CancelledError:
                await self._stop(session)
                raise
            finally:
                handle.cancel()
        await self._stop(session)
        if isinstance(report, d.LoggedOutByPhone):
            return LoginFailure.ALREADY_REMOVED
        if isinstance(report, (d.QrShown, d.PairingCodeShown)):
            return LoginFailure.KEYS_UNKNOWN
        return LoginFailure.UNREACHABLE

    async def _log_out(self, removal: Removal, session: Session) -> bool:
        try:
            async with asyncio.timeout(_END_LIMIT):
                await session.logout()
        except asyncio.CancelledError:
            await self._stop(session)
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, the device may still be listed
            log.warning("device_not_removed", link_id=removal.link_id, error=type(error).__name__)
            await self._stop(session)
            return False
        return True

    async def _stop(self, session: Session) -> None:
        try:
            async with asyncio.timeout(_END_LIMIT):
                await session.stop()
        except Exception as error:  # noqa: BLE001  it is over either way
            log.warning("session_end_failed", error=type(error).__name__)
