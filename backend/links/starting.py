"""How a link begins: asked for by somebody, or brought back after a restart of the program."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from backend.identity import BotKey
from backend.links.errors import LinkError
from backend.links.house import House
from backend.links.life import Life
from backend.links.machine import LIVE, Fate, Input, Reason, step
from backend.links.record import LinkRecord, new_record
from backend.links.snapshot import LinkState

_KEYS_LOST: Final = frozenset({"store_missing", "store_corrupt"})
_STAYS_FAILED: Final = _KEYS_LOST | {"connect_failure"}


async def start(key: BotKey, life: Life, house: House, phone_number: str | None, traceparent: str | None) -> None:
    """Begin a link, or nothing while one lives. An account whose keys are kept goes on without a new scan.

    Raises `LinkError`, and then nothing changed.
    """
    move = step(life.state, Input.START)
    if move.fate is not Fate.START:
        return
    now = house.clock.now()
    old = life.record
    _admit(old, house, now)
    keys_kept = old is not None and old.paired and old.reason_code not in _KEYS_LOST
    if old is not None and keys_kept:
        record = replace(old, state=move.to, since=now, started_at=now, reason_code=None, banned_until=None)
    else:
        record = new_record(key, now)
    await life.scribe.begin(record, traceparent)
    if old is not None and not keys_kept:
        house.release(old.phone_number, key)
        await life.scribe.forget(old)
    life.traceparent = traceparent
    life.phone_wanted = phone_number
    life.timing = True
    life.judge.forgive()
    life.damper.reset()
    life.enter(record, move, None)
    await life.begin()


def comes_back(record: LinkRecord) -> bool:
    """Whether a restart of the program brings the session back."""
    if not record.paired or record.reason_code in _STAYS_FAILED:
        return False
    return step(record.state, Input.RESTORE).to is LinkState.CONNECTING


def not_back_yet(record: LinkRecord, now: float) -> LinkRecord:
    """How a link looks that will come back. In memory only: for the frontend it is no new link, only not back yet."""
    return replace(record, state=LinkState.CONNECTING, since=now, reason_code=None)


async def come_back(life: Life, house: House) -> None:
    """A link's turn after a restart of the program."""
    record = life.record
    if record is None or record.state not in LIVE or life.runner.starts:
        return
    if record.paired:
        house.meter.transition(LinkState.CONNECTING, Reason.RESTORED)
        await life.begin()
    else:  # its codes died with the process that showed them
        await life.happen(Input.CODES_USED_UP, None)


def _admit(old: LinkRecord | None, house: House, now: float) -> None:
    if house.outdated:
        raise LinkError("client_outdated", "WhatsApp no longer accepts this version; it must be updated.", 503)
    if old is not None and old.banned_until is not None and old.banned_until > now:
        rest = old.banned_until - now
        raise LinkError("banned", "WhatsApp blocked this account; it can be linked when the block ends.", 409, rest)
