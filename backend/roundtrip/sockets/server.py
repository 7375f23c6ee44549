"""The Socket.IO server: maps sockets at connect, starts their replay, unmaps them at disconnect, and drains them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from aiohttp import web
from socketio.exceptions import ConnectionRefusedError as Refused

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.inflight import KeyInFlight
from roundtrip.delivery.replay import Replayer
from roundtrip.faults import Faults
from roundtrip.identity import BotKey, IdentityError, Principal
from roundtrip.limits.addresses import ADDRESS
from roundtrip.origins import Origins
from roundtrip.outbox.base import OutboxError
from roundtrip.sockets.access import Handshake, Refusal, SocketAccess, parse_handshake
from roundtrip.sockets.engineio.server import Json, SocketEngine, engineio_logger
from roundtrip.sockets.messages import SocketMetrics
from roundtrip.sockets.peer import Peer
from roundtrip.sockets.registry import Others, Registry
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that the check of a token may take. The connect handler runs in the connection's read loop: a slow one hides
its disconnect."""

SWEEP_INTERVAL: Final = 1.0
"""Seconds between two checks for sockets without a connection, and for expired tokens."""


class Lane(NamedTuple):
    """What serves a key's sockets. Those of users share one; the canary has its own, so that it counts nowhere else."""

    registry: Registry
    courier: Courier
    replayer: Replayer
    metrics: SocketMetrics


