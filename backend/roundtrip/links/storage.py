"""What links need of a store of their records and keys: SQLite files (`store.py`) or PostgreSQL (`cluster`)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from roundtrip.drivers.key_files import KeyFileState
from roundtrip.errors import StorageError
from roundtrip.events import LinkRow, Payload
from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban
from roundtrip.links.record import LinkRecord, Removal


class StoreError(StorageError):
    """A record could not be read or written: `store_unavailable`. The message holds no path and no value."""

    def __init__(self, message: str) -> None:
        super().__init__("store_unavailable", message)


class LinkStorage(Protocol):
    """Every coroutine raises `StoreError` when the store fails, and then nothing was changed."""

    async def open(self) -> list[LinkRecord]:
        """Create or migrate what there is to be, and return every record by `started_at`."""

    async def save(self, record: LinkRecord) -> None:
        """Commit a record in place of its key's older one."""

    def row(self, record: LinkRecord) -> LinkRow | None:
        """The record for the transaction of the event that says so, where the store can commit both at once."""

    async def show(self, key: BotKey, code: Payload, left: float) -> None:
        """Commit the code that is about to be shown, for other nodes to read in the next `left` seconds."""

    async def delete(self, key: BotKey) -> None:
        """Delete a key's record."""

    async def check(self) -> None:
        """Commit a write that changes nothing, to find out whether records can be written."""

    async def save_removal(self, removal: Removal) -> None:
        """Commit that a device is to be removed."""

    async def delete_removal(self, link_id: str) -> None:
        """Delete a removal that ended."""

    async def removals(self) -> list[Removal]:
        """Every device that is still to be removed, the oldest first."""

    async def save_ban(self, phone_number: str, ban: Ban) -> None:
        """Commit that an account is banned."""

    async def delete_ban(self, phone_number: str) -> None:
        """Delete a ban that is over."""

    async def bans(self, now: float) -> dict[str, Ban]:
        """Every ban by phone number; those that are over by `now`, in seconds since the epoch, are deleted."""

    def key_file(self, link_id: str) -> Path:
        """Path of the file that holds a link's keys."""

    async def key_state(self, link_id: str) -> KeyFileState:
        """Whether a link's key file exists and can be read. No session may have it open."""

    async def secure(self, link_id: str) -> None:
        """Restrict the permissions of a link's key file to its owner."""

    async def delete_keys(self, link_id: str) -> None:
        """Delete a link's key file. One that cannot be deleted is logged; `sweep` deletes it at the next start."""

    async def sweep(self, keep: frozenset[str]) -> int:
        """Delete every key file whose name is not in `keep`. Returns how many were found."""

    async def close(self) -> None:
        """Release the store. A second call does nothing."""
