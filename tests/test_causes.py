"""The four causes of "No socket found for user", each with its cure. Where a cure can be switched off by a named fault,
the test does that too, and sees the failure: a test that passes without the cure would prove nothing."""

from __future__ import annotations

import asyncio

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


class TestKeyMismatch:
    async def test_ids_that_join_to_the_same_text_are_different_keys(self) -> None:
        async with stage() as s, py_client(s.url, "a_b", "c") as one, py_client(s.url, "a", "b_c") as other:
            await s.courier.publish(BotKey("a_b", "c"), "link", CONNECTED)
            await one.count(1)
            await s.courier.publish(BotKey("a", "b_c"), "link", CONNECTED)
            await other.count(1)
            assert [event["userId"] for event in one.events + other.events] == ["a_b", "a"]

    async def test_a_miss_says_that_the_user_is_there_under_another_bot(self) -> None:
        async with stage() as s, py_client(s.url, bot="other"):
            await s.courier.publish(KEY, "link", CONNECTED)
            [attempt] = s.notes.missed_
            assert attempt.reason is MissReason.KEY_MISMATCH
            assert attempt.keys == ("other",)
            [miss] = s.registry.view().misses
            assert (miss.looked_for, miss.connected) == (("user", "bot"), ("other",))

    async def test_an_emitter_that_builds_the_key_differently_misses_and_the_event_is_not_lost(self) -> None:
        async with stage() as s:
            s.faults.key_mismatch = True
            async with py_client(s.url) as client:
                await s.courier.publish(KEY, "link", CONNECTED)
                [attempt] = s.notes.missed_
                assert (attempt.reason, attempt.keys) == (MissReason.KEY_MISMATCH, ("bot",))
                assert client.events == []
            async with py_client(s.url) as client:
                [event] = await client.count(1)
                assert event["replayed"] is True


class TestTiming:
    async def test_a_socket_that_comes_after_the_event_gets_it(self) -> None:
        async with stage() as s:
            await s.courier.publish(KEY, "link", CONNECTED)
            async with py_client(s.url) as client:
                [event] = await client.count(1)
                assert (event["type"], event["replayed"], event["seq"]) == ("whatsapp_connected", True, 1)
                await eventually(lambda: s.notes.settled_)
            async with py_client(s.url) as client:
                await s.courier.publish(KEY, "link", CONNECTED)
                await client.count(1)
                assert client.seqs == [2], "a confirmed event is not replayed"

    async def test_a_socket_that_left_before_the_event_gets_it_when_it_is_back(self) -> None:
        async with stage() as s:
            async with py_client(s.url):
                pass
            await eventually(lambda: not s.registry.of(KEY))
            await s.courier.publish(KEY, "link", CONNECTED)
            assert [attempt.reason for attempt in s.notes.missed_] == [MissReason.JUST_DISCONNECTED]
            async with py_client(s.url) as client:
                await client.count(1)

    async def test_a_socket_that_leaves_without_confirming_gets_it_again(self) -> None:
        async with stage() as s:
            s.faults.drop_receipts = s.faults.drop_acks = True
            async with py_client(s.url, acking=False) as client:
                await s.courier.publish(KEY, "link", CONNECTED)
                await client.count(1)
            await eventually(lambda: s.notes.missed_)
            s.faults.drop_receipts = s.faults.drop_acks = False
            async with py_client(s.url) as client:
                [event] = await client.count(1)
                assert (event["replayed"], event["attempt"]) == (True, 2)

    async def test_events_that_come_during_a_replay_follow_it(self) -> None:
        async with stage() as s:
            for _ in range(50):
                await s.courier.publish(KEY, "link", CONNECTED)
            live = asyncio.ensure_future(self._publish(s.courier, 200))
            async with py_client(s.url) as client:
                await client.count(250)
                await live
                assert client.seqs == list(range(1, 251))
                assert {event["replayed"] for event in client.events[-50:]} == {False}

    @staticmethod
    async def _publish(courier: object, count: int) -> None:
        for _ in range(count):
            await courier.publish(KEY, "link", CONNECTED)  # type: ignore[attr-defined]  # the stage's courier
            await asyncio.sleep(0.001)


class TestStaleCleanUp:
    async def test_the_old_sockets_disconnect_leaves_the_new_mapping(self) -> None:
        assert await self._delivered_live(within=10) is True

    async def test_without_the_cure_the_new_mapping_is_lost(self) -> None:
        assert await self._delivered_live(within=0.5, stale_cleanup=True) is False

    @staticmethod
    async def _delivered_live(*, within: float, stale_cleanup: bool = False) -> bool:
        """Two sockets of one key; the older leaves; whether a live event then reaches the newer, within seconds."""
        async with stage() as s:
            s.faults.stale_cleanup = stale_cleanup
            async with py_client(s.url) as old, py_client(s.url) as new:
                await old.io.disconnect()
                await eventually(lambda: s.notes.disconnects)
                await s.courier.publish(KEY, "link", CONNECTED)
                try:
                    await new.count(1, within=within)
                except TimeoutError:
                    return False
                return True


class TestNobodyThere:
    async def test_every_attempt_has_an_outcome(self) -> None:
        async with stage() as s:
            event = await s.courier.publish(KEY, "link", CONNECTED)
            entry = await s.outbox.find(event.id)
            assert entry.outcome is Outcome.PENDING
            assert [(attempt.reason, attempt.sockets) for attempt in entry.attempts] == [
                (MissReason.NEVER_CONNECTED, 0)
            ]
            async with py_client(s.url) as client:
                await client.count(1)
                await eventually(lambda: s.notes.settled_)
            entry = await s.outbox.find(event.id)
            assert entry.outcome is Outcome.ACKED
            assert [attempt.reason for attempt in entry.attempts] == [MissReason.NEVER_CONNECTED, None]
