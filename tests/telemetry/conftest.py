"""Scenes: a courier with a recorder of spans, for tests that read the spans of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.traces import Scene, scenes


@pytest.fixture
def new_scene() -> Iterator[Callable[..., Scene]]:
    with scenes() as made:
        yield made
