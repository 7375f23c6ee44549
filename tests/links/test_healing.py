"""The whole machine under anything: whatever the library, the network, the clock and people do, an account stays.

Random reports, losses, restarts, orders and clock steps; after each step the invariants, and at the end WhatsApp is
well again: then every paired account comes back by itself, unless WhatsApp reported that it is gone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Final

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from roundtrip import events as e
from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.links.machine import LIVE, UP, Timer
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.healing_world import KEYS, NUMBERS, REACHED, World
from tests.support.links import settle

EXAMPLES: Final = int(os.environ.get("ROUNDTRIP_HEALING_EXAMPLES", "10"))
"""More finds more: some thousands take some minutes."""
BRANCHES: Final = frozenset(
    {
        "connecting", "qr", "paired", "connected", "degraded", "disconnected",
        "logged_out", "replaced", "banned", "client_outdated", "failed", "qr_expired",
        "because connection_lost", "because unreachable", "because connect_failure", "because authenticated",
        "because restored", "because keepalive_lost", "because codes_used_up", "because logged_out",
        "waits for stuck", "waits for unreached", "waits for grace", "waits for silent", "waits for ban",
        "waits for again", "waits for login", "waits for patience", "waits for calm",
        "stalled", "rejected", "flapping", "ailing", "keeps dying", "shared",
        "removal under way", "restart during a removal", "restart", "restart while connected",
        "restart while disconnected", "restart while banned", "step", "outbox_unavailable", "healed",
    }
)  # fmt: skip
"""What a run must have been to."""

MORE: Final = 120.0
"""Seconds more while a branch was not reached, for a busy machine makes fewer examples."""

GONE = frozenset({LinkState.LOGGED_OUT, LinkState.REPLACED})
BAD = st.sampled_from(
    [
        d.Offline(),
        d.KeepAliveLost(),
        d.KeepAliveRestored(),
        d.Unreachable("x"),
        d.Unreachable("x", d.ConnectStage.HANDSHAKE),
        d.Unreachable("x", d.ConnectStage.UNKNOWN),
        d.WorkerDied(134),
        d.WorkerDied(0),
        d.StreamFailed("599"),
        d.CodesUsedUp(),
        d.TemporaryBan(101, 600.0),
        d.TemporaryBan(0, None),
        d.Outdated(),
        *map(d.ConnectFailed, ("400", "402", "405", "409", "413", "415", "418", "429", "463", "501", "?")),
    ]
)
FINAL = st.sampled_from([d.LoggedOutByPhone("401"), d.LoggedOutByPhone("406"), d.StreamReplaced()])


class Healing(World):
    @initialize()
    def begin(self) -> None:
        self.run(self._open())
        self.run(self._connect(KEYS[0], NUMBERS[0]))
        self.run(self._connect(KEYS[1], NUMBERS[1]))

    # what happens

    @rule(key=st.sampled_from(KEYS), report=BAD)
    def trouble(self, key: BotKey, report: d.Report) -> None:
        self.run(self._say(key, report))

    @rule(which=st.integers(0, 2))
    def connected_again(self, which: int) -> None:
        self.run(self._say(KEYS[which], d.Online(NUMBERS[which], "Ada")))

    @rule(
        which=st.integers(0, 2),
        report=st.sampled_from([d.Offline(), d.KeepAliveLost(), d.WorkerDied(134), d.Unreachable("x")]),
        times=st.integers(2, 6),
        pause=st.sampled_from([0.0, 6.0, 50.0]),
        between=st.booleans(),
    )
    def again_and_again(self, which: int, report: d.Report, times: int, pause: float, between: bool) -> None:
        """What wears a link out; `between`: it comes back each time."""

        async def wear() -> None:
            assert self.stage is not None
            await self._say(KEYS[which], d.Online(NUMBERS[which], "Ada"))
            for _ in range(times):
                await self._say(KEYS[which], report)
                self.what_was_reached_is_noted()
                await self.stage.clock.advance(pause)
                if between:
                    await self._say(KEYS[which], d.Online(NUMBERS[which], "Ada"))

        self.run(wear())

    @rule(which=st.integers(0, 2), let_in=st.booleans())
    def paired_again(self, which: int, let_in: bool) -> None:
        self.ask(which, None)
        self.scan(which)
        if let_in:
            self.connected_again(which)

    @rule(
        which=st.integers(0, 2),
        report=st.sampled_from([d.TemporaryBan(101, 600.0), d.TemporaryBan(0, None), d.Outdated(), d.StreamReplaced()]),
        restart=st.booleans(),
    )
    def kept_away(self, which: int, report: d.Report, restart: bool) -> None:
        self.connected_again(which)
        self.run(self._say(KEYS[which], report))
        self.what_was_reached_is_noted()
        if restart:
            self.restart()

    @rule(key=st.sampled_from(KEYS))
    def keys_rejected(self, key: BotKey) -> None:
        """An account is asked to scan: only its user can link it again."""
        self.run(self._say(key, d.QrShown("2@a,b,c,d", 1, 6, 60.0)))

    @rule(key=st.sampled_from(KEYS), report=FINAL)
    def the_end(self, key: BotKey, report: d.Report) -> None:
        self.run(self._say(key, report))

    @rule(which=st.integers(0, 2), number=st.sampled_from([None, "+14155550142", "+14155550143"]))
    def ask(self, which: int, number: str | None) -> None:
        self.run(self._order(KEYS[which], number))

    @rule(which=st.integers(0, 2))
    def scan(self, which: int) -> None:
        assert self.stage is not None
        key = KEYS[which]
        link = self.stage.service._links.get(key)
        if link is None or link.record is None or link.record.paired or self._session(key) is None:
            return
        self.gone.discard(key)
        self.run(self._say(key, d.QrShown("2@a,b,c,d", 1, 6, 60.0)))
        self.run(self._say(key, d.PairSucceeded(NUMBERS[which])))

    @rule(key=st.sampled_from(KEYS), fails=st.booleans())
    def log_out(self, key: BotKey, fails: bool) -> None:
        async def out() -> None:
            assert self.stage is not None
            if (session := self._session(key)) is not None:
                session.logout_fails = fails
            try:
                await self.stage.service.logout(key)
            except LinkError as error:
                REACHED[error.code] += 1
            else:
                self.gone.add(key)
                self.online.pop(key, None)
            await settle()

        self.run(out())

    @rule(seconds=st.sampled_from([0.5, 4.0, 6.0, 30.0, 50.0, 70.0, 400.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        assert self.stage is not None
        self.run(self.stage.clock.advance(seconds))

    @rule(seconds=st.sampled_from([-86400.0, -60.0, 60.0, 86400.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        assert self.stage is not None
        self.stage.clock.step(seconds)
        REACHED["step"] += 1

    @rule(down=st.booleans())
    def the_outbox(self, down: bool) -> None:
        async def change() -> None:
            assert self.stage is not None
            self.stage.publisher.fails = StorageError("outbox_unavailable", "down") if down else None
            await self.stage.clock.advance(6.0)

        self.run(change())

    @rule(refuses=st.booleans())
    def the_driver(self, refuses: bool) -> None:
        assert self.stage is not None
        self.stage.driver.start_fails = refuses

    @rule()
    def restart(self) -> None:
        assert self.stage is not None
        REACHED["restart"] += 1
        REACHED["restart during a removal"] += len(self.stage.service._context.removals) > 0
        for link in self.stage.service._links.values():
            REACHED[f"restart while {link.state.value}"] += 1
        self.run(self._close())
        self.run(self._open())

    # what holds at any time

    @invariant()
    def what_was_reached_is_noted(self) -> None:
        if self.stage is None:
            return
        for to, reason in self.stage.metrics.transitions:
            REACHED[to] += 1
            REACHED[f"because {reason}"] += 1
        self.stage.metrics.transitions.clear()
        for link in self.stage.service._links.values():
            REACHED.update(f"waits for {name}" for name in link.deadlines)
            for what, is_so in (
                ("stalled", link.stalled),
                ("rejected", link.lifecycle.keys_rejected),
                ("flapping", link.lifecycle.damper.flapping),
                ("ailing", link.lifecycle.pings_unanswered),
                ("keeps dying", link.lifecycle.policy.crash_looping(self.stage.clock.monotonic())),
                ("shared", link.record is not None and link.record.also_linked),
            ):
                REACHED[what] += is_so
        REACHED["removal under way"] += len(self.stage.service._context.removals) > 0

    @invariant()
    def every_wait_has_a_timer(self) -> None:
        if self.stage is None:
            return
        for key, link in self.stage.service._links.items():
            record = link.record
            if record is None or link.stalled:
                continue
            timers = set(link.deadlines)
            if not self.restoring.done() and not link.lifecycle.runner.starts:
                continue  # its turn comes
            match link.state:
                case LinkState.CONNECTED:
                    assert link.lifecycle.damper.online or Timer.GRACE.name.lower() in timers
                case _ if link.state in LIVE or (
                    record.paired and link.state in (LinkState.BANNED, LinkState.CLIENT_OUTDATED)
                ):
                    assert timers, (key, link.state)
                case LinkState.FAILED if record.paired:
                    assert "again" in timers or link.lifecycle.keys_rejected
                case _:
                    assert not record.paired or link.state in GONE
            if link.state in UP and self.online.get(key) is None:
                assert timers & {"grace", "calm"}, "called connected, and nothing looks after it"

    @invariant()
    def an_account_is_given_up_only_when_whatsapp_reports_it(self) -> None:
        if self.stage is None:
            return
        for key, link in self.stage.service._links.items():
            if link.record is not None and link.state in GONE and not link.stalled:
                assert key in self.gone or not link.record.connected_before

    @invariant()
    def connected_is_published_only_after_online(self) -> None:
        if self.stage is None:
            return
        for key, payload in self.stage.publisher.published:
            if isinstance(payload, e.Connected):
                link = self.stage.service._links[key]
                assert link.record is not None
                assert link.record.connected_before
        self.stage.publisher.published.clear()


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Thousands of bad minutes are no news, and their lines would cost more than they."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.timeout(240 + EXAMPLES)
def test_whatever_happens_every_account_comes_back() -> None:
    REACHED.clear()
    rounds, until = 0, time.monotonic() + MORE
    while not rounds or (BRANCHES - set(+REACHED) and time.monotonic() < until):
        rounds += 1
        run_state_machine_as_test(
            Healing,
            settings=settings(
                max_examples=EXAMPLES * rounds,  # a seed that is given would repeat the same ones
                stateful_step_count=25,
                phases=(Phase.explicit, Phase.generate),
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{rounds * (rounds + 1) // 2 * EXAMPLES} examples: {dict(REACHED.most_common())}")
    missing = BRANCHES - set(+REACHED)
    assert not missing, f"the rules no longer reach: {sorted(missing)}"
