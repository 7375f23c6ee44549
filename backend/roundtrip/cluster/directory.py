"""Every link's key and account, whichever node has it: some callers cannot wait for the store's answer.

Read whole at the start, then what changed: when another node says so, and now and then. A link's row is never deleted
once it had a record, so nothing has to be taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from roundtrip.cluster.tables import Tables
from roundtrip.identity import BotKey

OVERLAP: Final = timedelta(seconds=15)
"""A change is dated before its transaction ends, which takes this long at most."""

_READ: Final = (
    "SELECT user_id, bot_id, CASE WHEN paired THEN record::json ->> 'phone_number' END AS phone, changed "
    "FROM links WHERE state <> 'idle' AND changed >= $1 ORDER BY changed"
)
_ALL: Final = _READ.replace("AND changed >= $1 ", "")


class Directory:
    """`refresh` raises `StoreError` when the store fails."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._phones: dict[BotKey, str | None] = {}
        self._newest: Any = None
        self.on_account: Callable[[BotKey, str | None, str | None], None] = lambda _key, _old, _new: None
        """Called with a key whose paired phone number is another than before."""

    def __contains__(self, key: BotKey) -> bool:
        return key in self._phones

    async def refresh(self) -> None:
        """Take in what changed since the last call."""
        rows = await (
            self._tables.read(_ALL) if self._newest is None else self._tables.read(_READ, self._newest - OVERLAP)
        )
        for user_id, bot_id, phone, changed in rows:
            key = BotKey(user_id, bot_id)
            before = self._phones.get(key)
            self._phones[key] = phone
            self._newest = changed
            if before != phone:
                self.on_account(key, before, phone)
