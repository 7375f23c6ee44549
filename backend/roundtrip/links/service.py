"""The link service: every key's link, behind the commands and views that the rest of the backend needs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Final

import msgspec
import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import LoopClock, TimerClock
from roundtrip.drivers.base import Driver
from roundtrip.drivers.simulated import SimulateAction, SupportsSimulate
from roundtrip.identity import BotKey
from roundtrip.links import payloads, phone, startup
from roundtrip.links.context import LinkContext, Publisher
from roundtrip.links.link import Link
from roundtrip.links.machine import LIVE, Input
from roundtrip.links.metrics import LinkMetrics
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.policy import Bans
from roundtrip.links.queue import Order
from roundtrip.links.reasons import LinkError
from roundtrip.links.reconciliation import Reconciler
from roundtrip.links.record import LinkRecord, LinkState, Removal, store_name
from roundtrip.links.removals import Removals
from roundtrip.links.restoration import Restoration, RestoreProgress
from roundtrip.links.session import StartSlots
from roundtrip.links.storage import LinkStorage
from roundtrip.settings import Settings
from roundtrip.telemetry import redaction
from roundtrip.telemetry.tracing import LINK_ID, OFF, RequestTracer

log = structlog.get_logger(__name__)

_CONCURRENT_CHECKS: Final = 8


class LinkService:
    """Runs on the event loop. `open` comes before the first command, `restore` once events can be published."""

    def __init__(
        self,
        driver: Driver,
        publisher: Publisher,
        store: LinkStorage,
        settings: Settings,
        metrics: LinkMetrics,
        clock: TimerClock | None = None,
        tracer: RequestTracer = OFF,
        watched: Callable[[BotKey], bool] = lambda _key: False,
    ) -> None:
        """`watched`: whether a page of a key is open now. Those links are restored first."""
        self._clock = clock or LoopClock()
        self._context = LinkContext(
            driver,
            publisher,
            store,
            metrics,
            settings,
            self._clock,
            start_slots := StartSlots(settings.start_concurrency, settings.restore_concurrency),
            Backoff(settings.retry_first, settings.retry_cap),
            self._request_check,
            lambda key: self._notify(key, Input.SHARED),
            bans := Bans(self._clock),
            Removals(driver, store, self._clock, start_slots, bans),
            tracer=tracer,
        )
        self._context.removals.on_result = self._removal_ended
        self._starting: Counter[BotKey] = Counter()
        """Keys whose start is being decided: they count towards `max_links_per_user`."""
        self._settings = settings
        self._links: dict[BotKey, Link] = {}
        self._reconciler = Reconciler(self._clock, settings.truth_misses)
        self._tasks: set[asyncio.Task[None]] = set()
        self._restoration = Restoration(self._context, watched)
        self._closing = False

    async def open(self) -> None:
        """Read every link's record, so that snapshots are right from here on. Raises `StoreError`."""
        context = self._context
        records = await context.store.open()
        for number, ban in (await context.store.bans(self._clock.now())).items():
            context.bans.add(number, ban)
        context.removals.load(removals := await context.store.removals())
        for record in sorted(records, key=lambda one: (one.state is LinkState.CONNECTED, one.since), reverse=True):
            self._adopt(record)
        needed = {record.store_name for record in records if record.paired}
        swept = await context.store.sweep(frozenset(needed | {store_name(removal.link_id) for removal in removals}))
        log.info("links_opened", links=len(records), to_restore=self.restoring.total, swept=swept)
        self._spawn(self._reconcile_periodically(), "links-reconciliation")

    async def restore(self) -> None:
        """Restore each link that a restart interrupted, some at a time. Returns when all attempts are over."""
        await self._restoration.run()
        self._context.removals.resume()
        states = {state.value: count for state, count in self.counts().items() if count}
        log.info("restore_finished", links=self.restoring.total, states=states)

    def _adopt(self, record: LinkRecord, since: float | None = None) -> Link:
        """Have a link of the store, and restore it with the next run where it was interrupted, which was at `since`."""
        link = self._links[record.key] = Link(record.key, self._context, record, since)
        if record.paired and record.phone_number is not None:
            self._context.claim(record.phone_number, record.key)
        if link.state in LIVE or self._restoration.logout_interrupted(link):
            self._restoration.add(link)
        else:
            link.lifecycle.resume_timers()
        return link

    @property
    def restoring(self) -> RestoreProgress:
        """How far the restore is."""
        return self._restoration.progress

    async def close(self) -> None:
        """Stop every session and keep every account. No event is published any more. A second call does nothing."""
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

    async def start(self, key: BotKey, phone_number: str | None = None, traceparent: str | None = None) -> Snapshot:
        """Link an account, with a pairing code where a `phone_number` is given, else with QR codes. While the link is
        live, only the kind of code changes.

        Returns once the link and its first event are committed; the session starts in the background.
        Raises `LinkError`.
        """
        number = None if phone_number is None else phone.parse_phone_number(phone_number)
        self._check_not_closing()
        link = self._links.get(key)
        if link is None or link.state not in LIVE:
            self._check_link_limit(key)
        if link is None:
            link = self._links[key] = Link(key, self._context)
        self._starting[key] += 1
        try:
            with self._context.tracer.span("link start", traceparent) as step:
                await link.order(Order.START, number, step.traceparent)
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

    def begins_pairing(self, key: BotKey, phone_number: str | None) -> bool:
        """Whether `start` would begin a pairing, or change the one under way: what is rate limited."""
        return (link := self._links.get(key)) is None or startup.begins_pairing(link.lifecycle, phone_number)

    def __contains__(self, key: BotKey) -> bool:
        """Whether a key was ever linked here."""
        return key in self._links

    def snapshot(self, key: BotKey) -> Snapshot:
        """A key's present state, from memory. `seq` is 0 until the caller fills it in."""
        if (link := self._links.get(key)) is not None:
            return link.snapshot()
        return payloads.snapshot(key, None, None, self._clock.now(), self._clock.monotonic(), shared=False)

    async def snapshot_at(self, key: BotKey, seq: int) -> Snapshot:
        """The same, with a `seq`: that of the key's newest event when it was asked, or of a newer one."""
        return msgspec.structs.replace(self.snapshot(key), seq=seq)

    async def logout(self, key: BotKey) -> Snapshot:
        """Log out, or end the pairing. Works in every state, also without a session. Raises `LinkError`."""
        self._check_not_closing()
        if (link := self._links.get(key)) is not None:
            await link.order(Order.LOGOUT)
        return self.snapshot(key)

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot:
        """Have the simulated phone do something; returns once the link has handled it. Raises `LinkError`."""
        driver = self._context.driver
        if not isinstance(driver, SupportsSimulate):
            raise LinkError("not_simulated", "Only the simulated driver has a simulated phone.")
        self._check_not_closing()
        link = self._links.get(key)
        if link is None or link.record is None or link.state not in LIVE:
            raise LinkError("link_not_found", "This bot has no running link; start one first.")
        if not await driver.simulate(link.record.link_id, action):
            raise LinkError("action_impossible", f"The action {action.value!r} is not possible in this state.")
        if not link.stalled:
            await link.inbox.join()
        return link.snapshot()

    def links(self) -> list[LinkView]:
        """Every link for the operator; phone numbers are masked."""
        return [view for link in self._links.values() if (view := link.view()) is not None]

    async def of_user(self, user_id: str) -> list[LinkView]:
        """A user's links, for the operator."""
        return [view for view in self.links() if view.user_id == user_id]

    def counts(self) -> Mapping[LinkState, int]:
        """Number of links per state."""
        return Counter(link.state for link in self._links.values() if link.record is not None)

    @property
    def crashing(self) -> int:
        """Number of links whose worker crashed more than `restart_limit` times within `restart_window`."""
        return sum(link.lifecycle.policy.crash_looping(self._clock.monotonic()) for link in self._links.values())

    @property
    def flapping(self) -> int:
        """Number of links whose connection comes and goes more often than `flap_limit` allows."""
        return sum(link.flapping for link in self._links.values())

    async def reconcile(self) -> None:
        """Compare every link with its driver's session, a few at a time."""
        limit = asyncio.Semaphore(_CONCURRENT_CHECKS)

        async def check(link: Link) -> None:
            async with limit:
                await self._reconciler.check(link)

        await asyncio.gather(*(check(link) for link in list(self._links.values())))

    async def _reconcile_periodically(self) -> None:
        while True:
            await self._clock.sleep(self._settings.truth_interval)
            await self.reconcile()

    def _request_check(self, key: BotKey) -> None:
        if (link := self._links.get(key)) is not None and not self._closing:
            self._spawn(self._reconciler.check(link), "link-check")

    def _check_link_limit(self, key: BotKey) -> None:
        live = sum(
            1
            for other, link in self._links.items()
            if other.user_id == key.user_id and other != key and (link.state in LIVE or other in self._starting)
        )
        if live >= self._settings.max_links_per_user:
            raise LinkError("too_many_links", "This user has the maximum number of links; log one out first.")

    def _notify(self, key: BotKey, cause: Input) -> None:
        if (link := self._links.get(key)) is not None and not self._closing:
            link.notify(cause)

    def _removal_ended(self, removal: Removal, removed: bool) -> None:
        if (link := self._links.get(removal.key)) is not None and not self._closing:
            link.notify(Input.DEVICE_REMOVED if removed else Input.DEVICE_KEPT, removal.link_id)

    def _check_not_closing(self) -> None:
        if self._closing:
            raise LinkError("shutting_down", "The server is shutting down.", 5)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("links_task_died", task=task.get_name(), error=redaction.message_of(error))
