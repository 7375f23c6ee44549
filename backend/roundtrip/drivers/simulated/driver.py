"""The simulated driver: a scripted phone with WhatsApp's real timing, for the page, the dashboards and the tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

import structlog

from roundtrip.clock import Handle, LoopClock, TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.drivers.simulated import script as simulated_store
from roundtrip.drivers.simulated.script import SimulateAction, SimulatedPerson, pairing_code, person_of, qr_text

log = structlog.get_logger(__name__)

FIRST_CODE: Final = 60.0
NEXT_CODE: Final = 20.0
CODES: Final = 6
"""Seconds that a code lasts, and how many there are: as whatsmeow has them."""

STARTS_IN: Final = 0.3
RECONNECTS_IN: Final = 0.6
DIALS_IN: Final = 0.5
FLAP_EVERY: Final = 1.0
FLAPS: Final = 8
BAN: Final = 3600.0


class SimulatedSession:
    """One phone and the server's session with it. Times are divided by `speed`."""

    def __init__(
        self, spec: SessionSpec, report: Callable[[Report], None], clock: TimerClock, speed: float, reachable: bool
    ) -> None:
        self._spec = spec
        self._report = report
        self._clock = clock
        self._speed = speed
        self._person = simulated_store.read(spec.store)
        self._online = False
        self._hangs = False
        self._ended = False
        self._calls: dict[str, Handle] = {}
        self._codes = 0
        if not reachable:
            self._later("dial", DIALS_IN, lambda: self._say(d.Unreachable("simulated: no route to WhatsApp")))
        elif self._person is not None:
            self._later("dial", DIALS_IN, self._come_online)
        else:
            self._later("code", STARTS_IN, self._first_code)

    # what the link service asks

    async def stop(self) -> None:
        self._end()

    async def logout(self) -> None:
        self._end()
        files.remove(self._spec.store)

    async def alive(self) -> bool | None:
        return None if self._hangs else self._online

    # what the phone does

    def act(self, action: SimulateAction) -> bool:
        """Do what the script says; False when that cannot be now."""
        if self._ended or self._hangs:
            return False
        act = self._ACTS.get(action)
        return act is not None and act(self)

    def scan(self) -> bool:
        """Scan the code on the screen, or type the pairing code."""
        if self._person is not None or not self._codes:
            return False
        self._forget_calls()
        made_up = person_of(self._spec.seed or self._spec.link_id)
        self._person = SimulatedPerson(self._spec.phone_number or made_up.phone_number, made_up.display_name)
        try:
            simulated_store.write(self._spec.store, self._person)
        except (OSError, sqlite3.Error) as error:
            # As a worker that cannot keep its keys: the pairing is lost, and a fresh session shows another code.
            log.warning("simulated_store_failed", link_id=self._spec.link_id, error=type(error).__name__)
            self._person = None
            self._go(online=False, said=d.WorkerDied(1))
            self._end()
            return False
        self._say(d.PairSucceeded(self._person.phone_number))
        self._later("dial", RECONNECTS_IN, self._come_online)
        return True

    def _disconnect(self) -> bool:
        return self._while_online(lambda: self._go(online=False, said=d.Offline()))

    def _reconnect(self) -> bool:
        if self._person is None or self._online:
            return False
        self._come_online()
        return True

    def _lose_account(self) -> bool:
        if self._person is None:
            return False
        files.remove(self._spec.store)  # as whatsmeow does: the device's row is gone before anybody is told
        self._go(online=False, said=d.LoggedOutByPhone("401"))
        return True

    def _replace(self) -> bool:
        return self._while_online(lambda: self._go(online=False, said=d.StreamReplaced()))

    def _ban(self) -> bool:
        self._go(online=False, said=d.TemporaryBan(101, BAN))
        return True

    def _expire(self) -> bool:
        if self._person is not None:
            return False
        self._forget_calls()
        self._say(d.CodesUsedUp())
        return True

    def _degrade(self) -> bool:
        return self._while_online(lambda: self._say(d.KeepAliveLost()))

    def _restore(self) -> bool:
        return self._while_online(lambda: self._say(d.KeepAliveRestored()))

    def _outdate(self) -> bool:
        self._go(online=False, said=d.Outdated())
        return True

    def _crash(self) -> bool:
        self._go(online=False, said=d.WorkerDied(-9))
        self._end()
        return True

    def _hang(self) -> bool:
        self._forget_calls()
        self._hangs = True
        return True

    def _lose_network(self) -> bool:
        if self._online:
            self._go(online=False, said=d.Offline())
        self._forget_calls()
        self._say(d.Unreachable("simulated: no route to WhatsApp"))
        return True

    def _refuse(self) -> bool:
        self._go(online=False, said=d.ConnectFailed("499"))
        return True

    def _stream_error(self) -> bool:
        self._say(d.StreamFailed("599"))
        return True

    def _flap(self) -> bool:
        def swing(left: int) -> None:
            if self._online:
                self._go(online=False, said=d.Offline())
            else:
                self._come_online()
            if left:
                self._later("flap", FLAP_EVERY, lambda: swing(left - 1))

        return self._while_online(lambda: swing(2 * FLAPS - 1))

    def _die_silently(self) -> bool:
        return self._while_online(lambda: self._go(online=False, said=None))

    _ACTS: Final[dict[SimulateAction, Callable[[SimulatedSession], bool]]] = {
        SimulateAction.SCAN: scan,
        SimulateAction.DISCONNECT: _disconnect,
        SimulateAction.RECONNECT: _reconnect,
        SimulateAction.LOGOUT: _lose_account,
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
        SimulateAction.STREAM_ERROR: _stream_error,
        SimulateAction.FLAP: _flap,
        SimulateAction.DIE_SILENTLY: _die_silently,
    }

    # inside

    def _while_online(self, act: Callable[[], None]) -> bool:
        if not self._online:
            return False
        act()
        return True

    def _go(self, *, online: bool, said: Report | None) -> None:
        self._online = online
        if said is not None:
            self._say(said)

    def _come_online(self) -> None:
        if self._person is not None:
            self._go(online=True, said=d.Online(self._person.phone_number, self._person.display_name))

    def _first_code(self) -> None:
        if self._spec.phone_number is None:
            self._next_code()
            return
        self._codes = CODES
        whole = FIRST_CODE + NEXT_CODE * (CODES - 1)
        self._say(d.PairingCodeShown(pairing_code(), whole / self._speed))
        self._later("code", whole, self._use_up)

    def _next_code(self) -> None:
        if self._codes == CODES:
            self._use_up()
            return
        ttl = NEXT_CODE if self._codes else FIRST_CODE
        self._codes += 1
        self._say(d.QrShown(qr_text(), self._codes, CODES, ttl / self._speed))
        self._later("code", ttl, self._next_code)

    def _use_up(self) -> None:
        self._expire()

    def _say(self, report: Report) -> None:
        if not self._ended:
            self._report(report)

    def _later(self, name: str, delay: float, call: Callable[[], None]) -> None:
        self._calls[name] = self._clock.call_later(delay / self._speed, call)

    def _forget_calls(self) -> None:
        for handle in self._calls.values():
            handle.cancel()
        self._calls.clear()

    def _end(self) -> None:
        self._forget_calls()
        self._ended = True
        self._online = False


