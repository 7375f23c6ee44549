"""One scripted phone and its session, on WhatsApp's real timing."""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import structlog

from roundtrip.clock import Handle, TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers import simulated
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.drivers.simulated import SimulateAction, SimulatedAccount
from roundtrip.drivers.simulated.hosts import SimulatedHosts
from roundtrip.telemetry.tracing import LINK_ID

log = structlog.get_logger(__name__)

FIRST_CODE_TTL: Final = 60.0
LATER_CODE_TTL: Final = 20.0
CODES: Final = 6
"""Seconds for which a code is valid, and how many there are: as whatsmeow has them."""

FIRST_CODE_AFTER: Final = 0.3
RECONNECT_AFTER: Final = 0.6
DIAL_AFTER: Final = 0.5
REVIVED_AFTER: Final = 1.0
FLAP_INTERVAL: Final = 1.0
FLAPS: Final = 8
BAN_TTL: Final = 3600.0


class PhoneState(enum.Enum):
    """Of the session with one phone. Whether it is paired is a matter of its account."""

    OFFLINE = enum.auto()
    ONLINE = enum.auto()
    HUNG = enum.auto()
    """As a worker in a deadlock: it reports and answers nothing."""
    ENDED = enum.auto()
    """Stopped, logged out or crashed. Final."""


