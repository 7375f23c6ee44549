"""Devices that are still to be removed from their accounts: somebody logged out, and WhatsApp could not be asked.

The keys last as long as it is tried. A new link of the same bot does not wait for it: it has keys of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Driver, Report, Session, SessionSpec
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.links.policy import Bans
from roundtrip.links.queue import StartSlots
from roundtrip.links.record import Removal
from roundtrip.links.store import LinkStore, StoreError

log = structlog.get_logger(__name__)

PATIENCE: Final = 3.0
"""Seconds that whoever logs out waits to hear that the device is gone."""

ANSWER_LIMIT: Final = 60.0
"""Seconds that a session started for this may take to log in."""

_END_LIMIT: Final = 15.0
_TRIES: Final = Backoff(5.0, 300.0)


class Removals:
    """One task for each. `told` hears of what did not end within `PATIENCE`: the removal, and whether it succeeded."""

    def __init__(self, driver: Driver, store: LinkStore, clock: TimerClock, turns: StartSlots, bans: Bans) -> None:
        self._driver = driver
        self._store = store
        self._clock = clock
        self._turns = turns
        self._bans = bans
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._known: dict[str, Removal] = {}
        self.told: Callable[[Removal, bool], None] = lambda _removal, _removed: None

    def pending(self, link_id: str) -> bool:
        """Whether a link's keys are still needed for this."""
        return link_id in self._known

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, removals: Iterable[Removal]) -> None:
        """What an earlier life of the program left; `resume` goes on with it."""
        self._known.update({removal.link_id: removal for removal in removals})

    def resume(self) -> None:
        """Go on with everything that was remembered."""
        for removal in list(self._known.values()):
            if removal.link_id not in self._tasks:
                self._begin(removal, None)
                self._tasks[removal.link_id].add_done_callback(partial(self._ended, removal))

    async def add(self, removal: Removal) -> None:
        """Commit it. Raises `StoreError`, and then nothing was done."""
        await self._store.save_removal(removal)
        self._known[removal.link_id] = removal

    async def begin(self, removal: Removal, session: Session | None, *, online: bool) -> bool | None:
        """Remove the device with a session that runs, or with one to be started; None while that takes longer.

        Only a session that is `online` is waited for.
        """
        enough = asyncio.Event()
        self._begin(removal, session, enough.set)
        task = self._tasks[removal.link_id]
        if online and session is not None:
            task.add_done_callback(lambda _: enough.set())
            handle = self._clock.call_later(PATIENCE, enough.set)
            await enough.wait()
            handle.cancel()
            if task.done() and not task.cancelled() and task.exception() is None:
                return task.result()
        task.add_done_callback(partial(self._ended, removal))
        return None

    async def close(self) -> None:
        """Stop trying; the next life of the program goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, removal: Removal, session: Session | None, tried: Callable[[], None] = lambda: None) -> None:
        self._known[removal.link_id] = removal
        if removal.link_id in self._tasks:
            return
        task = asyncio.create_task(self._remove(removal, session, tried), name="device-removal")
        self._tasks[removal.link_id] = task

    def _ended(self, removal: Removal, task: asyncio.Task[bool]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("device_removal_died", link_id=removal.link_id, error=type(error).__name__)
            return
        self.told(removal, task.result())

    async def _remove(self, removal: Removal, session: Session | None, tried: Callable[[], None]) -> bool:
        try:
            removed = await self._try_on(removal, session, tried)
            log.info("device_removal_ended", link_id=removal.link_id, removed=removed)
            try:
                await self._store.delete_keys(removal.link_id)
                await self._store.delete_removal(removal.link_id)
            except StoreError:
                log.warning("device_removal_left", link_id=removal.link_id)  # the next life of the program ends it
            self._known.pop(removal.link_id, None)
            return removed
        finally:
            self._tasks.pop(removal.link_id, None)

    async def _try_on(self, removal: Removal, session: Session | None, tried: Callable[[], None]) -> bool:
        """Whether it was removed, in the end. `tried` is called when the first attempt failed."""
        end = self._clock.monotonic() + removal.remaining(self._clock.now())
        attempt = 0
        while True:
            if session is not None and await self._log_out(removal, session):
                return True
            tried()
            banned = self._bans.left(removal.phone_number)
            rest = end - self._clock.monotonic()
            if rest <= 0.001 or await self._condition(removal) is KeyFileState.MISSING:
                return False
            await self._clock.sleep(max(banned, min(_TRIES.delay(attempt + 1), rest)))
            attempt += 1
            gone, session = await self._log_in(removal)
            if gone is not None:
                return gone

    async def _condition(self, removal: Removal) -> KeyFileState:
        try:
            return await self._store.key_state(removal.link_id)
        except StoreError:
            return KeyFileState.GOOD

    async def _log_in(self, removal: Removal) -> tuple[bool | None, Session | None]:
        """A session that is online; or that there is nothing to remove any more (True), or no way to (False)."""
        heard: asyncio.Queue[Report | None] = asyncio.Queue()
        spec = SessionSpec(removal.link_id, self._store.key_file(removal.link_id), None)
        async with self._turns.turn(removal.key.user_id):
            try:
                session = await self._driver.start(spec, heard.put_nowait)
            except Exception as error:  # noqa: BLE001  whatever the driver meets, it is tried again
                log.warning("device_removal_not_started", link_id=removal.link_id, error=type(error).__name__)
                return None, None
            handle = self._clock.call_later(ANSWER_LIMIT, lambda: heard.put_nowait(None))
            try:
                while True:
                    report = await heard.get()
                    match report:
                        case d.Online():
                            return None, session
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
            return True, None  # the person was quicker
        return (False, None) if isinstance(report, (d.QrShown, d.PairingCodeShown)) else (None, None)

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
