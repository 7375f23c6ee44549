"""Expiry and renewal of tokens, and the counts of `SocketAccess`, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from roundtrip.clock import rfc3339
from roundtrip.identity import BotKey, IdentityError, Principal
from roundtrip.limits.rates import Limits, Rate, Rules
from roundtrip.sockets.access import Handshake, Refusal, SocketAccess
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop


class FakePeer:
    """As much of a peer as a doorkeeper looks at."""

    must_ack = True

    def __init__(self, sid: str, expires_at: float | None, user: str = "user") -> None:
        self.sid = sid
        self.expires_at = expires_at
        self.key = BotKey(user, "bot")
        self.notifications: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.broken = False
        self.connection = SimpleNamespace(end=self._end)

    def send(self, frame: Any) -> None:
        if self.broken:
            raise RuntimeError("cannot")
        event, data = json.loads(frame.payload[2:])
        assert event == "auth_expired"
        self.notifications.append(data)

    async def _end(self, reason: str) -> None:
        if self.broken:
            raise RuntimeError("cannot")
        self.ended.append(reason)


async def test_an_expired_token_is_followed_by_thirty_seconds_of_grace() -> None:
    clock = SteppedClock()
    access = SocketAccess(now=clock.wall)
    lasting, never, going = FakePeer("a", clock.wall() + 100.0), FakePeer("b", None), FakePeer("c", clock.wall() + 10.0)
    members: Any = [lasting, never, going]

    async def after(seconds: float) -> None:
        clock.advance(seconds)
        await access.check_expiry(members)

    await after(9.5)
    assert going.notifications == []
    await after(0.5)
    assert going.notifications == [{"graceSeconds": 30.0}], "to the second, the moment itself included"
    await after(12.25)
    assert len(going.notifications) == 1
    await after(17.5)
    assert going.ended == []
    await after(0.25)
    assert going.ended == ["token_expired"]
    assert (never.notifications, lasting.notifications, never.ended, lasting.ended) == ([], [], [], [])


async def test_a_late_auth_expired_names_the_rest_of_the_grace() -> None:
    clock = SteppedClock()
    access = SocketAccess(now=clock.wall, grace=20.0)
    it: Any = FakePeer("a", clock.wall() - 7.75)
    await access.check_expiry([it])
    assert it.notifications == [{"graceSeconds": 12.2}]
    late: Any = FakePeer("b", clock.wall() - 20.0)
    await access.check_expiry([late])
    assert (late.notifications, late.ended) == ([], ["token_expired"])


async def test_a_failure_with_one_socket_is_counted_and_retried_and_stops_no_other() -> None:
    clock = SteppedClock()
    access = SocketAccess(now=clock.wall)
    failures: list[int] = []
    access.on_failure = lambda: failures.append(1)
    broken, other = FakePeer("a", clock.wall()), FakePeer("b", clock.wall())
    broken.broken = True
    members: Any = [broken, other]
    await access.check_expiry(members)
    assert (len(failures), len(other.notifications)) == (1, 1)
    broken.broken = False
    await access.check_expiry(members)
    assert (len(failures), len(broken.notifications), len(other.notifications)) == (1, 1, 1)
    broken.broken = True
    clock.advance(31.0)
    await access.check_expiry(members)
    assert (len(failures), other.ended) == (2, ["token_expired"])
    broken.broken = False
    await access.check_expiry([members[0]])
    assert broken.ended == ["token_expired"]


async def test_a_renewal_counts_from_the_fresh_token() -> None:
    clock = SteppedClock()
    handshakes: list[Handshake] = []

    async def identify(handshake: Handshake) -> Principal:
        handshakes.append(handshake)
        return Principal("user", clock.wall() + 60.0)

    access = SocketAccess(identify, now=clock.wall)
    it: Any = FakePeer("a", clock.wall())
    await access.check_expiry([it])
    answer = await access.renew(it, {"token": "fresh"})
    assert (answer.ok, answer.expires_at, answer.code) == (True, rfc3339(clock.wall() + 60.0), None)
    assert it.expires_at == clock.wall() + 60.0
    assert handshakes == [Handshake("fresh", "user", "bot", True, None, "")]
    await access.check_expiry([it])
    assert len(it.notifications) == 1
    clock.advance(60.0)
    await access.check_expiry([it])
    assert len(it.notifications) == 2, "the fresh one runs out as well"


async def test_a_new_socket_with_the_same_sid_is_notified_again() -> None:
    clock = SteppedClock()
    access = SocketAccess(now=clock.wall)
    it: Any = FakePeer("a", clock.wall())
    await access.check_expiry([it])
    access.release(it)
    await access.check_expiry([it])
    assert len(it.notifications) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("unauthorized", "No."), "unauthorized"),
        (IdentityError("user_id_invalid", "No."), "user_id_invalid"),
        (TimeoutError(), "unavailable"),
        (None, "forbidden"),
    ],
    ids=str,
)
async def test_a_renewal_that_fails_leaves_the_old_token(error: Exception | None, code: str) -> None:
    async def identify(_handshake: Handshake) -> Principal:
        if error is not None:
            raise error
        return Principal("somebody else", 9e9)

    it: Any = FakePeer("a", 100.0)
    answer = await SocketAccess(identify).renew(it, {"token": "x"})
    assert (answer.ok, answer.code, answer.expires_at) == (False, code, None)
    assert answer.message is not None
    assert answer.message.endswith(".")
    assert it.expires_at == 100.0


async def test_without_tokens_there_is_nothing_to_renew() -> None:
    it: Any = FakePeer("a", None)
    answer = await SocketAccess().renew(it, {"token": "x"})
    assert (answer.ok, answer.code) == (False, "unavailable")


def test_a_check_of_a_fresh_token_may_take_five_seconds(loop: SteppedLoop) -> None:
    async def never(_handshake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    it: Any = FakePeer("a", 100.0)
    renewing = loop.create_task(SocketAccess(never).renew(it, {"token": "x"}))
    loop.settle()
    loop.advance(4.9)
    assert not renewing.done()
    loop.advance(0.2)
    assert renewing.result().code == "unavailable"


async def test_sockets_are_released_and_message_rates_forgotten() -> None:
    limits = Limits(Rules(Rate(1, 1), Rate(1, 1), 1.0, 1, Rate(0.001, 2)), lambda _limit: None)
    access = SocketAccess(limits=limits)
    access.acquire("user")
    with pytest.raises(Refusal) as refused:
        access.acquire("user")
    assert refused.value.code == "too_many_sockets"
    it: Any = FakePeer("a", None)
    access.release(it)
    access.acquire("user")
    assert [await access.allowed("eio") for _ in range(3)] == [True, True, False]
    access.connection_closed("eio")
    assert await access.allowed("eio"), "another connection begins anew"
    free = SocketAccess()
    for _ in range(3):
        free.acquire("user")
    free.release(it)
    free.connection_closed("eio")
    assert await free.allowed("eio")
