"""Directed beginnings: each reaches branches that chance alone rarely does, and the search goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.model.answers import Answers
from tests.model.clients import Clients
from tests.model.people import KEYS


class Rules(Clients, Answers):
    """What openings are made of."""


def supersession(path: Rules) -> None:
    path.publish(key=KEYS[0], kind="qr")
    path.publish(key=KEYS[0], kind="connected")


def expiry(path: Rules) -> None:
    path.publish(key=KEYS[1], kind="connected")
    path.time_passes(seconds=70.0)


def tokens(path: Rules) -> None:
    path.token_runs_out(key=KEYS[0], seconds=16.0, polling=False)
    path.token_runs_out(key=KEYS[1], seconds=27.0, polling=False)


def misses(path: Rules) -> None:
    path.publish(key=KEYS[2], kind="degraded")
    path.everybody_leaves(key=KEYS[2], how="hang_up", seconds=0.0)
    path.everybody_leaves(key=KEYS[2], how="leave", seconds=31.0)
    path.connect(key=KEYS[0], acks=False, polling=True, life=None)
    path.publish(key=KEYS[1], kind="paired")


def outages(path: Rules) -> None:
    path.acknowledge_while_the_outbox_is_down(key=KEYS[0], kind="qr", crash=False)
    path.outage()
    path.publish(key=KEYS[0], kind="connected")
    path.outage_ends()


def restarts(path: Rules) -> None:
    path.publish(key=KEYS[0], kind="connected")
    path.restart(crash=False)
    path.restart(crash=True)
    path.connect(key=KEYS[0], acks=True, polling=False, life=None)


def slow_readers(path: Rules) -> None:
    path.replay_to_a_slow_reader(key=KEYS[0], acks=True, more=5)
    path.overwhelm(key=KEYS[2], acks=True)


def overflow(path: Rules) -> None:
    path.connect_while_events_flow(key=KEYS[0], acks=True, at="pending", count=5, slow=False)
    path.connect_while_events_flow(key=KEYS[1], acks=True, at="last_seq", count=1_001, slow=False)


def silence(path: Rules) -> None:
    path.promise_and_not_acknowledge(key=KEYS[0], seconds=6.0, pongs=True)
    path.promise_and_not_acknowledge(key=KEYS[1], seconds=25.0, pongs=False)


def late_answers(path: Rules) -> None:
    path.acknowledge_late(key=KEYS[0], seconds=3.0, slow_store=False)
    path.publish(key=KEYS[0], kind="paired")
    path.time_passes(seconds=2.5)


def changes(path: Rules) -> None:
    path.connect_and_upgrade(key=KEYS[0], acks=True, during=2)
    path.connect(key=KEYS[0], acks=True, polling=False, life=None)
    path.change_identity(who=0, key=KEYS[2], acks=True, pause=False)


def clocks(path: Rules) -> None:
    path.publish(key=KEYS[0], kind="connecting")
    path.the_clock_is_set(seconds=90.0, key=KEYS[0], kind="connected")
    path.the_clock_is_set(seconds=-3600.0, key=KEYS[0], kind=None)


OPENINGS: Final[dict[str, Callable[[Rules], None]]] = {
    opening.__name__: opening
    for opening in (
        supersession,
        expiry,
        tokens,
        misses,
        outages,
        restarts,
        slow_readers,
        overflow,
        silence,
        late_answers,
        changes,
        clocks,
    )
}
