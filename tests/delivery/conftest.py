"""The fixtures of the tests of delivery."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.delivery.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.courier.close()
    made.loop.run(made.outbox.close())
    made.loop.close()
