"""The Socket.IO server: who connects, under which key, and what happens when they leave."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiohttp import web
from socketio.exceptions import ConnectionRefusedError as Refused

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.inflight import KeyInFlight
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.wire import Frame, packet_frame
from roundtrip.identity import BotKey, IdentityError, Principal
from roundtrip.limits.addresses import ADDRESS
from roundtrip.outbox.base import OutboxError
from roundtrip.sockets import access as handshake
from roundtrip.sockets.access import Handshake, Refusal, SocketAccess
from roundtrip.sockets.engineio import socketio as codec
from roundtrip.sockets.engineio.connection import EngineConnection, WriteResult
from roundtrip.sockets.engineio.socketio import SocketEngine, engineio_logger
from roundtrip.sockets.messages import RequestRefused
from roundtrip.sockets.peer import Peer
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

CONNECT_DEADLINE: Final = 5.0
"""Seconds that checking a token may take: a slow connect handler would leave a ghost."""

SWEEP: Final = 1.0
"""Seconds between two looks for sockets that are gone, or whose token has run out."""


TELL_EVERY: Final = 1.0
"""Seconds between two words to a client that asks too much and wants no answer."""

TOO_MUCH: Final = RequestRefused(False, "rate_limited", "You ask too often; wait a moment.")

_REQUEST: Final = re.compile(r"2([0-9]{0,15})\[")
"""A Socket.IO EVENT, and the number by which it wants to be answered."""


class SocketMetrics(Protocol):
    """What the socket server counts."""

    def connected(self, result: str) -> None:
        """A handshake ended: `accepted`, or a refusal's code."""

    def disconnected(self, reason: str, lifetime: float) -> None:
        """A mapped socket left after `lifetime` seconds."""

    def step_failed(self) -> None:
        """Something that is done again and again failed for one socket."""

    def packet_refused(self, what: str) -> None:
        """A client broke the protocol, and was closed for it."""


class Switches(Protocol):
    """The faults that the socket server plays."""

    stale_cleanup: bool
    early_disconnect: float | None
    """Milliseconds after which each new socket is closed."""


