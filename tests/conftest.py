"""What holds in all tests: an illegal change of a state is an error, not a logged refusal. And the PostgreSQL that the
tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roundtrip.sockets import peer
from tests.support import postgres as support

peer.STRICT = True


@pytest.fixture(scope="session")
def postgres() -> Iterator[support.Postgres]:
    """The session's server. A test that stops or slows it starts one of its own, with `support.server`."""
    with support.server() as running:
        yield running


@pytest.fixture
def database(postgres: support.Postgres) -> str:
    """The address of an empty database."""
    return postgres.url_of(postgres.empty_database())
