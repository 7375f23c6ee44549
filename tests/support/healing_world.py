"""The world of the healing test: links of two users over faked WhatsApp, whose reports and orders rules choose."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from roundtrip.drivers import base as d
from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import FakeSession, Stage, open_stores, settle, write_key_file

KEYS = (BotKey.parse("user-1", "a"), BotKey.parse("user-1", "b"), BotKey.parse("user-2", "a"))
NUMBERS = ("+14155550142", "+14155550143", "+14155550142")  # the first and the last have one account
REACHED: Counter[str] = Counter()
"""How often each interesting thing happened in all runs: a generator that never gets there proves nothing."""


class World(RuleBasedStateMachine):
    """What the rules act on. `run` lets a coroutine finish on the world's own loop."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.stage: Stage | None = None
        self.gone: set[BotKey] = set()
        self.online: dict[BotKey, FakeSession] = {}
        """The session whose Online stands, as a bystander knows."""
        self.steps = 0.0

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    async def _open(self) -> None:
        clock = self.stage.clock if self.stage is not None else None
        self.stage = Stage(
            self.folder, restart_limit=3, flap_limit=3, ban_cooldown=900.0, outdated_retry=300.0, removal_period=3600.0
        )
        if clock is not None:  # the machine's clocks outlive the program
            self.stage.clock._now, self.stage.clock.offset = clock._now, clock.offset
        open_stores.add(self.stage.store)
        await self.stage.service.open()
        self.restoring = asyncio.create_task(self.stage.service.restore())
        await settle()

    async def _close(self) -> None:
        assert self.stage is not None
        self.restoring.cancel()
        await asyncio.wait([self.restoring])
        await self.stage.service.close()
        open_stores.discard(self.stage.store)
        self.online.clear()

    async def _connect(self, key: BotKey, number: str) -> None:
        await self._order(key, None)
        await self._say(key, d.QrShown("2@a,b,c,d", 1, 6, 60.0))
        await self._say(key, d.PairSucceeded(number))
        await self._say(key, d.Online(number, "Ada"))

    def _session(self, key: BotKey) -> FakeSession | None:
        assert self.stage is not None
        link = self.stage.service._links.get(key)
        session = None if link is None else link.lifecycle.runner.session
        return session if isinstance(session, FakeSession) else None

    async def _say(self, key: BotKey, report: d.Report) -> None:
        session = self._session(key)
        if session is None:
            return
        if isinstance(report, d.PairSucceeded):
            write_key_file(session.spec.store)
        if isinstance(report, d.Online):
            if not session.spec.store.exists():
                return  # nobody logs in without keys
            session.is_alive = True
            self.online[key] = session
        elif not isinstance(report, (d.KeepAliveLost, d.KeepAliveRestored, d.StreamFailed, d.CodesUsedUp)):
            session.is_alive = False
            self.online.pop(key, None)
        if isinstance(report, (d.LoggedOutByPhone, d.StreamReplaced)):
            self.gone.add(key)
        session.report(report)
        await settle()

    async def _order(self, key: BotKey, number: str | None) -> None:
        assert self.stage is not None
        try:
            await self.stage.service.start(key, number)
        except LinkError as error:
            REACHED[error.code] += 1
        await settle()

    def teardown(self) -> None:
        if self.stage is not None:
            self.run(self._heal())
            self.run(self._close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def _all_well(self) -> bool:
        assert self.stage is not None
        links = self.stage.service._links.values()
        return all(
            link.state in (LinkState.CONNECTED, LinkState.REPLACED) or link.lifecycle.keys_rejected
            for link in links
            if link.record is not None and link.record.paired
        )

    async def _heal(self) -> None:
        """WhatsApp is well again: every session that begins is let in at once."""
        assert self.stage is not None
        self.stage.publisher.fails = None
        self.stage.driver.start_fails = False
        waited = 0.0
        while waited < 6000.0 and not (waited > 0.0 and self._all_well()):
            for which, key in enumerate(KEYS):
                link = self.stage.service._links.get(key)
                session = self._session(key)
                if link is None or link.record is None or not link.record.paired or session is None:
                    continue
                if self.online.get(key) is not session:
                    await self._say(key, d.Online(link.record.phone_number or NUMBERS[which], "Ada"))
            # Not beside the deadline of a session that was let in this moment.
            await self.stage.clock.advance(1.5 if waited < 60.0 else 20.0)
            waited += 1.5 if waited < 60.0 else 20.0
        for key, link in self.stage.service._links.items():
            record = link.record
            if record is None or not record.paired:
                continue
            if link.state is LinkState.REPLACED:
                assert key in self.gone
                continue
            if link.lifecycle.keys_rejected:
                continue
            assert link.state is LinkState.CONNECTED, (key, link.state, record.reason_code, link.deadlines)
            REACHED["healed"] += 1