class SimulatedDriver:
    """Plays a phone per link. `scan_after` is in seconds from the start; None waits for somebody to scan."""

    name = "simulated"

    def __init__(self, speed: float = 1.0, scan_after: float | None = None, clock: TimerClock | None = None) -> None:
        self._speed = speed
        self._scan_after = scan_after
        self._clock = clock or LoopClock()
        self._sessions: dict[str, SimulatedSession] = {}
        self._scans: dict[str, Handle] = {}
        self._cut_off: set[str] = set()

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> SimulatedSession:
        session = SimulatedSession(spec, report, self._clock, self._speed, spec.link_id not in self._cut_off)
        self._sessions[spec.link_id] = session
        if self._scan_after is not None:
            # Not before there is a code to scan.
            after = max(self._scan_after, 1.1 * STARTS_IN / self._speed)
            self._scans[spec.link_id] = self._clock.call_later(after, lambda: self._scan(spec.link_id))
        return session

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """Have the phone of a link do something; False when it cannot now."""
        if action is SimulateAction.UNREACHABLE:
            self._cut_off.add(link_id)
        elif action is SimulateAction.RECONNECT and link_id in self._cut_off:
            self._cut_off.discard(link_id)  # the link's next try gets through
            return True
        session = self._sessions.get(link_id)
        return session is not None and session.act(action)

    async def close(self) -> None:
        for handle in self._scans.values():
            handle.cancel()
        for session in self._sessions.values():
            await session.stop()

    def _scan(self, link_id: str) -> None:
        if (session := self._sessions.get(link_id)) is not None:
            session.act(SimulateAction.SCAN)
