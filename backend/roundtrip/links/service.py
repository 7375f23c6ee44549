"""The link service: every key's link, behind the few commands that the API needs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, NamedTuple

import msgspec
import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import LoopClock, TimerClock
from roundtrip.drivers.base import Driver
from roundtrip.drivers.simulated.script import PlaysPhone, SimulateAction
from roundtrip.identity import BotKey
from roundtrip.links import payloads as faces
from roundtrip.links import phone
from roundtrip.links import startup as starting
from roundtrip.links.link import Link
from roundtrip.links.machine import LIVE, Input
from roundtrip.links.payloads import LinkView
from roundtrip.links.policy import Bans
from roundtrip.links.ports import LinkMetrics, NoMetrics, Publisher
from roundtrip.links.queue import Order
from roundtrip.links.reasons import LinkError
from roundtrip.links.reconciliation import Reconciler
from roundtrip.links.record import Removal, store_name
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.shared import LinkContext
from roundtrip.links.snapshot import LinkState, Snapshot
from roundtrip.links.store import LinkStore
from roundtrip.settings import Settings
from roundtrip.telemetry import redaction
from roundtrip.telemetry.tracing import LINK_ID, OFF, RequestTracer

log = structlog.get_logger(__name__)

RESTORE_PATIENCE: Final = 10.0
"""Seconds that one link may hold up the others that wait to be restored."""

_CHECKS_AT_ONCE: Final = 8


class RestoreProgress(NamedTuple):
    """How far the restore is."""

    total: int
    done: int
    finished: bool

    @property
    def left(self) -> int:
        """Links that had no turn yet."""
        return self.total - self.done


class LinkService:
    """Lives on the event loop. `open` before the first command, `restore` when events can be published."""

    def __init__(
        self,
        driver: Driver,
        publisher: Publisher,
        store: LinkStore,
        settings: Settings,
        meter: LinkMetrics | None = None,
        clock: TimerClock | None = None,
        tracer: RequestTracer = OFF,
    ) -> None:
        self._clock = clock or LoopClock()
        self._context = LinkContext(
            driver,
            publisher,
            store,
            meter or NoMetrics(),
            settings,
            self._clock,
            turns := StartSlots(settings.start_concurrency),
            Backoff(settings.retry_first, settings.retry_cap),
            self._check_soon,
            lambda key: self._tell(key, Input.SHARED),
            bans := Bans(self._clock),
            Removals(driver, store, self._clock, turns, bans),
            tracer=tracer,
        )
        self._context.removals.on_result = self._removal_ended
        self._starting: Counter[BotKey] = Counter()
        """Keys whose start is being decided: they count towards their user's links."""
        self._settings = settings
        self._links: dict[BotKey, Link] = {}
        self._reconciler = Reconciler(self._clock, settings.truth_misses)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[Link] = []
        self._to_restore = 0
        self._restored = 0
        self.restore_begun = False
        self.restore_finished = False
        self._closing = False

    # life

    async def open(self) -> None:
        """Read every link's record, so that snapshots tell the truth from here on. Raises `StoreError`."""
        context = self._context
        records = await context.store.open()
        for number, ban in (await context.store.bans(self._clock.now())).items():
            context.bans.add(number, ban)
        removals = await context.store.removals()
        context.removals.load(removals)
        for record in records:
            link = Link(record.key, self._context, record)
            self._links[record.key] = link
            if record.paired and record.phone_number is not None:
                self._context.claim(record.phone_number, record.key)
            if link.state in LIVE or self._half_logged_out(link):
                self._waiting.append(link)
            else:
                link.lifecycle.resume_timers()
        kept = {record.store_name for record in records if record.paired}
        swept = await context.store.sweep(frozenset(kept | {store_name(removal.link_id) for removal in removals}))
        self._to_restore = len(self._waiting)
        log.info("links_opened", links=len(records), to_restore=self._to_restore, swept=swept)
        self._spawn(self._watch(), "links-truth")

    async def restore(self) -> None:
        """Bring back, a few at a time, each link that a restart interrupted. Returns when all had their turn."""
        turns = asyncio.Semaphore(self._settings.restore_concurrency)

        async def bring_back(link: Link) -> None:
            async with turns:
                try:
                    await link.order(Order.LOGOUT if self._half_logged_out(link) else Order.RESTORE)
                    await link.leaves(LinkState.CONNECTING, RESTORE_PATIENCE)
                except Exception as error:  # noqa: BLE001  one link's trouble must not keep the others away
                    log.error("link_not_restored", link_id=link.snapshot().link_id, error=redaction.message_of(error))
                self._restored += 1
                log.info("link_restored", state=link.state, done=self._restored, of=self._to_restore)

        self.restore_begun = True
        waiting, self._waiting = self._waiting, []
        await asyncio.gather(*(bring_back(link) for link in waiting))
        self.restore_finished = True
        self._context.removals.resume()
        log.info("restore_finished", links=self._to_restore, states={s.value: n for s, n in self.counts().items() if n})

    @property
    def restoring(self) -> RestoreProgress:
        return RestoreProgress(self._to_restore, self._restored, self.restore_finished)

    def _half_logged_out(self, link: Link) -> bool:
        """Whether the program ended while somebody logged out."""
        record = link.record
        return record is not None and record.paired and self._context.removals.pending(record.link_id)

    async def close(self) -> None:
        """End every session and keep every account; no event is published any more. A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._context.removals.close()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        await self._context.driver.close()
        await self._context.store.close()

    # commands

    async def start(self, key: BotKey, phone_number: str | None = None, traceparent: str | None = None) -> Snapshot:
        """Link an account. `phone_number` asks for a pairing code; while a link lives, only another wish changes it.

        Returns once the link and its first event are committed; the session starts in the background.
        Raises `LinkError`.
        """
        wanted = None if phone_number is None else phone.parse_phone_number(phone_number)
        self._open_for_commands()
        link = self._links.get(key)
        if link is None or link.state not in LIVE:
            self._admit(key)
        if link is None:
            link = self._links[key] = Link(key, self._context)
        self._starting[key] += 1
        try:
            with self._context.tracer.span("link start", traceparent) as step:
                await link.order(Order.START, wanted, step.traceparent)
                step.set(LINK_ID, link.snapshot().link_id or "")
        except LinkError:
            if link.record is None and link.inbox.idle:
                self._links.pop(key, None)
            raise
        finally:
            self._starting[key] -= 1
            if not self._starting[key]:
                del self._starting[key]
        log.info("link_start", key=redaction.key_hash(key.user_id, key.bot_id), link_id=link.snapshot().link_id)
        return link.snapshot()

    def begins(self, key: BotKey, phone_number: str | None) -> bool:
        """Whether `start` would begin a pairing, or change the one under way: what a user may not do without end."""
        link = self._links.get(key)
        return link is None or starting.changes(link.lifecycle, phone_number)

    def snapshot(self, key: BotKey) -> Snapshot:
        """What is true now, from memory; `seq` is 0 for the caller to fill in."""
        if (link := self._links.get(key)) is not None:
            return link.snapshot()
        return faces.snapshot(key, None, None, self._clock.now(), self._clock.monotonic(), shared=False)

    async def logout(self, key: BotKey) -> Snapshot:
        """Log out, or end the pairing; works in every state, also when the session is dead. Raises `LinkError`."""
        self._open_for_commands()
        if (link := self._links.get(key)) is not None:
            await link.order(Order.LOGOUT)
        return self.snapshot(key)

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot:
        """Have the simulated phone do something. Raises `LinkError`."""
        driver = self._context.driver
        if not isinstance(driver, PlaysPhone):
            raise LinkError("not_simulated", "Only the simulated driver has a phone to play with.")
        self._open_for_commands()
        link = self._links.get(key)
        if link is None or link.record is None or link.state not in LIVE:
            raise LinkError("link_not_found", "This bot has no running link; start one first.")
        if not await driver.simulate(link.record.link_id, action):
            raise LinkError("action_impossible", f"The phone cannot do {action.value!r} now.")
        if not link.stalled:
            await link.inbox.join()
        return link.snapshot()

    # views

    def links(self) -> list[LinkView]:
        """Every link for the operator, phone numbers masked."""
        return [view for link in self._links.values() if (view := link.view()) is not None]

    def counts(self) -> Mapping[LinkState, int]:
        """Links per state."""
        return Counter(link.state for link in self._links.values() if link.record is not None)

    @property
    def crashing(self) -> int:
        """Links whose worker died more often than the limit allows, within the window."""
        now = self._clock.monotonic()
        return sum(link.lifecycle.policy.crash_looping(now) for link in self._links.values())

    @property
    def client_outdated(self) -> bool:
        """Whether WhatsApp refuses this version, so that nothing can be started."""
        return self._context.outdated

    # the truth

    async def check_truth(self) -> None:
        """Compare every link with the library's own word, a few at a time."""
        turns = asyncio.Semaphore(_CHECKS_AT_ONCE)

        async def check(link: Link) -> None:
            async with turns:
                await self._reconciler.check(link)

        await asyncio.gather(*(check(link) for link in list(self._links.values())))

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(self._settings.truth_interval)
            await self.check_truth()

    def _check_soon(self, key: BotKey) -> None:
        if (link := self._links.get(key)) is not None and not self._closing:
            self._spawn(self._reconciler.check(link), "link-check")

    # inside

    def _admit(self, key: BotKey) -> None:
        living = sum(
            1
            for other, link in self._links.items()
            if other.user_id == key.user_id and other != key and (link.state in LIVE or other in self._starting)
        )
        if living >= self._settings.max_links_per_user:
            raise LinkError("too_many_links", "This user has as many links as allowed; log one out first.")

    def _tell(self, key: BotKey, cause: Input) -> None:
        if (link := self._links.get(key)) is not None and not self._closing:
            link.notify(cause)

    def _removal_ended(self, removal: Removal, removed: bool) -> None:
        if (link := self._links.get(removal.key)) is not None and not self._closing:
            link.notify(Input.DEVICE_REMOVED if removed else Input.DEVICE_KEPT, removal.link_id)

    def _open_for_commands(self) -> None:
        if self._closing:
            raise LinkError("shutting_down", "The server is shutting down.", 5)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("links_task_died", task=task.get_name(), error=redaction.message_of(error))


def snapshots(links: LinkService) -> Callable[[BotKey, int], Snapshot]:
    """What is true for a key now, with the `seq` of its newest event."""

    def snapshot(key: BotKey, seq: int) -> Snapshot:
        return msgspec.structs.replace(links.snapshot(key), seq=seq)

    return snapshot
