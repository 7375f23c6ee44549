"""Link records, removals, bans and key files in PostgreSQL: `links.storage.LinkStorage` over one database.

Each write is one transaction that asks for the node's fence first. One whose answer was lost is made again, which is
harmless: a record carries a version, and an older one never replaces a newer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
import structlog

from roundtrip.cluster.key_vault import KeyVault
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.events import LinkRow
from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban
from roundtrip.links.record import LinkRecord, Removal, store_name
from roundtrip.links.storage import StoreError
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.database import LOST, Database, Pool, reason
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

CONNECTIONS: Final = 4
TRIES: Final = 2
"""Of a write whose connection was lost."""

KEEP_EVERY: Final = 20.0
"""Seconds between two looks at the key files of accounts: what changed is stored, thus at most 30 s later."""

_SAVE: Final = "SELECT save_links_1($1, $2, $3, $4, $5, $6, $7)"
_SAVE_KEYS: Final = "SELECT save_key_file_1($1, $2, $3)"
_FENCE: Final = "SELECT require_fence_1($1, $2)"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LinkRecord).decode


class PostgresLinkStore:
    """A `LinkStorage`. The key files that the WhatsApp library has open are in `data_dir/sessions`."""

    def __init__(self, database: Database, lease: NodeLease, data_dir: Path, keep_every: float = KEEP_EVERY) -> None:
        self._pool = Pool(database, CONNECTIONS)
        self._lease = lease
        self._vault = KeyVault(data_dir)
        self._keep_every = keep_every
        self._paired: set[str] = set()
        """Links whose key files are stored."""
        self._version = 0
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> list[LinkRecord]:
        """As `LinkStorage.open`; brings back the key files that this data folder lacks, or has an old version of."""
        try:
            await asyncio.to_thread(self._vault.open)
        except OSError as error:
            raise StoreError(f"The folder of key files cannot be used: {error.strerror}.") from error
        rows = await self._read("SELECT record, version FROM links")
        self._version = max((row["version"] for row in rows), default=0)
        records = sorted((_decode(row["record"]) for row in rows), key=lambda record: record.started_at)
        wanted = {record.link_id for record in records if record.paired}
        wanted |= {removal.link_id for removal in await self.removals()}
        await asyncio.gather(*(self._bring_back(link_id) for link_id in wanted))
        self._keeper = asyncio.create_task(self._keep(), name="key-files")
        return records

    async def _bring_back(self, link_id: str) -> None:
        rows = await self._read("SELECT content, holder FROM key_files WHERE link_id = $1", link_id)
        if not rows:
            return
        self._paired.add(link_id)
        name, (content, holder) = store_name(link_id), rows[0]
        ours = holder == self._vault.holder and await self._vault.state(name) is KeyFileState.GOOD
        if ours:
            return  # the file itself, which is as new as the copy or newer
        try:
            await self._vault.put(name, content)
        except OSError as error:
            raise StoreError(f"The folder of key files cannot be used: {error.strerror}.") from error
        await self._write(lambda db: db.execute(_SAVE_KEYS, link_id, content, self._vault.holder))
        log.info("key_file_brought_back", link_id=link_id)

    async def save(self, record: LinkRecord) -> None:
        """As `LinkStorage.save`. An account's keys are stored in the transaction that says it is paired."""
        keys = None
        if record.paired and record.link_id not in self._paired:
            keys = await self._vault.read(record.store_name)
        row = [[value] for value in (*record.key, *self.row(record))]

        async def write(db: Any) -> None:
            await db.execute(_SAVE, *row)
            if keys is not None:
                await db.execute(_SAVE_KEYS, record.link_id, keys, self._vault.holder)

        try:
            await self._write(write)
        except StoreError:
            self._vault.forget(record.store_name)
            raise
        if keys is not None:
            self._paired.add(record.link_id)

    def row(self, record: LinkRecord) -> LinkRow:
        """As `LinkStorage.row`: the outbox commits it with the event."""
        self._version = version = max(self._version + 1, time.time_ns())
        return LinkRow(record.link_id, record.state.value, record.paired, _encode(record).decode(), version)

    async def delete(self, key: BotKey) -> None:
        """As `LinkStorage.delete`."""
        await self._write(lambda db: db.execute("DELETE FROM links WHERE user_id = $1 AND bot_id = $2", *key))

    async def check(self) -> None:
        """As `LinkStorage.check`."""
        await self._write(lambda db: db.execute("UPDATE links SET state = state WHERE false"))

    async def save_removal(self, removal: Removal) -> None:
        """As `LinkStorage.save_removal`."""
        row = (removal.link_id, *removal.key, removal.phone_number, removal.since, removal.until)
        await self._write(
            lambda db: db.execute(
                "INSERT INTO removals (link_id, user_id, bot_id, phone_number, since, until) "
                "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (link_id) DO UPDATE SET until = excluded.until",
                *row,
            )
        )

    async def delete_removal(self, link_id: str) -> None:
        """As `LinkStorage.delete_removal`."""
        await self._write(lambda db: db.execute("DELETE FROM removals WHERE link_id = $1", link_id))

    async def removals(self) -> list[Removal]:
        """As `LinkStorage.removals`."""
        rows = await self._read(
            "SELECT user_id, bot_id, link_id, phone_number, since, until FROM removals ORDER BY since"
        )
        return [Removal(BotKey(row[0], row[1]), *list(row)[2:]) for row in rows]

    async def save_ban(self, phone_number: str, ban: Ban) -> None:
        """As `LinkStorage.save_ban`."""
        await self._write(
            lambda db: db.execute(
                "INSERT INTO bans (phone_number, code, since, until, over) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (phone_number) DO UPDATE SET code = excluded.code, since = excluded.since, "
                "until = excluded.until, over = excluded.over",
                phone_number,
                *ban,
            )
        )

    async def delete_ban(self, phone_number: str) -> None:
        """As `LinkStorage.delete_ban`."""
        await self._write(lambda db: db.execute("DELETE FROM bans WHERE phone_number = $1", phone_number))

    async def bans(self, now: float) -> dict[str, Ban]:
        """As `LinkStorage.bans`."""
        await self._write(lambda db: db.execute("DELETE FROM bans WHERE over <= $1", now))
        rows = await self._read("SELECT phone_number, code, since, until, over FROM bans")
        return {row[0]: Ban(*list(row)[1:]) for row in rows}

    def key_file(self, link_id: str) -> Path:
        """As `LinkStorage.key_file`."""
        return self._vault.path(store_name(link_id))

    async def key_state(self, link_id: str) -> KeyFileState:
        """As `LinkStorage.key_state`."""
        return await self._vault.state(store_name(link_id))

    async def secure(self, link_id: str) -> None:
        """As `LinkStorage.secure`."""
        with suppress(OSError):
            await self._vault.secure(store_name(link_id))

    async def delete_keys(self, link_id: str) -> None:
        """As `LinkStorage.delete_keys`: in the database first, so that no start brings them back."""
        self._paired.discard(link_id)
        await self._write(lambda db: db.execute("DELETE FROM key_files WHERE link_id = $1", link_id))
        await self._vault.remove(store_name(link_id))

    async def sweep(self, keep: frozenset[str]) -> int:
        """As `LinkStorage.sweep`."""
        await self._write(lambda db: db.execute("DELETE FROM key_files WHERE link_id || '.db' <> ALL($1)", list(keep)))
        return await self._vault.sweep(keep)

    async def close(self) -> None:
        """As `LinkStorage.close`; stores what changed in key files since the last look."""
        if self._closed:
            return
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            await self._keep_changed()
        self._closed = True
        self._pool.close()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._keep_every)
            await self._keep_changed()

    async def _keep_changed(self) -> None:
        """Store the key files that changed."""
        for link_id in list(self._paired):
            name = store_name(link_id)
            if not await asyncio.to_thread(self._vault.changed, name):
                continue
            content = await self._vault.read(name)
            if content is None or link_id not in self._paired:
                continue
            try:
                await self._write(partial(_execute, _SAVE_KEYS, link_id, content, self._vault.holder))
            except StoreError:
                self._vault.forget(name)
                return  # the store is away: the next look tries again

    async def _write(self, work: Callable[[Any], Awaitable[object]]) -> None:
        async def transaction(db: Any) -> None:
            async with db.transaction():
                await db.execute(_FENCE, self._lease.node_id, self._lease.fence)
                await work(db)

        await self._run(transaction)

    async def _read(self, sql: str, *values: object) -> list[Any]:
        async def query(db: Any) -> list[Any]:
            return list(await db.fetch(sql, *values))

        return await self._run(query)

    async def _run(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        if self._closed:
            raise StoreError("The links' records are not open.")
        tries = 0
        while True:
            tries += 1
            try:
                return await self._pool.run(work)
            except LOST as error:
                if tries < TRIES:
                    continue
                failure: BaseException = error
            except (asyncpg.PostgresError, OutboxError) as error:
                failure = error
            log.error("link_store_failed", error=reason(failure))
            raise StoreError(f"The links' records cannot be read or written: {reason(failure)}.") from failure


async def _execute(sql: str, *arguments: Any) -> None:
    """The last argument is the connection."""
    await arguments[-1].execute(sql, *arguments[:-1])
