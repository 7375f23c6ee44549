"""The schema of the PostgreSQL store: numbered SQL files, applied in order, never changed and never undone.

Each must be safe while nodes of the version before still run: it adds tables, columns with defaults and functions with
new numbers, and removes only what no running version uses.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, Final

import structlog

from roundtrip.errors import StartError

log = structlog.get_logger(__name__)

_LOCK: Final = 1700
"""Advisory lock under which one node at a time migrates."""

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def steps() -> dict[int, str]:
    """The SQL of each version, from 1."""
    folder = resources.files(__package__) / "sql"
    named = ((_NAME.fullmatch(file.name), file) for file in folder.iterdir())
    found = sorted((int(match[1]), file.read_text()) for match, file in named if match is not None)
    if [version for version, _ in found] != list(range(1, len(found) + 1)):
        raise StartError("The program's migrations are incomplete: install it again.")
    return dict(found)


async def migrate(connection: Any) -> int:
    """Bring the database to this program's version, all in one transaction; the version. Raises `StartError` with exit
    status 2 when the database is newer, or holds somebody else's tables."""
    known = steps()
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS roundtrip_schema "
            "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        version = await connection.fetchval("SELECT coalesce(max(version), 0) FROM roundtrip_schema")
        if version > len(known):
            raise StartError(
                f"The store was written by a newer version of this program (schema {version}, this one knows "
                f"{len(known)}): update this node.",
                2,
            )
        for number in range(version + 1, len(known) + 1):
            await connection.execute(known[number])
            await connection.execute("INSERT INTO roundtrip_schema (version) VALUES ($1)", number)
            log.info("store_migrated", version=number)
    return len(known)
