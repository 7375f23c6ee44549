"""The notes of what missed: what waits, what is over, and that they are bounded."""

from __future__ import annotations

import time

from roundtrip.api.debug.misses import REMEMBERED, MissBook, MissNote
from roundtrip.delivery.state import Delivery
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, Ended, MissReason, Mode, Outcome, StoredEvent
from roundtrip.sockets.registry import MissView

KEY = BotKey("ada", "bot")


def missed(book: MissBook, number: int, reason: MissReason = MissReason.NEVER_CONNECTED, key: BotKey = KEY) -> Delivery:
    now = time.time_ns() // 1_000_000
    event = StoredEvent(key, number, f"event-{number}", EventType.QR, "link", now, 0, f"00-{1:032x}-{1:016x}-00", b"{}")
    delivery = Delivery(event, Mode.LIVE, now)
    attempt = Attempt(at=now, mode=Mode.LIVE, reason=reason)
    delivery.finish(attempt)
    book.missed(delivery, attempt)
    book.looked(
        MissView("2026-01-01T00:00:00.000Z", "whatsapp_qr", reason, event.id, (key.user_id, "looked-for"), ("other",))
    )
    return delivery


def test_a_miss_is_told_whole_and_grouped_by_reason_and_key() -> None:
    book = MissBook(lambda key: key.bot_id == "looked-for")
    told: list[MissNote] = []
    book.on_note = told.append
    for number in (1, 2):
        missed(book, number, MissReason.KEY_MISMATCH)
    missed(book, 3)
    assert [note.event_id for note in told] == ["event-1", "event-2", "event-3"]
    assert (told[0].looked_for, told[0].connected, told[0].promised) == ("looked-for", ("other",), True)
    groups = {group.reason: group for group in book.groups()}
    assert {reason: group.events for reason, group in groups.items()} == {"key_mismatch": 2, "never_connected": 1}
    assert groups["key_mismatch"].event_id == "event-2"


def test_what_is_delivered_later_or_ends_in_the_outbox_waits_no_more() -> None:
    book = MissBook()
    for number in (1, 2, 3):
        missed(book, number)
    assert [note.seq for note in book.waiting()] == [1, 2, 3]
    book.late_end("event-1")
    book.ended([Ended(KEY, 3, Outcome.SUPERSEDED), Ended(KEY, 99, Outcome.EXPIRED)])
    book.late_end("unknown")
    assert [note.seq for note in book.waiting()] == [2]
    missed(book, 1)
    assert [note.seq for note in book.waiting()] == [2, 1], "it missed again"
    assert book.note("event-1") is not None


def test_the_notes_are_bounded_and_what_is_forgotten_is_counted() -> None:
    book = MissBook()
    for number in range(1, REMEMBERED + 11):
        missed(book, number)
    assert len(book.newest(10 * REMEMBERED)) == len(book.waiting()) == REMEMBERED
    assert book.forgotten == 10
