"""What links share: accounts under several bots, and the version that WhatsApp refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roundtrip.backoff import Backoff
from roundtrip.identity import BotKey
from roundtrip.links.context import LinkContext
from roundtrip.links.policy import Bans
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.store import LinkStore
from tests.support.links import KEY, OTHER, PHONE, FakeClock, FakeDriver, FakePublisher, RecordingMetrics, settings

MINE = BotKey.parse(KEY.user_id, "second")
NEW_PLAN, OLD_PLAN = "+5511987654321", "+551187654321"


def make_context(folder: Path, notified: list[BotKey]) -> LinkContext:
    clock, driver, store = FakeClock(), FakeDriver(), LinkStore(folder)
    start_slots, bans = StartSlots(1), Bans(clock)
    return LinkContext(
        driver,
        FakePublisher(),
        store,
        RecordingMetrics(),
        settings(folder, outdated_retry=100.0),
        clock,
        start_slots,
        Backoff(1.0, 2.0),
        lambda _: None,
        notified.append,
        bans,
        Removals(driver, store, clock, start_slots, bans),
    )


def test_keys_of_an_account_are_notified_when_another_gets_or_loses_it(tmp_path: Path) -> None:
    notified: list[BotKey] = []
    shared = make_context(tmp_path, notified)
    shared.claim(NEW_PLAN, KEY)
    shared.claim(NEW_PLAN, KEY)
    assert notified == []
    assert not shared.linked_elsewhere(NEW_PLAN, KEY)
    shared.claim(OLD_PLAN, OTHER)  # the same account, written the old way
    assert notified == [KEY]
    assert shared.linked_elsewhere(OLD_PLAN, KEY)
    assert shared.linked_elsewhere(NEW_PLAN, OTHER)
    shared.claim(OLD_PLAN, OTHER)
    assert notified == [KEY], "no change, no notification"
    shared.release(NEW_PLAN, OTHER)
    assert notified == [KEY, KEY]
    assert not shared.linked_elsewhere(NEW_PLAN, KEY)
    assert shared.linked_elsewhere(NEW_PLAN, OTHER), "the first key has it as before"
    shared.release(NEW_PLAN, KEY)
    assert shared.accounts == {}, "an account without a key leaves nothing behind"
    shared.release(NEW_PLAN, KEY)
    shared.release(None, KEY)
    assert notified == [KEY, KEY]


def test_own_counts_only_keys_of_the_same_user(tmp_path: Path) -> None:
    shared = make_context(tmp_path, [])
    shared.claim(PHONE, KEY)
    assert shared.linked_elsewhere(PHONE, MINE)
    assert shared.linked_elsewhere(PHONE, MINE, own=True)
    assert shared.linked_elsewhere(PHONE, OTHER)
    assert not shared.linked_elsewhere(PHONE, OTHER, own=True)
    assert not shared.linked_elsewhere(PHONE, KEY, own=True)
    assert not shared.linked_elsewhere(None, OTHER)
    assert not shared.linked_elsewhere("+14155550199", OTHER)


def test_while_a_version_is_refused_one_start_per_period_probes_it(tmp_path: Path) -> None:
    shared = make_context(tmp_path, [])
    assert shared.may_start(0.0)
    assert shared.may_start(0.0)
    assert not shared.starts_blocked(0.0)
    shared.version_refused(0.0)
    assert shared.starts_blocked(99.9)
    assert not shared.may_start(99.9)
    assert not shared.starts_blocked(100.0)
    assert shared.may_start(100.0)
    assert not shared.may_start(100.0), "one"
    assert shared.starts_blocked(199.9)
    assert shared.may_start(200.0)
    shared.version_refused(250.0)
    assert shared.starts_blocked(349.9)
    assert not shared.starts_blocked(350.0)
    shared.outdated = False
    assert not shared.starts_blocked(260.0)
    assert shared.may_start(260.0)


def test_two_contexts_do_not_share_accounts(tmp_path: Path) -> None:
    one = make_context(tmp_path, [])
    other = replace(one, accounts={})
    one.claim(PHONE, KEY)
    assert other.accounts == {}