class SocketServer:
    """Owns the Socket.IO server and keeps the registry true."""

    def __init__(
        self,
        registry: Registry,
        courier: Courier,
        replayer: Replayer,
        admit: Callable[[Handshake], Awaitable[Principal]],
        meter: SocketMetrics,
        switches: Switches,
        *,
        cors_origins: Collection[str],
        max_sockets_per_key: int,
        send_queue_limit: int,
        ping_interval: float,
        ping_timeout: float,
        max_packet: int,
        door: SocketAccess | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`admit` checks who is calling and raises `Refusal`; without a `door` whoever is in may stay. Times are in
        seconds, sizes in bytes."""
        self._registry = registry
        self._courier = courier
        self._replayer = replayer
        self._admit = admit
        self._meter = meter
        self._switches = switches
        self._door = door or SocketAccess()
        self._clock = clock
        self._max_sockets_per_key = max_sockets_per_key
        self._cors_origins = frozenset(cors_origins)
        self._peers: dict[str, tuple[Peer, KeyInFlight]] = {}
        """By Engine.IO sid, from the handshake to the end."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.engine = SocketEngine(
            async_mode="aiohttp",
            async_handlers=False,  # a flood of requests makes no flood of tasks
            json=codec,
            logger=logging.getLogger("socketio.server"),
            engineio_logger=engineio_logger(),
            cors_allowed_origins=self._origin_allowed,
            cors_credentials=False,
            http_compression=False,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_http_buffer_size=max_packet,
            send_queue_limit=send_queue_limit,
        )
        self.engine.on_open = self._opened
        self.engine.on_gone = self._gone
        self.engine.on("connect", self._connect)
        self.engine.on("status", self._status)
        self.engine.on("auth", self._renew)
        self.engine.on_message = self._door.allowed
        self.engine.on_dropped = self._too_much
        self._door.on_failure = meter.step_failed
        self.engine.eio.on_refused = meter.packet_refused

    def attach(self, app: web.Application) -> None:
        """Serve `/socket.io/` from this application."""
        self.engine.attach(app)

    def _origin_allowed(self, origin: str | None, environ: dict[str, Any]) -> bool:
        """The page's own origin, and those of the settings. A program that names no origin is not a page."""
        if origin is None or "*" in self._cors_origins or origin in self._cors_origins:
            return True
        request: web.Request = environ["aiohttp.request"]
        return origin in {f"http://{request.host}", f"https://{request.host}"}

    # connect

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        request: web.Request = environ["aiohttp.request"]
        remote = request.get(ADDRESS) or request.remote or ""  # as seen through trusted proxies
        try:
            peer = await self._accept(sid, handshake.read(auth, environ, remote))
        except (Refusal, IdentityError) as refusal:
            self._meter.connected(refusal.code)
            log.info("socket_refused", code=refusal.code)
            raise Refused(refusal.message, {"code": refusal.code}) from None
        self._meter.connected("accepted")
        log.debug(
            "socket_mapped",
            key=key_hash(peer.key.user_id, peer.key.bot_id),
            sid=sid,
            transport=peer.transport,
            sockets=len(self._registry.of(peer.key)),
        )

    async def _accept(self, sid: str, shake: Handshake) -> Peer:
        """Check a handshake and map its socket. From the check of the limit on nothing waits, so it is exact."""
        if self._draining:
            raise Refusal("unavailable", "The server is stopping; try again in a moment.")
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                principal = await self._admit(shake)
        except TimeoutError:
            raise Refusal("unavailable", "Who you are could not be checked in time; try again.") from None
        key = BotKey.parse(principal.user_id, shake.bot_id)
        eio_sid = self.engine.manager.eio_sid_from_sid(sid, "/")
        lane = self.engine.lanes.get(eio_sid)
        if lane is None or lane.gone:
            raise Refusal("unavailable", "The connection was closed during the handshake.")
        if len(self._registry.of(key)) >= self._max_sockets_per_key:
            raise Refusal("too_many_sockets", f"This bot has {self._max_sockets_per_key} sockets already; close one.")
        self._door.enter(key.user_id)
        peer = Peer(
            sid,
            eio_sid,
            key,
            lane,
            self._courier.confirmations,
            must_ack=shake.must_ack,
            connect_parent=shake.traceparent,
            expires_at=principal.expires_at,
            clock=self._clock,
        )
        self._registry.add(peer)
        self._peers[eio_sid] = (peer, self._courier.joined(peer))
        return peer

    def _opened(self, eio_sid: str) -> None:
        """The client has its CONNECT: bring it up to date."""
        entry = self._peers.get(eio_sid)
        if entry is None or not entry[0].joined():
            return
        self._start(self._bring_up_to_date(*entry))
        if self._switches.early_disconnect is not None:
            self._start(self._leave_early(entry[0], self._switches.early_disconnect / 1000))

    async def _bring_up_to_date(self, peer: Peer, channel: KeyInFlight) -> None:
        try:
            count = await self._replayer.run(peer, channel, peer.connect_parent)
        except OutboxError as error:
            log.error("replay_failed", code=error.code, sid=peer.sid)
            await peer.lane.end("server disconnect")
            return
        log.debug("socket_up_to_date", sid=peer.sid, replayed=count)

    async def _leave_early(self, peer: Peer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await peer.lane.end("server disconnect")

    async def _status(self, sid: str, *_data: object) -> None:
        """The client asks what is true now."""
        entry = self._peers.get(self.engine.manager.eio_sid_from_sid(sid, "/"))
        if entry is None:
            return
        try:
            await self._replayer.status(entry[0])
        except OutboxError as error:
            log.error("status_failed", code=error.code, sid=sid)

    async def _renew(self, sid: str, data: object = None, *_more: object) -> object:
        """The client has a fresh token. The answer is the ack."""
        entry = self._peers.get(self.engine.manager.eio_sid_from_sid(sid, "/"))
        return None if entry is None else msgspec.to_builtins(await self._door.renew(entry[0], data))

    def _too_much(self, lane: EngineConnection, data: str | bytes) -> None:
        """A request over the limit is answered as it asked to be."""
        if lane.client is None:
            return
        now = asyncio.get_running_loop().time()
        asked = _REQUEST.match(data) if isinstance(data, str) else None
        if asked is not None and asked[1]:
            answer = Frame(b"43%b[%b]" % (asked[1].encode(), msgspec.json.encode(TOO_MUCH)))
        elif now - lane.told_at >= TELL_EVERY:
            lane.told_at = now
            answer = packet_frame("request_refused", TOO_MUCH)
        else:
            return
        if lane.send_frame(answer) is WriteResult.FULL:
            lane.hang_up("queue_full")

    # disconnect

    def _gone(self, eio_sid: str, reason: str) -> None:
        """A socket's engine closed: unmap this very socket."""
        self._door.forget(eio_sid)
        entry = self._peers.pop(eio_sid, None)
        if entry is None:
            return
        peer = entry[0]
        self._door.leave(peer)
        if self._switches.stale_cleanup:
            peer = max(self._registry.of(peer.key), key=lambda other: other.connected_at, default=peer)
        peer.forget()
        if not self._registry.remove(peer):
            return
        self._courier.left(peer)
        lifetime = self._clock.monotonic() - peer.connected_at
        self._meter.disconnected(reason, lifetime)
        log.debug(
            "socket_removed",
            key=key_hash(peer.key.user_id, peer.key.bot_id),
            sid=peer.sid,
            reason=reason,
            lifetime=round(lifetime, 3),
            sockets=len(self._registry.of(peer.key)),
        )

    async def sweep(self) -> None:
        """Run for ever: unmap sockets whose engine went without a word, and see to tokens that ran out.

        What fails for one socket is logged and counted, and done again with the next round.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SWEEP
            await asyncio.sleep(SWEEP)
            if loop.time() - due > SWEEP:
                continue  # the process slept: a fresh token may wait to be read
            await self._step(self._door.look([entry[0] for entry in self._peers.values()]))
            for eio_sid in [eio_sid for eio_sid in self._peers if eio_sid not in self.engine.eio.sockets]:
                log.warning("ghost_socket_removed")
                await self._step(self._ghost(eio_sid))

    async def _ghost(self, eio_sid: str) -> None:
        self._gone(eio_sid, "transport close")

    async def _step(self, work: Awaitable[None]) -> None:
        """One step of what goes on for ever: it may fail, the rest goes on."""
        try:
            await work
        except Exception as error:
            self._meter.step_failed()
            log.exception("socket_sweep_failed", error=type(error).__name__)

    # the end

    async def drain(self, seconds: float, batches: int = 20) -> None:
        """Refuse newcomers and close all sockets over `seconds`, a batch at a time with jitter, so that their clients
        do not come back all at once."""
        self._draining = True
        peers = [entry[0] for entry in self._peers.values()]
        random.shuffle(peers)
        size = -(-len(peers) // batches) or 1
        for start in range(0, len(peers), size):
            await asyncio.gather(*(peer.lane.end("draining") for peer in peers[start : start + size]))
            await asyncio.sleep(seconds / batches * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret

    async def close(self) -> None:
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lane.end("draining") for lane in list(self.engine.lanes.values())))
        await self.engine.shutdown()

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("socket_task_died", error=type(error).__name__, exc_info=error)
