"""Who has which link, as the store knows it: the calls of `0004_ownership.sql`.

Every coroutine raises `StoreError` when the store fails. A call whose answer was lost is made again, and its second
answer may know of what the first one did: a link that the store says is this node's, and that it has not got, is given
back by `Ownership`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from roundtrip.cluster.tables import Tables
from roundtrip.identity import BotKey
from roundtrip.links.machine import LIVE
from roundtrip.links.record import LinkRecord, LinkState, new_record

MOST_FREE: Final = 2000
"""Free links that are looked at in one go."""

_LOOK: Final = (
    "SELECT (SELECT array_agg(node_id ORDER BY node_id) FROM nodes WHERE lease_until > clock_timestamp()), "
    "EXISTS (SELECT FROM nodes WHERE lease_until <= clock_timestamp()), "
    "EXISTS (SELECT FROM links WHERE owner IS NULL AND state <> 'idle'), "
    "EXISTS (SELECT FROM commands WHERE taken_by IS NULL)"
)
_FREE: Final = (
    "SELECT user_id, bot_id, state, offered_to FROM links WHERE owner IS NULL AND state <> 'idle' "
    "AND (offered_to IS NULL OR offered_to = $1 OR offered_until <= clock_timestamp()) "
    "ORDER BY state = 'connected' DESC, paired DESC LIMIT $2"
)
_COUNTS: Final = "SELECT owner, count(*) FROM links WHERE state <> 'idle' GROUP BY owner"
_MINE: Final = "SELECT user_id, bot_id, fence FROM links WHERE owner = $1 AND state <> 'idle'"
_SETTLED: Final = "SELECT owner IS NOT NULL AND restoring IS NULL FROM links WHERE user_id = $1 AND bot_id = $2"
_STALE_CODES: Final = (
    "UPDATE links SET code = NULL, code_until = NULL WHERE code IS NOT NULL AND code_until <= clock_timestamp()"
)
_decode = msgspec.json.Decoder(LinkRecord).decode
_encode = msgspec.json.Encoder().encode
_LIVE: Final = sorted(LIVE)


class Look(NamedTuple):
    """The cluster at one moment."""

    nodes: tuple[str, ...]
    """Names of the live ones, this one included."""
    dead: bool
    """Whether a node's lease has ended."""
    free: bool
    """Whether some link has no owner."""
    asked: bool
    """Whether a command waits for its link's owner."""


class Free(NamedTuple):
    """A link without an owner."""

    key: BotKey
    state: str
    offered: bool
    """To this node, by the one that had it."""


class Claimed(NamedTuple):
    """A link that this node has from now on. `since` is when it was left, in seconds since the epoch."""

    record: LinkRecord
    fence: int
    reason: str
    since: float | None
    term: int
    """Of the lease under which it was taken."""


class Taken(NamedTuple):
    """The answer to a node that wants to do something with one link."""

    owner: str | None
    """None: nobody has it, for there is none."""
    full: bool = False
    """It may not start: the user has as many live ones as is allowed."""
    claimed: Claimed | None = None
    """What this node has from now on, where it had not before: a record of the state idle for a key that had none."""


class Claims:
    """Stateless."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._node = tables.lease.node_id

    async def look(self) -> Look:
        row = (await self._tables.read(_LOOK))[0]
        return Look(tuple(row[0] or ()), row[1], row[2], row[3])

    async def bury(self) -> list[str]:
        """Remove nodes whose lease has ended, and free their links; their names."""
        return list((await self._tables.read("SELECT bury_1()"))[0][0])

    async def free(self) -> list[Free]:
        """Links that this node may take, the connected first."""
        rows = await self._tables.read(_FREE, self._node, MOST_FREE)
        return [Free(BotKey(user, bot), state, offered == self._node) for user, bot, state, offered in rows]

    async def counts(self) -> dict[str | None, int]:
        """Number of links by owner; None has those that are free."""
        return {row[0]: row[1] for row in await self._tables.read(_COUNTS)}

    async def claim(self, keys: Sequence[BotKey]) -> list[Claimed]:
        """Take those of these links that are free still."""
        term = self._tables.lease.term
        rows = await self._tables.fenced(
            "SELECT * FROM claim_links_1($1, $2, $3, $4)", [key.user_id for key in keys], [key.bot_id for key in keys]
        )
        return [Claimed(_decode(row["record"]), row["fence"], row["freed"], row["restoring"], term) for row in rows]

    async def take(self, key: BotKey, now: float, most: int | None = None) -> Taken:
        """Take one link if nobody has it. `most` asks for a start: how many live links the user may have; a key without
        a link gets a row then, with a record that begins at `now`."""
        term = self._tables.lease.term
        new = msgspec.structs.replace(new_record(key, now), state=LinkState.IDLE)
        rows = await self._tables.fenced(
            "SELECT * FROM take_link_1($1, $2, $3, $4, $5, $6, $7)", *key, most, _LIVE, _encode(new).decode()
        )
        row = rows[0]
        if row["o_full"] or row["o_owner"] != self._node:
            return Taken(row["o_owner"], row["o_full"])
        claimed = Claimed(_decode(row["o_record"]), row["o_fence"], row["o_freed"], row["o_restoring"], term)
        return Taken(self._node, claimed=claimed)

    async def untake(self, key: BotKey, fence: int) -> None:
        """The start for which a link was taken was refused."""
        await self._tables.fenced("SELECT untake_link_1($1, $2, $3, $4, $5)", *key, fence)

    async def release(self, key: BotKey, fence: int, to: str | None) -> bool:
        """Give a link away, to a node that may take it before others do; False when it was not this node's."""
        rows = await self._tables.fenced("SELECT release_link_1($1, $2, $3, $4, $5, $6)", *key, fence, to)
        return bool(rows[0][0])

    async def free_own(self) -> None:
        """Give up every link of an earlier lease of this node."""
        await self._tables.execute("SELECT free_links_1($1, 'node_lost')", self._node)

    async def strays(self, known: Iterable[BotKey]) -> dict[BotKey, int]:
        """Links that the store says this node has, besides those that it knows of, with their fences."""
        found = {BotKey(user, bot): fence for user, bot, fence in await self._tables.read(_MINE, self._node)}
        for key in known:
            found.pop(key, None)
        return found

    async def settled(self, key: BotKey) -> bool:
        """Whether a link that was given away has an owner whose session has reported."""
        rows: list[Any] = await self._tables.read(_SETTLED, *key)
        return not rows or bool(rows[0][0])

    async def drop_old_codes(self) -> None:
        """Delete codes that can no longer be scanned."""
        await self._tables.execute(_STALE_CODES)
