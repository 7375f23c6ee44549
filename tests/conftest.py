"""What holds in all tests: an illegal change of a state is an error, not a logged refusal, and a marker that chooses a
part of `make test` stands where the part looks for it. And the PostgreSQL that the tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roundtrip.sockets import peer
from tests.support import postgres as support
from tools import run_tests

peer.STRICT = True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits longest begins first, else it ends last, with nothing left beside it. And a part collects only the
    files that name its marker: a test that got one from elsewhere would run nowhere."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("waits") if mark.args), default=0))
    named: dict[Path, set[str]] = {}
    for item in items:
        if item.path not in named:
            named[item.path] = run_tests.markers_named(item.path)
        marked = {mark.name for mark in item.iter_markers()} & run_tests.CHOOSING
        if missing := marked - named[item.path]:
            raise pytest.UsageError(f"{item.nodeid} has a marker that its file does not name: {', '.join(missing)}")
        if "alone" in marked and (marked != {"alone", "slow"}):
            raise pytest.UsageError(f"{item.nodeid} is alone: it is slow, too, and does not wait beside others")


@pytest.fixture(scope="session")
def postgres() -> Iterator[support.Postgres]:
    """The session's server. A test that stops or slows it starts one of its own, with `support.server`."""
    with support.server() as running:
        yield running


@pytest.fixture
def database(postgres: support.Postgres) -> str:
    """The address of an empty database."""
    return postgres.url_of(postgres.empty_database())