class SimulatedSession:
    """One phone and the server's session with it. All times are divided by `speed`."""

    def __init__(
        self,
        spec: SessionSpec,
        report: Callable[[Report], None],
        clock: TimerClock,
        speed: float,
        reachable: bool,
        hosts: SimulatedHosts,
    ) -> None:
        self._hosts = hosts
        self._spec = spec
        self._callback = report
        self._clock = clock
        self._speed = speed
        self._account = simulated.read_account(spec.store)
        """None until a scan."""
        self._state = PhoneState.OFFLINE
        self._timers: dict[str, Handle] = {}
        self._codes = 0
        hosts.enter(self, paired=self._account is not None)
        if not reachable:
            self._schedule("dial", DIAL_AFTER, self._report_unreachable)
        elif self._account is not None:
            self._schedule("dial", DIAL_AFTER, self._connect)
        else:
            self._schedule("code", FIRST_CODE_AFTER, self._first_code)

    @property
    def worker(self) -> str | None:
        """The worker that it would be in."""
        return self._hosts.name_of(self)

    def lose_host(self, name: str) -> None:
        """Its worker dies: it goes on in another, and is back in a moment."""
        if self._state in (PhoneState.ENDED, PhoneState.HUNG):
            return
        online = self._state is PhoneState.ONLINE
        self._cancel_timers()
        if online:
            self._go_offline(d.Offline())
        self._hosts.enter(self, paired=True)
        attributes = {
            LINK_ID: self._spec.link_id,
            "roundtrip.move.cause": d.MoveCause.DEATH.value,
            "roundtrip.worker.from": name,
            "roundtrip.worker.exit": d.Exit.KILLED.value,
            "roundtrip.worker.id": self.worker or "",
        }
        move = self._hosts.tracer.start("worker move", self._spec.traceparent, attributes=attributes)

        def back() -> None:
            self._connect()
            move.end()

        self._schedule("dial", REVIVED_AFTER, back)

    async def stop(self) -> None:
        self._end()

    async def logout(self) -> None:
        self._end()
        files.remove(self._spec.store)

    async def alive(self) -> bool | None:
        return None if self._state is PhoneState.HUNG else self._state is PhoneState.ONLINE

    def perform(self, action: SimulateAction) -> bool:
        """Do it; False when it is impossible in the present state."""
        if self._state in (PhoneState.HUNG, PhoneState.ENDED):
            return False
        perform = self._ACTIONS.get(action)
        return perform is not None and perform(self)

    # the actions: each returns whether it was possible

    def _scan(self) -> bool:
        """Scan the code that is shown, or type the pairing code."""
        if self._account is not None or not self._codes:
            return False
        self._cancel_timers()
        made_up = simulated.made_up_account(self._spec.seed or self._spec.link_id)
        self._account = SimulatedAccount(self._spec.phone_number or made_up.phone_number, made_up.display_name)
        try:
            simulated.write_account(self._spec.store, self._account)
        except (OSError, sqlite3.Error) as error:
            # As a worker that cannot write its keys: the pairing is lost, and a fresh session shows another code.
            log.warning("simulated_store_failed", link_id=self._spec.link_id, error=type(error).__name__)
            self._account = None
            self._report(d.WorkerDied(1))
            self._end(d.Exit.CRASHED)
            return False
        self._hosts.enter(self, paired=True)
        self._report(d.PairSucceeded(self._account.phone_number))
        self._schedule("dial", RECONNECT_AFTER, self._connect)
        return True

    def _disconnect(self) -> bool:
        return self._if_online(lambda: self._go_offline(d.Offline()))

    def _reconnect(self) -> bool:
        if self._account is None or self._state is PhoneState.ONLINE:
            return False
        self._connect()
        return True

    def _remove_device(self) -> bool:
        if self._account is None:
            return False
        files.remove(self._spec.store)  # as whatsmeow does: the device's row is deleted before the event is raised
        return self._go_offline(d.LoggedOutByPhone("401"))

    def _replace(self) -> bool:
        return self._if_online(lambda: self._go_offline(d.StreamReplaced()))

    def _ban(self) -> bool:
        return self._go_offline(d.TemporaryBan(101, BAN_TTL))

    def _expire(self) -> bool:
        if self._account is not None:
            return False
        self._cancel_timers()
        return self._report(d.CodesUsedUp())

    def _degrade(self) -> bool:
        return self._if_online(lambda: self._report(d.KeepAliveLost()))

    def _restore(self) -> bool:
        return self._if_online(lambda: self._report(d.KeepAliveRestored()))

    def _outdate(self) -> bool:
        return self._go_offline(d.Outdated())

    def _crash(self) -> bool:
        self._go_offline(d.WorkerDied(-9))
        self._end(d.Exit.KILLED)
        return True

    def _hang(self) -> bool:
        self._cancel_timers()
        self._state = PhoneState.HUNG
        return True

    def _lose_network(self) -> bool:
        if self._state is PhoneState.ONLINE:
            self._go_offline(d.Offline())
        self._cancel_timers()
        return self._report_unreachable()

    def _refuse(self) -> bool:
        return self._go_offline(d.ConnectFailed("499"))

    def _fail_stream(self) -> bool:
        return self._report(d.StreamFailed("599"))

    def _flap(self) -> bool:
        def change(left: int) -> None:
            if self._state is PhoneState.ONLINE:
                self._go_offline(d.Offline())
            else:
                self._connect()
            if left:
                self._schedule("flap", FLAP_INTERVAL, lambda: change(left - 1))

        return self._if_online(lambda: change(2 * FLAPS - 1))

    def _drop_silently(self) -> bool:
        return self._if_online(lambda: self._go_offline(None))

    _ACTIONS: Final[dict[SimulateAction, Callable[[SimulatedSession], bool]]] = {
        SimulateAction.SCAN: _scan,
        SimulateAction.DISCONNECT: _disconnect,
        SimulateAction.RECONNECT: _reconnect,
        SimulateAction.LOGOUT: _remove_device,
        SimulateAction.REPLACE: _replace,
        SimulateAction.BAN: _ban,
        SimulateAction.EXPIRE: _expire,
        SimulateAction.DEGRADE: _degrade,
        SimulateAction.RESTORE: _restore,
        SimulateAction.OUTDATED: _outdate,
        SimulateAction.CRASH: _crash,
        SimulateAction.HANG: _hang,
        SimulateAction.UNREACHABLE: _lose_network,
        SimulateAction.CONNECT_FAILURE: _refuse,
        SimulateAction.STREAM_ERROR: _fail_stream,
        SimulateAction.FLAP: _flap,
        SimulateAction.DIE_SILENTLY: _drop_silently,
    }

    def _if_online(self, act: Callable[[], object]) -> bool:
        if self._state is not PhoneState.ONLINE:
            return False
        act()
        return True

    def _connect(self) -> None:
        if self._account is not None:
            log.debug("simulated_session_online", link_id=self._spec.link_id)
            self._state = PhoneState.ONLINE
            self._report(d.Online(*self._account))

    def _go_offline(self, report: Report | None) -> bool:
        self._state = PhoneState.OFFLINE
        return report is None or self._report(report)

    def _first_code(self) -> None:
        if self._spec.phone_number is None:
            self._next_code()
            return
        self._codes = CODES
        ttl = FIRST_CODE_TTL + LATER_CODE_TTL * (CODES - 1)
        self._report(d.PairingCodeShown(simulated.pairing_code(), ttl / self._speed))
        self._schedule("code", ttl, self._expire)

    def _next_code(self) -> None:
        if self._codes == CODES:
            self._expire()
            return
        ttl = LATER_CODE_TTL if self._codes else FIRST_CODE_TTL
        self._codes += 1
        self._report(d.QrShown(simulated.qr_text(), self._codes, CODES, ttl / self._speed))
        self._schedule("code", ttl, self._next_code)

    def _report_unreachable(self) -> bool:
        return self._report(d.Unreachable("simulated: no route to WhatsApp"))

    def _report(self, report: Report) -> bool:
        """True, for the actions."""
        if self._state is not PhoneState.ENDED:
            self._callback(report)
        return True

    def _schedule(self, name: str, delay: float, callback: Callable[[], Any]) -> None:
        self._timers[name] = self._clock.call_later(delay / self._speed, callback)

    def _cancel_timers(self) -> None:
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def _end(self, cause: d.Exit = d.Exit.STOPPED) -> None:
        if self._state is not PhoneState.ENDED:
            log.debug("simulated_session_ended", link_id=self._spec.link_id)
        self._cancel_timers()
        self._hosts.leave(self, cause)
        self._state = PhoneState.ENDED
