"""Bans by phone number: in every writing of it, and by the monotonic clock."""

from __future__ import annotations

from roundtrip.links.policy import Ban, Bans
from tests.support.links import PHONE, FakeClock

NEW_PLAN, OLD_PLAN = "+5511987654321", "+551187654321"


async def test_a_ban_holds_for_every_form_of_a_number_and_ends_on_the_monotonic_clock() -> None:
    clock = FakeClock()
    bans = Bans(clock)
    now = clock.now()
    ban = Ban(101, now, now + 50.0, now + 50.0)
    assert (bans.of(None), bans.left(None), bans.of(NEW_PLAN), bans.left(NEW_PLAN)) == (None, 0.0, None, 0.0)
    assert not bans.lift(NEW_PLAN)
    bans.add(NEW_PLAN, ban)
    assert (bans.of(OLD_PLAN), bans.left(OLD_PLAN)) == (ban, 50.0)
    assert bans.of(PHONE) is None
    clock.step(1e6)
    assert bans.left(NEW_PLAN) == 50.0
    clock.step(-2e6)
    await clock.advance(49.0)
    assert (bans.of(NEW_PLAN), bans.left(NEW_PLAN)) == (ban, 1.0)
    await clock.advance(1.0)
    assert (bans.of(NEW_PLAN), bans.left(NEW_PLAN)) == (None, 0.0)
    await clock.advance(5.0)
    assert bans.left(NEW_PLAN) == 0.0
    bans.add(NEW_PLAN, ban._replace(over=clock.now() + 10.0, since=clock.now()))
    assert bans.lift(OLD_PLAN)
    assert bans.of(NEW_PLAN) is None
    assert not bans.lift(OLD_PLAN)
