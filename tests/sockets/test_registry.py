"""The socket map: sets per key, reasons of misses, what is kept and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from roundtrip.delivery.wire import Miss
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.sockets import registry as module
from roundtrip.sockets.peer import Peer
from roundtrip.sockets.registry import Registry

KEY = BotKey("user", "bot")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def socket(sid: str, key: BotKey = KEY) -> Peer:
    """As much of a peer as the registry looks at."""
    made: Any = SimpleNamespace(
        sid=sid, key=key, transport="websocket", connected_at=990.0, must_ack=False, live=True, backlog=0
    )
    return cast("Peer", made)


def test_a_key_holds_a_set_and_each_socket_is_removed_by_itself() -> None:
    registry = Registry()
    old, new = socket("old"), socket("new")
    registry.add(old)
    registry.add(new)
    assert registry.remove(old)
    assert list(registry.of(KEY)) == [new]
    assert not registry.remove(old), "a second clean-up of the same socket changes nothing"
    assert list(registry.of(KEY)) == [new]
    assert len(registry) == 1


def test_a_user_who_leaves_with_one_bot_is_still_known_by_the_others() -> None:
    registry = Registry()
    sockets = [socket(bot, BotKey("user", bot)) for bot in ("a", "b", "c")]
    for one in sockets:
        registry.add(one)
    registry.remove(sockets[0])
    assert registry.keys_of("user") == ("b", "c")
    assert registry.why_missing(sockets[0].key).keys == ("b", "c")
    registry.remove(sockets[1])
    registry.remove(sockets[2])
    assert registry.keys_of("user") == ()


def test_another_socket_with_the_same_sid_is_not_removed_by_the_first() -> None:
    registry = Registry()
    first, second = socket("sid"), socket("sid")
    registry.add(first)
    registry.add(second)
    assert not registry.remove(first)
    assert list(registry.of(KEY)) == [second]
    assert len(registry) == 1


def test_the_reason_of_a_miss_by_age() -> None:
    clock = Clock()
    registry = Registry(clock)
    assert registry.why_missing(KEY) == Miss(MissReason.NEVER_CONNECTED)
    peer = socket("sid")
    registry.add(peer)
    registry.remove(peer)
    assert registry.why_missing(KEY).reason is MissReason.JUST_DISCONNECTED
    clock.now += module.JUST_DISCONNECTED
    assert registry.why_missing(KEY).reason is MissReason.JUST_DISCONNECTED
    clock.now += 0.1
    assert registry.why_missing(KEY).reason is MissReason.DISCONNECTED
    clock.now += module.KEY_RETENTION
    assert registry.why_missing(KEY).reason is MissReason.NEVER_CONNECTED


def test_a_user_connected_under_another_bot_is_a_mismatch_whatever_was_before() -> None:
    registry = Registry()
    gone = socket("gone")
    registry.add(gone)
    registry.remove(gone)
    registry.add(socket("one", BotKey("user", "b2")))
    registry.add(socket("two", BotKey("user", "b1")))
    registry.add(socket("else", BotKey("somebody", "bot")))
    assert registry.why_missing(KEY) == Miss(MissReason.KEY_MISMATCH, ("b1", "b2"))
    linked = {BotKey("user", "b1")}
    registry.has_link = linked.__contains__
    assert registry.why_missing(KEY).reason is MissReason.KEY_MISMATCH, "one page is under a bot that nobody linked"
    linked.add(BotKey("user", "b2"))
    assert registry.why_missing(KEY) == Miss(MissReason.OTHER_BOT_CONNECTED, ("b1", "b2"))
    assert registry.why_missing(BotKey("user", "user")).reason is MissReason.KEY_MISMATCH


def test_what_the_registry_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_KEYS", 3)
    registry = Registry()
    for number in range(10):
        peer = socket("sid", BotKey("user", str(number)))
        registry.add(peer)
        registry.remove(peer)
    assert registry.view().totals.remembered_keys == 3
    assert registry.why_missing(BotKey("user", "0")).reason is MissReason.NEVER_CONNECTED
    assert registry.why_missing(BotKey("user", "9")).reason is MissReason.JUST_DISCONNECTED
    for number in range(2 * module.REMEMBERED_MISSES):
        registry.missed(KEY, "whatsapp_qr", str(number), Miss(MissReason.DISCONNECTED))
    misses = registry.view().misses
    assert len(misses) == module.REMEMBERED_MISSES
    assert misses[0].event_id == str(2 * module.REMEMBERED_MISSES - 1), "the newest comes first"


def test_the_view_shows_each_keys_sockets() -> None:
    clock = Clock()
    registry = Registry(clock)
    registry.add(socket("one"))
    registry.add(socket("two"))
    view = registry.view()
    assert (view.totals.sockets, view.totals.mapped_keys, view.totals.users) == (2, 1, 1)
    [key] = view.keys
    assert [(s.sid, s.transport, s.age) for s in key.sockets] == [
        ("one", "websocket", 10.0),
        ("two", "websocket", 10.0),
    ]
    assert registry.by_transport() == {"websocket": 2}


def test_the_reason_of_a_miss_by_age_in_seconds() -> None:
    clock = Clock()
    registry = Registry(clock)
    peer = socket("sid")
    registry.add(peer)
    registry.remove(peer)
    reasons = []
    for age in (30.0, 31.0, 86_400.0, 86_401.0):
        clock.now = 1000.0 + age
        reasons.append(registry.why_missing(KEY).reason)
    assert reasons == [
        MissReason.JUST_DISCONNECTED,
        MissReason.DISCONNECTED,
        MissReason.DISCONNECTED,
        MissReason.NEVER_CONNECTED,
    ]


def test_twenty_thousand_keys_and_a_hundred_misses_are_remembered() -> None:
    registry = Registry(Clock())
    for number in range(20_005):
        peer = socket("sid", BotKey("user", str(number)))
        registry.add(peer)
        registry.remove(peer)
    assert registry.view().totals.remembered_keys == 20_000
    for number in range(101):
        registry.missed(KEY, "whatsapp_qr", str(number), Miss(MissReason.DISCONNECTED, ("other",)))
    misses = registry.view().misses
    assert [miss.event_id for miss in misses] == [str(number) for number in range(100, 0, -1)]
    assert (misses[0].looked_for, misses[0].connected, misses[0].type) == (("user", "bot"), ("other",), "whatsapp_qr")


def test_what_left_long_ago_is_forgotten_by_the_next_that_leaves() -> None:
    clock = Clock()
    registry = Registry(clock)
    for number, at in enumerate((0.0, 10.0, 86_405.0)):
        clock.now = 1000.0 + at
        peer = socket("sid", BotKey("user", str(number)))
        registry.add(peer)
        registry.remove(peer)
    assert registry.view().totals.remembered_keys == 2


def test_a_miss_has_its_moment_in_milliseconds_and_an_age_its_thousandths(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    registry = Registry(clock)
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_123_999_999)
    registry.missed(KEY, "whatsapp_qr", "1", Miss(MissReason.DISCONNECTED))
    assert registry.view().misses[0].at == "2027-01-15T08:00:00.123Z"
    registry.add(socket("sid"))
    clock.now = 1000.123_456
    assert registry.view().keys[0].sockets[0].age == 10.123
