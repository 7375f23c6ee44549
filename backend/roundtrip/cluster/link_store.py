"""Link records, removals, bans and key files in PostgreSQL: `links.storage.LinkStorage` over one database.

A record's version begins with its link's fence, and the database refuses one whose fence is not the link's present one.
An older version never replaces a newer, so that a write whose answer was lost may be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from roundtrip.cluster.key_vault import KeyVault
from roundtrip.cluster.tables import Tables
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.events import LinkRow, Payload
from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban
from roundtrip.links.record import LinkRecord, Removal, store_name
from roundtrip.links.storage import StoreError
from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

KEEP_EVERY: Final = 20.0
"""Seconds between two looks at the key files of accounts: what changed is stored, thus at most 30 s later."""

FENCE_BITS: Final = 24
"""A version is a fence and a number of so many bits, which counts what was written under it."""

_SAVE: Final = "SELECT save_links_1($1, $2, $3, $4, $5, $6, $7)"
_SAVE_KEYS: Final = "SELECT save_key_file_2($1, $2, $3, $4)"
_SHOW: Final = (
    "UPDATE links SET code = $3, code_until = clock_timestamp() + make_interval(secs => $4) "
    "WHERE user_id = $1 AND bot_id = $2 AND owner = $5"
)
_ORPHANS: Final = (
    "DELETE FROM key_files k WHERE NOT EXISTS (SELECT FROM links l WHERE l.link_id = k.link_id AND l.paired) "
    "AND NOT EXISTS (SELECT FROM removals r WHERE r.link_id = k.link_id)"
)
_encode = msgspec.json.Encoder().encode


class Held:
    """A link that this node has: the fence under which it writes, and how much it has written."""

    __slots__ = ("fence", "written")

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.written = 0

    def version(self) -> int:
        """Of the next write."""
        self.written += 1
        return self.fence << FENCE_BITS | self.written


class PostgresLinkStore:
    """A `LinkStorage`. The key files that the WhatsApp library has open are in `data_dir/sessions`."""

    def __init__(self, database: Database, lease: NodeLease, data_dir: Path, keep_every: float = KEEP_EVERY) -> None:
        self.tables = Tables(database, lease)
        self._lease = lease
        self._vault = KeyVault(data_dir)
        self._keep_every = keep_every
        self._held: dict[BotKey, Held] = {}
        self._paired: set[str] = set()
        """Links whose key files are stored."""
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> list[LinkRecord]:
        """As `LinkStorage.open`: no record, for a node has no link before it takes one."""
        try:
            await asyncio.to_thread(self._vault.open)
        except OSError as error:
            raise StoreError(f"The folder of key files cannot be used: {error.strerror}.") from error
        self._keeper = asyncio.create_task(self._keep(), name="key-files")
        return []

    def hold(self, key: BotKey, fence: int) -> None:
        """This node has a link from now on, under that fence."""
        if self.fence_of(key) != fence:
            self._held[key] = Held(fence)

    def fence_of(self, key: BotKey) -> int:
        """0 for a link that this node has not."""
        return held.fence if (held := self._held.get(key)) is not None else 0

    async def bring_back(self, link_id: str) -> None:
        """Fetch the key file of a link that this node took, where the one in this folder is missing, or old."""
        rows = await self.tables.read("SELECT content, holder FROM key_files WHERE link_id = $1", link_id)
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
        await self.tables.execute("UPDATE key_files SET holder = $2 WHERE link_id = $1", link_id, self._vault.holder)
        log.info("key_file_brought_back", link_id=link_id)

    async def let_go(self, key: BotKey, link_ids: frozenset[str]) -> int:
        """This node has a link no more, and its sessions have ended: store what changed in its key files since the last
        look. The fence that it had."""
        for link_id in link_ids & self._paired:
            name = store_name(link_id)
            with suppress(StoreError):  # what is lost is what changed in the last seconds
                if await asyncio.to_thread(self._vault.changed, name):
                    await self._store_keys(link_id)
                await self._vault.remove(name)  # whoever takes the link has the only copy that is used
            self._paired.discard(link_id)
        return self.lose(key, link_ids)

    def lose(self, key: BotKey, link_ids: frozenset[str]) -> int:
        """This node has a link no more: what it still writes is refused. The fence that it had."""
        for link_id in link_ids & self._paired:
            self._paired.discard(link_id)
            self._vault.forget(store_name(link_id))
        fence = self.fence_of(key)
        self._held.pop(key, None)
        return fence

    async def save(self, record: LinkRecord) -> None:
        """As `LinkStorage.save`. An account's keys are stored in the transaction that says it is paired."""
        keys = None
        if record.paired and record.link_id not in self._paired:
            keys = await self._vault.read(record.store_name)
        row = [[value] for value in (*record.key, *self.row(record))]

        async def write(db: Any) -> None:
            await db.execute(_SAVE, *row)
            if keys is not None:
                await db.execute(_SAVE_KEYS, self._lease.node_id, record.link_id, keys, self._vault.holder)

        try:
            await self.tables.write(write)
        except StoreError:
            self._vault.forget(record.store_name)
            raise
        if keys is not None:
            self._paired.add(record.link_id)

    def row(self, record: LinkRecord) -> LinkRow:
        """As `LinkStorage.row`: the outbox commits it with the event."""
        held = self._held.get(record.key) or Held(0)
        return LinkRow(record.link_id, record.state.value, record.paired, _encode(record).decode(), held.version())

    async def show(self, key: BotKey, code: Payload, left: float) -> None:
        """As `LinkStorage.show`: other nodes read it until then, or until another state or code follows."""
        await self.tables.execute(_SHOW, *key, _encode(code).decode(), left, self._lease.node_id)

    async def delete(self, key: BotKey) -> None:
        """As `LinkStorage.delete`."""
        await self.tables.execute("DELETE FROM links WHERE user_id = $1 AND bot_id = $2", *key)

    async def check(self) -> None:
        """As `LinkStorage.check`."""
        await self.tables.execute("UPDATE links SET state = state WHERE false")

    async def save_removal(self, removal: Removal) -> None:
        """As `LinkStorage.save_removal`."""
        row = (removal.link_id, *removal.key, removal.phone_number, removal.since, removal.until)
        await self.tables.execute(
            "INSERT INTO removals (link_id, user_id, bot_id, phone_number, since, until) "
            "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (link_id) DO UPDATE SET until = excluded.until",
            *row,
        )

    async def delete_removal(self, link_id: str) -> None:
        """As `LinkStorage.delete_removal`."""
        await self.tables.execute("DELETE FROM removals WHERE link_id = $1", link_id)

    async def removals(self) -> list[Removal]:
        """As `LinkStorage.removals`: of the links that this node has."""
        return await self.removals_of(list(self._held))

    async def removals_of(self, keys: Sequence[BotKey]) -> list[Removal]:
        """Devices of these keys' links that are still to be removed, the oldest first."""
        rows = await self.tables.read(
            "SELECT r.user_id, r.bot_id, link_id, phone_number, since, until FROM unnest($1::text[], $2::text[]) "
            "AS h (u, b) JOIN removals r ON r.user_id = h.u AND r.bot_id = h.b ORDER BY since",
            [key.user_id for key in keys],
            [key.bot_id for key in keys],
        )
        return [Removal(BotKey(row[0], row[1]), *list(row)[2:]) for row in rows]

    async def save_ban(self, phone_number: str, ban: Ban) -> None:
        """As `LinkStorage.save_ban`."""
        await self.tables.execute(
            "INSERT INTO bans (phone_number, code, since, until, over) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (phone_number) DO UPDATE SET code = excluded.code, since = excluded.since, "
            "until = excluded.until, over = excluded.over",
            phone_number,
            *ban,
        )

    async def delete_ban(self, phone_number: str) -> None:
        """As `LinkStorage.delete_ban`."""
        await self.tables.execute("DELETE FROM bans WHERE phone_number = $1", phone_number)

    async def bans(self, now: float) -> dict[str, Ban]:
        """As `LinkStorage.bans`."""
        await self.tables.execute("DELETE FROM bans WHERE over <= $1", now)
        rows = await self.tables.read("SELECT phone_number, code, since, until, over FROM bans")
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
        await self.tables.execute("DELETE FROM key_files WHERE link_id = $1", link_id)
        await self._vault.remove(store_name(link_id))

    async def sweep(self, keep: frozenset[str]) -> int:
        """As `LinkStorage.sweep`: besides `keep`, the files stay that no other node has had since."""
        await self.tables.execute(_ORPHANS)
        rows = await self.tables.read("SELECT link_id FROM key_files WHERE holder = $1", self._vault.holder)
        return await self._vault.sweep(keep | {store_name(row[0]) for row in rows})

    async def close(self) -> None:
        """As `LinkStorage.close`; stores what changed in key files since the last look."""
        if self._closed:
            return
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
            await self._keep_changed()
        self._closed = True
        self.tables.close()

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
            try:
                await self._store_keys(link_id)
            except StoreError:
                return  # the store is away: the next look tries again

    async def _store_keys(self, link_id: str) -> None:
        name = store_name(link_id)
        content = await self._vault.read(name)
        if content is None or link_id not in self._paired:
            return
        try:
            await self.tables.execute(_SAVE_KEYS, self._lease.node_id, link_id, content, self._vault.holder)
        except StoreError:
            self._vault.forget(name)
            raise
