"""What links share: accounts under several bots, bans, the version that is refused, turns."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff
from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban, Bans
from roundtrip.links.ports import NoMetrics
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.shared import LinkContext
from roundtrip.links.store import LinkStore
from tests.links.helpers import KEY, OTHER, PHONE, FakeClock, FakeDriver, FakePublisher, settings

MINE = BotKey.parse(KEY.user_id, "second")
NEW_PLAN, OLD_PLAN = "+5511987654321", "+551187654321"


def context(folder: Path, told: list[BotKey]) -> LinkContext:
    clock, driver, store = FakeClock(), FakeDriver(), LinkStore(folder)
    turns, bans = StartSlots(1), Bans(clock)
    return LinkContext(
        driver,
        FakePublisher(),
        store,
        NoMetrics(),
        settings(folder, outdated_retry=100.0),
        clock,
        turns,
        Backoff(1.0, 2.0),
        lambda _: None,
        told.append,
        bans,
        Removals(driver, store, clock, turns, bans),
    )


def test_whoever_has_an_account_is_told_of_others_that_get_or_lose_it(tmp_path: Path) -> None:
    told: list[BotKey] = []
    shared = context(tmp_path, told)
    shared.claim(NEW_PLAN, KEY)
    shared.claim(NEW_PLAN, KEY)
    assert told == []
    assert not shared.elsewhere(NEW_PLAN, KEY)
    shared.claim(OLD_PLAN, OTHER)  # the same account, written the old way
    assert told == [KEY]
    assert shared.elsewhere(OLD_PLAN, KEY)
    assert shared.elsewhere(NEW_PLAN, OTHER)
    shared.claim(OLD_PLAN, OTHER)
    assert told == [KEY], "no news"
    shared.release(NEW_PLAN, OTHER)
    assert told == [KEY, KEY]
    assert not shared.elsewhere(NEW_PLAN, KEY)
    shared.release(NEW_PLAN, KEY)
    assert shared.accounts == {}, "nothing is kept of an account that nobody has"
    shared.release(NEW_PLAN, KEY)
    shared.release(None, KEY)
    assert told == [KEY, KEY]


def test_whose_number_it_is_is_its_users_business(tmp_path: Path) -> None:
    shared = context(tmp_path, [])
    shared.claim(PHONE, KEY)
    assert shared.elsewhere(PHONE, MINE)
    assert shared.elsewhere(PHONE, MINE, own=True)
    assert shared.elsewhere(PHONE, OTHER)
    assert not shared.elsewhere(PHONE, OTHER, own=True)
    assert not shared.elsewhere(PHONE, KEY, own=True)
    assert not shared.elsewhere(None, OTHER)
    assert not shared.elsewhere("+14155550199", OTHER)


def test_while_a_version_is_refused_one_start_now_and_then_finds_out(tmp_path: Path) -> None:
    shared = context(tmp_path, [])
    assert shared.may_start(0.0)
    assert shared.may_start(0.0)
    assert not shared.closed(0.0)
    shared.refused(0.0)
    assert shared.closed(99.9)
    assert not shared.may_start(99.9)
    assert not shared.closed(100.0)
    assert shared.may_start(100.0)
    assert not shared.may_start(100.0), "one"
    assert shared.closed(199.9)
    assert shared.may_start(200.0)
    shared.refused(250.0)
    assert shared.closed(349.9)
    assert not shared.closed(350.0)
    shared.outdated = False
    assert not shared.closed(260.0)
    assert shared.may_start(260.0)


async def test_a_ban_is_a_numbers_and_is_measured_on_the_clock_that_nobody_sets() -> None:
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
    await clock.pass_(49.0)
    assert (bans.of(NEW_PLAN), bans.left(NEW_PLAN)) == (ban, 1.0)
    await clock.pass_(1.0)
    assert (bans.of(NEW_PLAN), bans.left(NEW_PLAN)) == (None, 0.0)
    await clock.pass_(5.0)
    assert bans.left(NEW_PLAN) == 0.0
    bans.add(NEW_PLAN, ban._replace(over=clock.now() + 10.0, since=clock.now()))
    assert bans.lift(OLD_PLAN)
    assert bans.of(NEW_PLAN) is None
    assert not bans.lift(OLD_PLAN)


def test_what_two_houses_know_is_not_mixed(tmp_path: Path) -> None:
    one = context(tmp_path, [])
    other = replace(one, accounts={})
    one.claim(PHONE, KEY)
    assert other.accounts == {}


class Crowd:
    """Users that come, hold their turn, and go; never more than allowed, and nobody behind another's flood."""

    def __init__(self, limit: int) -> None:
        self.turns = StartSlots(limit)
        self.inside: list[str] = []
        self.order: list[str] = []
        self.goes: list[tuple[str, asyncio.Event]] = []

    async def come(self, user: str, go: asyncio.Event) -> None:
        async with self.turns.slot(user):
            self.inside.append(user)
            self.order.append(user)
            try:
                await go.wait()
            finally:
                self.inside.remove(user)

    def send(self, user: str) -> tuple[asyncio.Task[None], asyncio.Event]:
        go = asyncio.Event()
        return asyncio.create_task(self.come(user, go)), go


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_users_take_turns_and_within_a_user_the_first_is_first() -> None:
    crowd = Crowd(1)
    sent = [(user, *crowd.send(user)) for user in ("a", "a", "a", "b", "b", "c")]
    await settle()
    assert crowd.inside == ["a", "b"], "the limit, and one more for a user that has none under way"
    for _ in range(6):
        next(go for user, task, go in sent if user == crowd.inside[0] and not go.is_set()).set()
        await settle()
        if not crowd.inside:
            break
    await asyncio.gather(*(task for _, task, _ in sent))
    assert crowd.order == ["a", "b", "a", "b", "c", "a"], "whoever had a turn waits behind the others"


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["come", "go", "give up"])), max_size=40),
)
def test_turns_never_pass_the_limit_and_none_is_lost(limit: int, acts: list[tuple[str, str]]) -> None:
    async def play() -> None:
        crowd = Crowd(limit)
        sent: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []
        for user, act in acts:
            mine = [(task, go) for name, task, go in sent if name == user and not task.done() and not go.is_set()]
            if act == "come":
                sent.append((user, *crowd.send(user)))
            elif mine and act == "go":
                mine[0][1].set()
            elif mine:
                mine[-1][0].cancel()
            await settle()
            waiting = {
                name for name, task, go in sent if not task.done() and crowd.inside.count(name) < held(sent, name)
            }
            assert len(crowd.inside) <= limit + 1
            if len(crowd.inside) < limit:
                assert not waiting, "nobody waits while there is room"
            assert not {name for name in waiting if name not in crowd.inside} or len(crowd.inside) > limit
        for _, _, go in sent:
            go.set()
        await asyncio.gather(*(task for _, task, _ in sent), return_exceptions=True)
        assert crowd.inside == []
        async with asyncio.timeout(1), crowd.turns.slot("last"):
            pass
        assert not crowd.turns._waiting
        assert not crowd.turns._held

    asyncio.run(play())


def held(sent: list[tuple[str, asyncio.Task[None], asyncio.Event]], user: str) -> int:
    return sum(name == user and not task.done() for name, task, _ in sent)


@pytest.mark.parametrize("limit", [1, 2])
async def test_who_is_let_in_and_gives_up_in_the_same_breath_leaves_the_turn(limit: int) -> None:
    crowd = Crowd(limit)
    first = [crowd.send("a") for _ in range(limit)]
    await settle()
    waiting = asyncio.create_task(crowd.come("a", asyncio.Event()))
    await settle()
    first[0][1].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    for task, go in first:
        go.set()
        await settle()
        assert task.done()
    await settle()
    async with asyncio.timeout(1), crowd.turns.slot("a"):
        pass
