"""A link whose connection comes and goes is published once, as flapping."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from roundtrip.drivers import base as d
from roundtrip.links.policy import FlapDamper
from roundtrip.links.record import LinkState
from tests.support.links import KEY, ONLINE, Stage, staged


async def lose_and_restore(stage: Stage, times: int, pause: float) -> None:
    for _ in range(times):
        await stage.report(d.Offline())
        await stage.clock.advance(pause)
        await stage.report(ONLINE)
        await stage.clock.advance(pause)


async def test_few_losses_are_published_one_by_one(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=3) as stage:
        await stage.connect()
        stage.publisher.published.clear()
        await lose_and_restore(stage, 3, 6.0)
        assert stage.publisher.types() == ["Disconnected", "Connected"] * 3


async def test_many_losses_are_published_once(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=3, flap_window=120.0, flap_calm=60.0) as stage:
        await stage.connect()
        stage.publisher.published.clear()
        await lose_and_restore(stage, 30, 6.0)
        assert stage.publisher.types() == ["Disconnected", "Connected"] * 3 + ["Degraded"]
        assert stage.metrics.flaps == 30
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.state, snapshot.reason_code) == (LinkState.DEGRADED, "flapping")
        (view,) = stage.service.links()
        assert (view.flaps, view.flapping) == (30, True)
        await stage.clock.advance(61.0)
        assert stage.publisher.types()[-2:] == ["Degraded", "Connected"]
        assert stage.service.snapshot(KEY).reason_code is None
        await lose_and_restore(stage, 1, 6.0)  # stable again: published again
        assert stage.publisher.types()[-2:] == ["Disconnected", "Connected"]


async def test_interruptions_within_the_grace_period_count_as_losses(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=3) as stage:
        await stage.connect()
        stage.publisher.published.clear()
        await lose_and_restore(stage, 10, 1.0)
        assert stage.publisher.types() == ["Degraded"]


async def test_flapping_that_ends_without_a_connection_is_published_as_disconnected(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=2, flap_calm=20.0) as stage:
        await stage.connect()
        await lose_and_restore(stage, 3, 1.0)
        await stage.report(d.Offline())
        stage.session().is_alive = False
        await stage.clock.advance(21.0)
        assert stage.publisher.types()[-2:] == ["Degraded", "Disconnected"]
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_the_end_of_a_flapping_link_is_published(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=2) as stage:
        await stage.connect()
        await lose_and_restore(stage, 3, 1.0)
        await stage.report(d.LoggedOutByPhone("401"))
        assert stage.publisher.types()[-2:] == ["Degraded", "LoggedOut"]
        assert not stage.service.links()[0].flapping


async def test_workers_that_crash_while_the_link_flaps_are_replaced(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=2, restart_limit=50, retry_cap=1.0) as stage:
        await stage.connect()
        for _ in range(6):
            await stage.report(d.WorkerDied(-9))
            await stage.clock.advance(1.1)
            await stage.report(ONLINE)
        assert len(stage.driver.sessions) == 7
        assert stage.publisher.types().count("Degraded") == 1
        assert "Disconnected" not in stage.publisher.types()


def test_losses_outside_the_window_do_not_add_up() -> None:
    damper = FlapDamper(limit=2, window=10.0)
    damper.restored(0.0)
    for n in range(20):
        assert not damper.lost(n * 6.0 + 1.0)
        assert damper.restored(n * 6.0 + 2.0)
    assert damper.flaps == 20
    assert not damper.flapping


def test_the_loss_beyond_the_limit_begins_it_once() -> None:
    damper = FlapDamper(limit=2, window=100.0)
    damper.restored(0.0)
    began = []
    for n in range(5):
        began.append(damper.lost(n + 0.1))
        assert not damper.lost(n + 0.2)  # lost is lost
        damper.restored(n + 0.5)
    assert began == [False, False, True, False, False]


def test_the_first_connection_is_no_flap() -> None:
    damper = FlapDamper(limit=2, window=100.0)
    assert not damper.restored(0.0)
    damper.lost(1.0)
    assert not damper.restored(200.0)  # back, but not soon
    assert damper.flaps == 0


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["lost", "came", "calm", "reset"]), st.integers(0, 8)), max_size=60),
)
def test_it_flaps_beyond_the_limit_within_the_window_whatever_the_order(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    window = 10
    damper = FlapDamper(limit, window)
    losses: list[int] = []
    now, online, flapping, flaps = 0, False, False, 0
    for step, passed in steps:
        now += passed
        recent = [loss for loss in losses if loss > now - window]
        if step == "lost":
            begins = online and not flapping and len(recent) + 1 > limit
            if online:
                losses.append(now)
            online, flapping = False, flapping or begins
            assert damper.lost(now) is begins
        elif step == "came":
            back = not online and bool(recent)
            online, flaps = True, flaps + back
            assert damper.restored(now) is back
        else:
            losses.clear()
            flapping = False
            online = online and step == "calm"
            (damper.clear if step == "calm" else damper.reset)()
        assert (damper.online, damper.flapping, damper.flaps) == (online, flapping, flaps)


async def test_the_end_of_a_flapping_link_resets_its_flaps(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=2) as stage:
        await stage.connect()
        await lose_and_restore(stage, 3, 1.0)
        assert stage.service.links()[0].flapping
        await stage.report(d.StreamReplaced())
        assert not stage.service.links()[0].flapping
        await stage.start()
        await stage.report(ONLINE)
        stage.publisher.published.clear()
        await lose_and_restore(stage, 2, 6.0)
        assert stage.publisher.types() == ["Disconnected", "Connected"] * 2, "published one by one again"


async def test_only_a_lost_or_restored_connection_restarts_the_calm_timer(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=1, flap_calm=60.0) as stage:
        await stage.connect()
        await lose_and_restore(stage, 2, 1.0)
        assert stage.service.links()[0].flapping
        await stage.clock.advance(30.0)
        await stage.report(d.KeepAliveLost(), d.KeepAliveRestored(), ONLINE)
        await stage.clock.advance(28.0)
        assert stage.service.links()[0].flapping
        await stage.clock.advance(1.1)
        assert not stage.service.links()[0].flapping
        assert stage.state() is LinkState.CONNECTED


async def test_flapping_that_ends_with_unanswered_pings_is_degraded_and_restarted(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=1, flap_calm=10.0, degraded_timeout=45.0) as stage:
        await stage.connect()
        await lose_and_restore(stage, 2, 1.0)
        await stage.report(d.KeepAliveLost())
        started = len(stage.driver.sessions)
        await stage.clock.advance(9.1)
        assert stage.service.snapshot(KEY).reason_code == "keepalive_lost"
        assert stage.state() is LinkState.DEGRADED
        await stage.clock.advance(36.5)
        assert len(stage.driver.sessions) == started + 1


async def test_flapping_replaces_the_grace_timer_by_the_calm_timer(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=1) as stage:
        await stage.connect()
        await stage.report(d.Offline(), ONLINE)
        assert stage.service.links()[0].deadlines == ()
        await stage.report(d.KeepAliveLost(), d.Offline())
        assert "calm" in stage.service.links()[0].deadlines
        assert "grace" not in stage.service.links()[0].deadlines
