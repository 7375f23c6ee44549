"""What the tests of the SQLite outbox share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from roundtrip.outbox.base import Outbox
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.drafts import KEY

Open: TypeAlias = Callable[..., Awaitable[SqliteOutbox]]
"""Opens an outbox in the test's folder, or in the one given, with the options of `SqliteOutbox`."""


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def seqs_are(outbox: Outbox, seqs: list[int]) -> bool:
    return [entry.seq for entry in await outbox.ledger(KEY, 0, 9)] == seqs
