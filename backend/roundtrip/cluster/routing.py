"""Leads events to the nodes that have sockets of their key: implements `delivery.wire.Elsewhere`.

After a commit one statement looks up where the sockets of its keys are, leaves word there of which keys these are, and
then each of those nodes is signalled to, once for all. Nothing of this is done while no other node is alive. A signal
may be lost; a look at the store every few seconds finds what it would have told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog

from roundtrip.cluster.presence import FAILURES, Presence
from roundtrip.cluster.signals import Signals
from roundtrip.delivery.arrivals import Arrivals
from roundtrip.delivery.wire import NOWHERE, Ending, Whereabouts
from roundtrip.identity import BotKey
from roundtrip.outbox.postgres.database import Pool, reason
from roundtrip.outbox.records import Outcome

log = structlog.get_logger(__name__)

TOPIC: Final = "events"
"""Of the signals."""

KEYS: Final = 1_000
"""Keys that one statement looks up."""

POLL: Final = 3.0
"""Seconds between two looks for what no signal told."""

ON_THE_WAY: Final = 0.25
"""Seconds that a signal may take. What is told by none within them was not told."""

AFTERWARDS: Final = 60.0
"""Seconds for which this node looks on after the last other one has gone: it may have left something untold."""

DAY: Final = 86_400.0
"""Seconds for which it counts that a key had a socket."""

OLD: Final = 5.0
"""Seconds after which the store is asked whether an event in flight has ended elsewhere."""

REMEMBERED: Final = 50_000
"""Keys of which is remembered whether another node has sockets."""

_ROUTE: Final = "SELECT * FROM route_1($1, $2, $3, $4)"
_TAKE: Final = "SELECT user_id, bot_id, last_seq, shared FROM take_announcements_1($1)"
_ALIVE: Final = "SELECT others_1($1)"
_DEPARTURES: Final = "SELECT EXISTS (SELECT FROM departures)::integer"
_BEHIND: Final = (
    "SELECT k.user_id, k.bot_id, k.last_seq FROM unnest($1::text[], $2::text[], $3::bigint[]) AS r (u, b, s) "
    "JOIN keys k ON k.user_id = r.u AND k.bot_id = r.b WHERE k.last_seq > r.s"
)

Told = Callable[[Whereabouts], None]
Endings = Callable[[list[tuple[BotKey, int]]], Awaitable[list[tuple[Outcome, str | None] | None]]]


class Router:
    """One node's. `attach` what receives, then run `announce_all`, `answer_all` and `receive_all` as tasks."""

    def __init__(self, pool: Pool, signals: Signals, presence: Presence, endings: Endings, wall_ms: Callable[[], int]):
        """`endings` is the outbox's."""
        self._pool = pool
        self._signals = signals
        self._presence = presence
        self._endings = endings
        self._wall_ms = wall_ms
        self.node = signals.node_id
        self._others = False
        self._others_until = 0.0
        self._remembers_until = 0.0
        self._announced: dict[BotKey, tuple[bool, list[Told]]] = {}
        self._asked: dict[tuple[BotKey, int], list[Callable[[Ending | None], None]]] = {}
        self._seen: dict[BotKey, bool] = {}
        self._to_announce, self._to_ask, self._to_look = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._arrivals: Arrivals | None = None
        self.on_polled: Callable[[int], None] = lambda _keys: None
        """Called with the number of keys that were behind although no signal told so."""
        self.on_announced: Callable[[int], None] = lambda _count: None
        """Called with the number of announcements of one statement: keys, for each node that has sockets of them."""
        signals.on(TOPIC, self._to_look.set)
        presence.on_written = self._written

    def attach(self, arrivals: Arrivals) -> None:
        """What finds out what is pending for a key, and emits it."""
        self._arrivals = arrivals

    # Elsewhere

    @property
    def others(self) -> bool:
        """As `Elsewhere.others`."""
        return self._others

    @property
    def remembers(self) -> bool:
        """As `Elsewhere.remembers`."""
        return self._others or asyncio.get_running_loop().time() < self._remembers_until

    def committed(self, others: bool) -> None:
        """This node committed something; whether another one was alive then."""
        if others is not self._others:
            self._others = others
            self._remembers_until = asyncio.get_running_loop().time() + DAY
            if not others:
                self._seen.clear()
            self._to_look.set()

    def announce(self, key: BotKey, here: bool, told: Told) -> None:
        """As `Elsewhere.announce`."""
        entry = self._announced.get(key)
        if entry is None:
            self._announced[key] = here, [told]
            self._to_announce.set()
        else:
            self._announced[key] = here, entry[1]
            entry[1].append(told)

    def ask(self, key: BotKey, seq: int, told: Callable[[Ending | None], None]) -> None:
        """As `Elsewhere.ask`."""
        self._asked.setdefault((key, seq), []).append(told)
        self._to_ask.set()

    def seen(self, key: BotKey) -> bool:
        """As `Elsewhere.seen`."""
        return self._others and self._seen.get(key, True)

    # what this node has to tell and to ask

    async def announce_all(self) -> None:
        """For ever: look up where the sockets of announced keys are, and signal to those nodes."""
        while True:
            await self._to_announce.wait()
            self._to_announce.clear()
            while self._announced:
                keys = list(self._announced)[:KEYS]
                entries = [(key, *self._announced.pop(key)) for key in keys]
                try:
                    found = await self._route(keys, [here for _, here, _ in entries])
                except FAILURES as error:
                    log.warning("events_not_announced", error=reason(error), keys=len(keys))
                    found = [NOWHERE] * len(keys)
                for (_, _, tolds), whereabouts in zip(entries, found, strict=True):
                    for told in tolds:
                        _call(told, whereabouts)

    async def _route(self, keys: list[BotKey], here: list[bool]) -> list[Whereabouts]:
        users, bots = [key.user_id for key in keys], [key.bot_id for key in keys]
        rows = await self._fetch(_ROUTE, self.node, users, bots, here)
        found = [Whereabouts(tuple(nodes or ()), tuple(others or ()), left) for nodes, others, left in rows]
        self.on_announced(sum(len(whereabouts.nodes) for whereabouts in found))
        self._signals.send({node for whereabouts in found for node in whereabouts.nodes}, TOPIC)
        if len(self._seen) + len(keys) > REMEMBERED:
            self._seen.clear()
        self._seen.update(zip(keys, (bool(whereabouts.nodes) for whereabouts in found), strict=True))
        return found

    async def answer_all(self) -> None:
        """For ever: ask the store how events ended."""
        while True:
            await self._to_ask.wait()
            self._to_ask.clear()
            while self._asked:
                events = list(self._asked)[:KEYS]
                asking = [self._asked.pop(event) for event in events]
                try:
                    endings = await self._endings(events) or [None] * len(events)
                except FAILURES as error:
                    log.warning("endings_not_read", error=reason(error), events=len(events))
                    endings = [None] * len(events)
                for tolds, ending in zip(asking, endings, strict=True):
                    answer = None if ending is None else Ending(ending[0], ending[1] == self.node)
                    for told in tolds:
                        _call(told, answer)

    def _written(self, keys: Any, others: bool) -> None:
        """These keys have their first socket here: nodes that have some too are to know that they are not alone."""
        self.committed(others or self._others)  # only a commit tells that there are none
        if others:
            for key in keys:
                self.announce(key, True, partial(self._found, key))

    def _found(self, key: BotKey, found: Whereabouts) -> None:
        if self._arrivals is not None:
            self._arrivals.share(key, shared=bool(found.nodes))

    # what others have to tell

    async def receive_all(self) -> None:
        """For ever: look at what was announced to this node, and now and then at what was not."""
        loop = asyncio.get_running_loop()
        polled, begun = loop.time(), False
        while True:
            try:
                async with asyncio.timeout(POLL if begun else 0):
                    await self._to_look.wait()
            except TimeoutError:
                pass
            signalled = self._to_look.is_set()
            self._to_look.clear()
            try:
                if not begun:
                    ((departures,),) = await self._fetch(_DEPARTURES)
                    self._remembers_until = max(self._remembers_until, loop.time() + DAY * departures)
                    begun = True
                if signalled:
                    await self._take()
                if loop.time() - polled >= POLL:
                    polled = loop.time()
                    await self._poll()
            except FAILURES as error:
                log.warning("announcements_not_read", error=reason(error))
                await asyncio.sleep(0.5)
                self._to_look.set()

    async def _take(self) -> None:
        for user_id, bot_id, last_seq, shared in await self._fetch(_TAKE, self.node):
            if self._arrivals is not None:
                self._arrivals.look(BotKey(user_id, bot_id), last_seq, shared=shared)

    async def _poll(self) -> None:
        """What signals should have told. Nothing while this node is alone."""
        now = asyncio.get_running_loop().time()
        ((others,),) = await self._fetch(_ALIVE, self.node)
        if others:
            self._others_until = now + AFTERWARDS
        self.committed(others)
        if now > self._others_until or self._arrivals is None:
            return
        await self._take()
        accounts = self._arrivals.accounts()
        behind: list[tuple[BotKey, int]] = []
        for start in range(0, len(accounts), KEYS):
            some = accounts[start : start + KEYS]
            values = [key.user_id for key, _ in some], [key.bot_id for key, _ in some], [seq for _, seq in some]
            behind += [(BotKey(user, bot), last) for user, bot, last in await self._fetch(_BEHIND, *values)]
        if behind:
            await asyncio.sleep(ON_THE_WAY)
            untold = [(key, last_seq) for key, last_seq in behind if self._arrivals.lacks(key, last_seq)]
            for key, last_seq in untold:
                self._arrivals.look(key, last_seq)
            if untold:
                log.info("events_found_untold", keys=len(untold))
                self.on_polled(len(untold))
        for key, seq in self._arrivals.in_flight_since(self._wall_ms() - int(OLD * 1000))[:KEYS]:
            self.ask(key, seq, self._ended(key, seq))
        await self._presence.refresh()
        await self._presence.forget()

    def _ended(self, key: BotKey, seq: int) -> Callable[[Ending | None], None]:
        arrivals = self._arrivals
        return lambda ending: None if arrivals is None else arrivals.endings.ended(key, seq, ending)

    async def _fetch(self, sql: str, *values: Any) -> Any:
        async def query(connection: Any) -> Any:
            return await connection.fetch(sql, *values)

        return await self._pool.run(query)


def _call(told: Callable[[Any], None], answer: object) -> None:
    try:
        told(answer)
    except Exception as error:  # the others are to be told all the same
        log.error("elsewhere_failed", error=type(error).__name__, exc_info=error)
