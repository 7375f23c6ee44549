"""Starts at once: limited, fair between users, and none lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.links.session import StartSlots


class SlotUsers:
    """Starts of several users that take slots; `inside` are the users of those that hold one, in order."""

    def __init__(self, limit: int) -> None:
        self.slots = StartSlots(limit)
        self.inside: list[str] = []
        self.order: list[str] = []

    async def acquire(self, user: str, release: asyncio.Event) -> None:
        async with self.slots.slot(user):
            self.inside.append(user)
            self.order.append(user)
            try:
                await release.wait()
            finally:
                self.inside.remove(user)

    def spawn(self, user: str) -> tuple[asyncio.Task[None], asyncio.Event]:
        release = asyncio.Event()
        return asyncio.create_task(self.acquire(user, release)), release


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_users_take_turns_and_the_starts_of_one_user_keep_their_order() -> None:
    users = SlotUsers(1)
    spawned = [(user, *users.spawn(user)) for user in ("a", "a", "a", "b", "b", "c")]
    await settle()
    assert users.inside == ["a", "b"], "the limit, and one more for a user that has none under way"
    for _ in range(6):
        next(release for user, task, release in spawned if user == users.inside[0] and not release.is_set()).set()
        await settle()
        if not users.inside:
            break
    await asyncio.gather(*(task for _, task, _ in spawned))
    assert users.order == ["a", "b", "a", "b", "c", "a"], "a user that had a slot waits behind the others"


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["acquire", "release", "cancel"])), max_size=40),
)
def test_slots_never_exceed_the_limit_and_none_leaks(limit: int, actions: list[tuple[str, str]]) -> None:
    async def run() -> None:
        users = SlotUsers(limit)
        spawned: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []
        for user, action in actions:
            mine = [
                (task, release)
                for name, task, release in spawned
                if name == user and not task.done() and not release.is_set()
            ]
            if action == "acquire":
                spawned.append((user, *users.spawn(user)))
            elif mine and action == "release":
                mine[0][1].set()
            elif mine:
                mine[-1][0].cancel()
            await settle()
            waiting = {
                name
                for name, task, release in spawned
                if not task.done() and users.inside.count(name) < held(spawned, name)
            }
            assert len(users.inside) <= limit + 1
            if len(users.inside) < limit:
                assert not waiting, "no start waits while there is a free slot"
            assert not {name for name in waiting if name not in users.inside} or len(users.inside) > limit
        for _, _, release in spawned:
            release.set()
        await asyncio.gather(*(task for _, task, _ in spawned), return_exceptions=True)
        assert users.inside == []
        async with asyncio.timeout(10), users.slots.slot("last"):
            pass
        assert not users.slots._waiting
        assert not users.slots._held

    asyncio.run(run())


def held(spawned: list[tuple[str, asyncio.Task[None], asyncio.Event]], user: str) -> int:
    return sum(name == user and not task.done() for name, task, _ in spawned)


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_start_that_is_cancelled_as_it_gets_its_slot_releases_it(limit: int) -> None:
    users = SlotUsers(limit)
    first = [users.spawn("a") for _ in range(limit)]
    await settle()
    waiting = asyncio.create_task(users.acquire("a", asyncio.Event()))
    await settle()
    first[0][1].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    for task, release in first:
        release.set()
        await settle()
        assert task.done()
    await settle()
    async with asyncio.timeout(10), users.slots.slot("a"):
        pass
