"""The keys that the SQLite outbox has seen, and the newest `seq` of each."""

from __future__ import annotations

import sqlite3
from typing import Final

from backend.delivery.event_body import key_part
from backend.delivery.sqlite_schema import SEQ_BITS
from backend.delivery.sqlite_values import in_chunks
from backend.identity import BotKey

_LIMIT: Final = 50_000
_STORE: Final = "INSERT INTO keys VALUES {} ON CONFLICT (key_id) DO UPDATE SET last_seq = excluded.last_seq"


class KnownKey:
    """A key's number, its newest `seq`, and its part of the JSON.

    `may_be_pending` has a bit for every type of which an event may be pending: without it nothing need be looked for
    that a new event supersedes. `superseded_in` is the batch part that last superseded events of the key.
    """

    __slots__ = ("json", "key", "key_id", "last_seq", "may_be_pending", "superseded_in")

    def __init__(self, key_id: int, key: BotKey, last_seq: int) -> None:
        self.key_id = key_id
        self.key = key
        self.last_seq = last_seq
        self.json = key_part(key)
        self.may_be_pending = -1
        self.superseded_in = -1

    def ref(self, seq: int) -> int:
        """The row number of an event."""
        return self.key_id << SEQ_BITS | seq


class Keys:
    """A cache of the table `keys`, bounded. What it holds may be ahead of the table within a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_key: dict[BotKey, KnownKey] = {}
        self._by_id: dict[int, BotKey] = {}
        self._changed: dict[int, KnownKey] = {}
        self._next_id: int = db.execute("SELECT coalesce(max(key_id), 0) + 1 FROM keys").fetchone()[0]

    def find(self, key: BotKey) -> KnownKey | None:
        """A key that had an event before."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        row = self._db.execute(
            "SELECT key_id, last_seq FROM keys WHERE user_id = ? AND bot_id = ?", (key.user_id, key.bot_id)
        ).fetchone()
        if row is None:
            return None
        self._bound()
        return self._remember(KnownKey(row[0], key, row[1]))

    def advance(self, key: BotKey) -> KnownKey:
        """Give the key its next `seq`, in `last_seq`. It counts once `store` is committed."""
        known = self.find(key)
        if known is None:
            known = self._remember(KnownKey(self._next_id, key, 0))
            self._next_id += 1
        known.last_seq += 1
        self._changed[known.key_id] = known
        return known

    def store(self) -> None:
        """Write what `advance` changed."""
        rows = [
            value
            for known in self._changed.values()
            for value in (known.key_id, known.key.user_id, known.key.bot_id, known.last_seq)
        ]
        in_chunks(self._db, _STORE, 4, rows)

    def committed(self) -> None:
        """What was stored holds."""
        self._changed.clear()
        self._bound()

    def _bound(self) -> None:
        """Forget all when it is too much, but never what a transaction has yet to store."""
        if max(len(self._by_key), len(self._by_id)) > _LIMIT and not self._changed:
            self._by_key.clear()
            self._by_id.clear()

    def rolled_back(self) -> None:
        """Forget what was not stored after all."""
        for known in self._changed.values():
            self._by_key.pop(known.key, None)
            self._by_id.pop(known.key_id, None)
        self._changed.clear()

    def key_of(self, ref: int) -> BotKey:
        """Whose event a row is."""
        key_id = ref >> SEQ_BITS
        key = self._by_id.get(key_id)
        if key is None:
            user_id, bot_id = self._db.execute(
                "SELECT user_id, bot_id FROM keys WHERE key_id = ?", (key_id,)
            ).fetchone()
            self._bound()
            key = self._by_id[key_id] = BotKey(user_id, bot_id)
        return key

    def _remember(self, known: KnownKey) -> KnownKey:
        self._by_key[known.key] = known
        self._by_id[known.key_id] = known.key
        return known
