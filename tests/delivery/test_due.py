"""The goal of delivery, event by event: whose key had a socket, and was it confirmed in time? And what waits now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.label_sets import label_sets
from roundtrip.telemetry.metrics import Metrics
from tests.delivery.stage import ACK_TIMEOUT, TTL, Stage


class Counted(Stage):
    """A stage whose events are counted in the catalogue's own metrics."""

    def __init__(self) -> None:
        self.catalogue = Metrics(label_sets(), "test")
        super().__init__(DeliveryCounters(self.catalogue, lambda _parent, _kept: None, ack_timeout=ACK_TIMEOUT))

    @property
    def due(self) -> int:
        return int(self.catalogue.due.value)

    @property
    def overdue(self) -> dict[str, int]:
        return {cause: int(counter.value) for cause, counter in self.catalogue.overdue.items() if counter.value}

    @property
    def longest_wait(self) -> float:
        return self.courier.longest_wait()


@contextmanager
def counted() -> Iterator[Counted]:
    stage = Counted()
    with closing(stage.loop):
        yield stage
        stage.call(stage.courier.close)


@pytest.fixture
def stage() -> Iterator[Counted]:
    with counted() as made:
        yield made


def test_an_event_that_is_confirmed_at_once_was_due_and_in_time(stage: Counted) -> None:
    one = stage.join()
    stage.publish()
    one.ack(1)
    assert (stage.due, stage.overdue, stage.longest_wait) == (1, {}, 0.0)


def test_an_event_for_nobody_is_not_due_however_long_it_waits(stage: Counted) -> None:
    stage.publish()
    stage.pass_time(TTL / 2)
    assert (stage.due, stage.overdue, stage.longest_wait) == (0, {}, 0.0)


def test_an_event_for_somebody_who_comes_later_is_due_from_then_on(stage: Counted) -> None:
    stage.publish()
    stage.pass_time(TTL / 2)
    one = stage.join()
    stage.pass_time(1.0)
    assert 1.0 <= stage.longest_wait < 1.5
    one.ack(1)
    assert (stage.due, stage.overdue, stage.longest_wait) == (1, {}, 0.0)


def test_an_event_that_nobody_confirms_is_overdue_once_and_at_the_timeout(stage: Counted) -> None:
    one = stage.join()
    stage.publish()
    stage.pass_time(ACK_TIMEOUT - 1)
    assert (stage.due, stage.overdue) == (0, {})
    stage.pass_time(ACK_TIMEOUT * 10)
    assert len(one.received_events) > 2, "it was tried again"
    assert (stage.due, stage.overdue) == (1, {"ack_timeout": 1})
    assert stage.longest_wait > ACK_TIMEOUT * 10
    one.ack(1)
    assert (stage.due, stage.overdue, stage.longest_wait) == (1, {"ack_timeout": 1}, 0.0)


def test_it_stays_counted_once_for_a_socket_that_comes_later(stage: Counted) -> None:
    one = stage.join()
    stage.publish()
    stage.pass_time(ACK_TIMEOUT + 1)
    one.leave()
    stage.pass_time(1.0)
    assert stage.longest_wait == 0.0
    stage.join("two").ack(1)
    assert (stage.due, stage.overdue) == (1, {"ack_timeout": 1})


def test_an_event_whose_page_goes_away_at_once_was_not_due(stage: Counted) -> None:
    one = stage.join()
    stage.publish()
    stage.pass_time(1.0)
    one.leave()
    stage.pass_time(ACK_TIMEOUT * 2)
    assert (stage.due, stage.overdue, stage.longest_wait) == (0, {}, 0.0)


def test_a_replay_that_takes_its_time_makes_its_event_late(stage: Counted) -> None:
    slow = stage.join_slowly()
    stage.pass_time(ACK_TIMEOUT + 2)
    assert stage.longest_wait > ACK_TIMEOUT
    slow.backlog = 0
    stage.pass_time(0.1)
    slow.ack(1)
    stage.pass_time(0.1)
    assert (stage.due, stage.overdue, stage.longest_wait) == (1, {"late": 1}, 0.0)


def test_a_clock_that_is_set_makes_nothing_late(stage: Counted) -> None:
    one = stage.join()
    stage.publish()
    stage.clock.step(3600.0)
    stage.pass_time(2.0)
    assert stage.longest_wait < 3.0
    one.ack(1)
    assert (stage.due, stage.overdue) == (1, {})
