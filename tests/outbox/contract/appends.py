"""Events that are appended: what is stored, its `seq`, and the order of the results."""

from __future__ import annotations

import asyncio
import json
import re

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import StoredEvent
from tests.outbox.contract.base import ContractBase
from tests.support.drafts import CONNECTED, CONNECTING, KEY, TRACEPARENT, Clock, assert_balanced, draft, qr, store

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class AppendContract(ContractBase):
    async def test_a_stored_event_has_the_fields_of_the_contract(self, outbox: Outbox, clock: Clock) -> None:
        clock.wall_ms(1_767_225_600_007)
        event = await store(outbox, draft(CONNECTED, clock))
        assert UUID7.fullmatch(event.id)
        assert int(event.id.replace("-", "")[:12], 16) == clock.ms
        body = json.loads(event.body)
        assert list(body.items()) == [
            ("id", event.id),
            ("seq", 1),
            ("type", "whatsapp_connected"),
            ("userId", "user"),
            ("botId", "bot"),
            ("linkId", "link-1"),
            ("timestamp", "2026-01-01T00:00:00.007Z"),
            ("traceparent", TRACEPARENT),
            ("phoneNumber", "+15550100"),
            ("displayName", "Ada"),
            ("first", True),
        ]
        assert (event.key, event.seq, event.type) == (KEY, 1, EventType.CONNECTED)
        assert (event.created_at, event.expires_at) == (clock.ms, clock.ms + 60_000)

    async def test_a_payload_without_fields_makes_valid_json(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTING, clock))
        assert list(json.loads(event.body))[-1] == "traceparent"

    async def test_any_text_is_stored_unchanged(self, outbox: Outbox, clock: Clock) -> None:
        key = BotKey.parse('us"er\\☎', "b,ot{}é")
        event = await store(outbox, draft(qr('"\\\u2028\x00☎'), clock, key))
        body = json.loads(event.body)
        assert (body["userId"], body["botId"], body["qr"]) == (key.user_id, key.bot_id, '"\\\u2028\x00☎')
        assert (await outbox.pending(key, 0, 9)) == [event]

    async def test_an_event_that_cannot_be_encoded_is_refused_alone(self, outbox: Outbox, clock: Clock) -> None:
        before = store(outbox, draft(CONNECTED, clock))
        bad = store(outbox, draft(qr("\ud800"), clock))
        after = store(outbox, draft(CONNECTED, clock))
        first, refused, second = await asyncio.gather(before, bad, after, return_exceptions=True)
        assert isinstance(first, StoredEvent)
        assert isinstance(second, StoredEvent)
        assert (first.seq, second.seq) == (1, 2)
        assert isinstance(refused, OutboxError)

    async def test_a_callback_that_raises_affects_no_other(self, outbox: Outbox, clock: Clock) -> None:
        def broken(_result: object) -> None:
            raise ZeroDivisionError

        outbox.append(draft(CONNECTED, clock), broken)
        assert (await store(outbox, draft(CONNECTED, clock))).seq == 2

    async def test_seq_grows_by_one_per_key_and_keys_never_mix(self, outbox: Outbox, clock: Clock) -> None:
        keys = [BotKey("a_b", "c"), BotKey("a", "b_c"), BotKey("a", "b"), BotKey("b", "a")]
        events = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock, key)) for _ in range(50) for key in keys))
        for key in keys:
            assert [event.seq for event in events if event.key == key] == list(range(1, 51))
            assert await outbox.last_seq(key) == 50
            assert [event.seq for event in await outbox.pending(key, 0, 99)] == list(range(1, 51))
        assert len({event.id for event in events}) == 200

    async def test_done_is_called_in_the_order_of_the_appends(self, outbox: Outbox, clock: Clock) -> None:
        reported: list[int] = []

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            reported.append(result.seq)

        for _ in range(3000):
            outbox.append(draft(CONNECTED, clock), done)
        assert await outbox.last_seq(KEY) == 3000
        assert reported == list(range(1, 3001))

    async def test_concurrent_appends_get_seqs_in_the_order_of_the_calls(self, outbox: Outbox, clock: Clock) -> None:
        keys = [BotKey("user", bot) for bot in "abc"]
        called: dict[BotKey, list[str]] = {key: [] for key in keys}
        committed: dict[BotKey, list[str]] = {key: [] for key in keys}

        async def producer(number: int) -> None:
            for count in range(30):
                key, text = keys[(number + count) % 3], f"{number}-{count}"
                called[key].append(text)
                event = store(outbox, draft(qr(text), clock, key, supersede=False))
                committed[key].append(json.loads((await event).body)["qr"])
                for _ in range(number % 4):
                    await asyncio.sleep(0)

        await asyncio.gather(*(producer(number) for number in range(12)))
        for key in keys:
            assert committed[key] == called[key]
            pending = await outbox.pending(key, 0, 999)
            assert [event.seq for event in pending] == list(range(1, 121))
            assert [json.loads(event.body)["qr"] for event in pending] == called[key]
        assert_balanced(outbox.totals())
