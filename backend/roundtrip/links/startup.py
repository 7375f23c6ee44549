"""How a link begins: asked for by somebody, or brought back after a restart of the program."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.links import payloads as faces
from roundtrip.links.machine import LIVE, Effect, Input, Reason, Timer
from roundtrip.links.phone import canonical
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, new_record
from roundtrip.links.shared import LinkContext
from roundtrip.links.snapshot import LinkState
from roundtrip.links.transition import Lifecycle
from roundtrip.links.transition_table import step

_KEYS_LOST: Final = frozenset({"store_missing", "store_corrupt"})


async def start(
    key: BotKey, lifecycle: Lifecycle, context: LinkContext, phone_number: str | None, traceparent: str | None
) -> None:
    """Begin a link. While one lives, only another wish for a code changes something. An account whose keys are kept
    goes on without a new scan.

    Raises `LinkError`, and then nothing changed.
    """
    old = lifecycle.record
    keys_kept = old is not None and old.paired and old.reason_code not in _KEYS_LOST
    if old is not None and keys_kept:
        _same_number(old, phone_number)
    move = step(lifecycle.state, Input.START)
    if move.effect is not Effect.START:
        await _change(lifecycle, context, phone_number)
        return
    _admit(lifecycle, context, phone_number, keys_kept=keys_kept)
    now = context.clock.now()
    lifecycle.phone_wanted = phone_number
    if old is not None and keys_kept:
        record = replace(
            old, state=move.to, since=now, started_at=now, reason_code=None, banned_until=None, retry_at=None
        )
    else:
        record = new_record(key, now)
    record = replace(record, also_linked=lifecycle.linked_elsewhere(record))
    await lifecycle.writer.begin(record, faces.payload(EventType.CONNECTING, record, None, first=False), traceparent)
    if old is not None and not keys_kept:
        context.release(old.phone_number, key)
        await lifecycle.writer.forget(old)
    lifecycle.traceparent = traceparent
    lifecycle.started = context.clock.monotonic()
    lifecycle.policy.reset()
    lifecycle.damper.reset()
    lifecycle.enter(record, move, None)
    if not record.paired:
        lifecycle.timers.arm(Timer.PATIENCE, context.settings.pairing_patience)
    await lifecycle.start_session()


async def _change(lifecycle: Lifecycle, context: LinkContext, phone_number: str | None) -> None:
    """A code of the other kind, or for another number, while nobody has used the one that there is."""
    record = lifecycle.record
    if record is None or record.paired or _form(phone_number) == _form(lifecycle.phone_wanted):
        return
    _refuse_banned(context.bans.left(phone_number))
    lifecycle.phone_wanted = phone_number
    lifecycle.policy.reset()
    await lifecycle.apply(Input.CHANGE, step(lifecycle.state, Input.CHANGE), None)
    if not record.paired and lifecycle.state in LIVE:
        lifecycle.timers.arm(Timer.PATIENCE, context.settings.pairing_patience)


def changes(lifecycle: Lifecycle, phone_number: str | None) -> bool:
    """Whether asking for a code of this kind starts a pairing: a new one, or another in place of the present one."""
    record = lifecycle.record
    if record is None or record.state not in LIVE:
        return True
    return not record.paired and _form(phone_number) != _form(lifecycle.phone_wanted)


def comes_back(record: LinkRecord) -> bool:
    """Whether a restart of the program brings the session back."""
    if not record.paired or record.reason_code in _KEYS_LOST:
        return False
    return step(record.state, Input.RESTORE).to is LinkState.CONNECTING


def not_back_yet(record: LinkRecord, now: float) -> LinkRecord:
    """How a link looks that will come back. In memory only: for the frontend it is no new link, only not back yet."""
    return replace(record, state=LinkState.CONNECTING, since=now, reason_code=None)


async def come_back(lifecycle: Lifecycle, context: LinkContext) -> None:
    """A link's turn after a restart of the program."""
    record = lifecycle.record
    if record is None or record.state not in LIVE or lifecycle.runner.starts:
        return
    if record.paired:
        context.meter.transition(LinkState.CONNECTING, Reason.RESTORED)
        await lifecycle.start_session()
    else:  # its codes died with the process that showed them
        await lifecycle.handle(Input.CODES_USED_UP, None)


def _admit(lifecycle: Lifecycle, context: LinkContext, phone_number: str | None, *, keys_kept: bool) -> None:
    if context.closed(context.clock.monotonic()):
        raise LinkError("client_outdated", "WhatsApp no longer accepts this version; it must be updated.")
    old = lifecycle.record
    number = phone_number
    if number is None and old is not None and keys_kept:
        number = old.phone_number
    _refuse_banned(lifecycle.ban_left() if number is None else context.bans.left(number))


def _refuse_banned(left: float) -> None:
    if left > 0.0:
        raise LinkError("banned", "WhatsApp blocked this account; it can be linked when the block ends.", left)


def _same_number(record: LinkRecord, phone_number: str | None) -> None:
    if phone_number is not None and record.phone_number and _form(phone_number) != _form(record.phone_number):
        raise LinkError("another_number_linked", "This bot is linked to another phone number; log that one out first.")


def _form(number: str | None) -> str | None:
    return None if number is None else canonical(number)