class SocketServer:
    """Owns the Socket.IO server, and keeps the registry equal to what is connected."""

    def __init__(
        self,
        registry: Registry,
        courier: Courier,
        replayer: Replayer,
        admit: Callable[[Handshake], Awaitable[Principal]],
        metrics: SocketMetrics,
        faults: Faults,
        *,
        cors_origins: Collection[str],
        loopback_origins: bool = False,
        max_sockets_per_key: int,
        send_queue_limit: int,
        ping_interval: float,
        ping_timeout: float,
        max_packet: int,
        door: SocketAccess | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`admit` authenticates a handshake and raises `Refusal`. Without `door` nothing is limited. Times are in
        seconds, sizes in bytes."""
        self._lane = Lane(registry, courier, replayer, metrics)
        self.canary: Lane | None = None
        """Serves principals that have a key of their own."""
        self.on_refused: Callable[[str, str | None, int], None] = lambda _code, _traceparent, _began_ns: None
        """Called with each refused handshake: its code, its traceparent, and when it began."""
        self._admit, self._metrics, self._faults = admit, metrics, faults
        self._access = door or SocketAccess()
        self._clock = clock
        self._access.max_per_key = max_sockets_per_key
        self._origins = Origins(cors_origins, loopback=loopback_origins)
        self._peers: dict[str, tuple[Peer, KeyInFlight, Lane]] = {}
        """By Engine.IO sid, from the handshake to the disconnect."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.engine = SocketEngine(
            async_mode="aiohttp",
            async_handlers=False,  # requests of one client run one after the other, not as a task each
            json=Json,
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
        self.engine.on_connected = self._on_connected
        self.engine.on_closed = self._on_closed
        for name, handler in (("connect", self._connect), ("status", self._status), ("auth", self._renew_token)):
            self.engine.on(name, handler)
        self.engine.allow_message = self._access.allowed
        self.engine.on_message_refused = self._access.refuse_message
        self._access.on_failure = metrics.step_failed
        self.engine.eio.on_refused, self.engine.eio.on_too_large = metrics.packet_refused, metrics.packet_too_large

    def attach(self, app: web.Application) -> None:
        """Serve `/socket.io/` from this application."""
        self.engine.attach(app)

    def _origin_allowed(self, origin: str | None, environ: dict[str, Any]) -> bool:
        """Whether the origin is the page's own or one of the settings. Programs other than browsers send none."""
        request: web.Request = environ["aiohttp.request"]
        return origin is None or self._origins.allows(origin, request.host)

    # connect

    async def _connect(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        request: web.Request = environ["aiohttp.request"]
        remote = request.get(ADDRESS) or request.remote or ""  # as seen through trusted proxies
        handshake, began_ns = parse_handshake(auth, environ, remote), self._clock.wall_ns()
        try:
            peer, _, lane = await self._accept(sid, handshake)
        except (Refusal, IdentityError) as refusal:
            self.on_refused(refusal.code, handshake.traceparent, began_ns)
            self._metrics.connected(refusal.code)
            log.info("socket_refused", code=refusal.code)
            raise Refused(refusal.message, {"code": refusal.code}) from None
        lane.metrics.connected("accepted")
        key, sockets = key_hash(peer.key.user_id, peer.key.bot_id), len(lane.registry.of(peer.key))
        log.debug("socket_mapped", key=key, sid=sid, transport=peer.transport, sockets=sockets)

    async def _accept(self, sid: str, handshake: Handshake) -> tuple[Peer, KeyInFlight, Lane]:
        """Check a handshake and map its socket."""
        if self._draining:
            raise Refusal("unavailable", "The server is stopping; try again in a moment.")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                principal = await self._admit(handshake)
        except TimeoutError:
            raise Refusal("unavailable", "Who you are could not be checked in time; try again.") from None
        key = principal.key or BotKey.parse(principal.user_id, handshake.bot_id)
        lane = self._lane if principal.key is None or self.canary is None else self.canary
        async with lane.registry.others(key) as others:
            return self._map(sid, key, handshake, principal, lane, others)

    def _map(
        self, sid: str, key: BotKey, handshake: Handshake, principal: Principal, lane: Lane, others: Others
    ) -> tuple[Peer, KeyInFlight, Lane]:
        """Nothing is awaited after the limit is checked, so that it is exact."""
        eio_sid = self.engine.manager.eio_sid_from_sid(sid, "/")
        connection = self.engine.connections.get(eio_sid)
        if connection is None or connection.gone:
            raise Refusal("unavailable", "The connection was closed during the handshake.")
        self._access.acquire(key.user_id, len(lane.registry.of(key)) + others.of_key, others.of_user)
        peer = Peer(
            sid,
            eio_sid,
            key,
            connection,
            lane.courier.confirmations,
            must_ack=handshake.must_ack,
            connect_parent=handshake.traceparent,
            expires_at=principal.expires_at,
            clock=self._clock,
            on_illegal=lane.metrics.step_failed,
        )
        lane.registry.add(peer)
        entry = self._peers[eio_sid] = (peer, lane.courier.joined(peer), lane)
        return entry

    def _on_connected(self, eio_sid: str) -> None:
        """The client has its CONNECT packet: replay what it missed."""
        entry = self._peers.get(eio_sid)
        if entry is None or not entry[0].begin_replay():
            return
        self._spawn(self._replay(*entry))
        if self._faults.early_disconnect is not None:
            self._spawn(self._disconnect_early(entry[0], self._faults.early_disconnect / 1000))  # milliseconds

    async def _replay(self, peer: Peer, channel: KeyInFlight, lane: Lane) -> None:
        try:
            count = await lane.replayer.run(peer, channel, peer.connect_parent)
        except OutboxError as error:
            log.error("replay_failed", code=error.code, sid=peer.sid)
            await peer.connection.end("replay_failed")
            return
        log.debug("socket_up_to_date", sid=peer.sid, replayed=count)

    async def _disconnect_early(self, peer: Peer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await peer.connection.end("server disconnect")

    async def _status(self, sid: str, *_data: object) -> None:
        """The request `status`: send the snapshot."""
        entry = self._peers.get(self.engine.manager.eio_sid_from_sid(sid, "/"))
        if entry is None:
            return
        try:
            await entry[2].replayer.status(entry[0])
        except OutboxError as error:
            log.error("status_failed", code=error.code, sid=sid)

    async def _renew_token(self, sid: str, data: object = None, *_more: object) -> object:
        """The request `auth`: renew the token. The result is the acknowledgement."""
        entry = self._peers.get(self.engine.manager.eio_sid_from_sid(sid, "/"))
        return None if entry is None else msgspec.to_builtins(await self._access.renew(entry[0], data))

    # disconnect

    def _on_closed(self, eio_sid: str, reason: str) -> None:
        """A connection closed: unmap its socket, by its own sid."""
        self._access.connection_closed(eio_sid)
        entry = self._peers.pop(eio_sid, None)
        if entry is None:
            return
        peer, _, lane = entry
        self._access.release(peer)
        if self._faults.stale_cleanup:
            peer = max(lane.registry.of(peer.key), key=lambda other: other.connected_at, default=peer)
        peer.close()
        if not lane.registry.remove(peer):
            return
        lane.courier.left(peer)
        lifetime = self._clock.monotonic() - peer.connected_at
        lane.metrics.disconnected(reason, lifetime)
        log.debug(
            "socket_removed",
            key=key_hash(peer.key.user_id, peer.key.bot_id),
            sid=peer.sid,
            reason=reason,
            lifetime=round(lifetime, 3),
            sockets=len(lane.registry.of(peer.key)),
        )

    async def sweep(self) -> None:
        """Run for ever: check for expired tokens, and unmap sockets whose connection vanished without a disconnect.

        A failure with one socket is logged and counted, and tried again in the next round.
        """
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SWEEP_INTERVAL
            await asyncio.sleep(SWEEP_INTERVAL)
            if loop.time() - due > SWEEP_INTERVAL:
                continue  # the process was suspended: a renewed token may be unread
            await self._step(self._access.check_expiry([entry[0] for entry in self._peers.values()]))
            for eio_sid in [eio_sid for eio_sid in self._peers if eio_sid not in self.engine.eio.sockets]:
                log.warning("ghost_socket_removed")
                await self._step(self._remove_ghost(eio_sid))

    async def _remove_ghost(self, eio_sid: str) -> None:
        self._on_closed(eio_sid, "transport close")

    async def _step(self, work: Awaitable[None]) -> None:
        """Run one step of the sweep; a failure is logged and counted."""
        try:
            await work
        except Exception as error:
            self._metrics.step_failed()
            log.exception("socket_sweep_failed", error=type(error).__name__)

    # the end

    async def drain(self, seconds: float, batches: int = 20) -> None:
        """Refuse new sockets, and close all over `seconds`, in batches with jitter, so that their clients do not
        reconnect all at once."""
        self._draining = True
        peers = [entry[0] for entry in self._peers.values()]
        random.shuffle(peers)
        size = -(-len(peers) // batches) or 1
        for start in range(0, len(peers), size):
            await asyncio.gather(*(peer.connection.end("draining") for peer in peers[start : start + size]))
            await asyncio.sleep(seconds / batches * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret

    async def close(self) -> None:
        """Cancel replays, close all connections and shut the engine down."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(connection.end("draining") for connection in list(self.engine.connections.values())))
        await self.engine.shutdown()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("socket_task_died", error=type(error).__name__, exc_info=error)
