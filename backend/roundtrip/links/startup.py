"""How a link's session begins: a user asks for it, or the backend restores it after a restart."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.links import payloads
from roundtrip.links.context import LinkContext
from roundtrip.links.machine import LIVE, Effect, Input, Reason, Timer
from roundtrip.links.phone import canonical
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, LinkState, new_record
from roundtrip.links.transition import Lifecycle
from roundtrip.links.transition_table import step

_KEYS_LOST: Final = frozenset({"store_missing", "store_corrupt"})
"""Reason codes of an account that has to be linked again."""


async def start(
    key: BotKey, lifecycle: Lifecycle, context: LinkContext, phone_number: str | None, traceparent: str | None
) -> None:
    """Start a link. `phone_number` is E.164 and asks for a pairing code, None for QR codes.

    While the link is live, only the kind of code changes. Where the account's keys are still there, it logs in with
    them and needs no new scan; otherwise a new link replaces the old one. Raises `LinkError`, and then nothing changed.
    """
    old = lifecycle.record
    has_keys = old is not None and old.paired and old.reason_code not in _KEYS_LOST
    if old is not None and has_keys:
        _check_same_number(old, phone_number)
    move = step(lifecycle.state, Input.START)
    if move.effect is not Effect.START:
        await _change_code(lifecycle, context, phone_number)
        return
    _check_allowed(lifecycle, context, phone_number, has_keys=has_keys)
    now = context.clock.now()
    lifecycle.phone_wanted = phone_number
    if old is not None and has_keys:
        record = replace(
            old, state=move.to, since=now, started_at=now, reason_code=None, banned_until=None, retry_at=None
        )
    else:
        record = new_record(key, now)
    record = replace(record, also_linked=lifecycle.linked_elsewhere(record))
    await lifecycle.writer.begin(record, payloads.payload(EventType.CONNECTING, record, None, first=False), traceparent)
    if old is not None and not has_keys:
        context.release(old.phone_number, key)
        await lifecycle.writer.delete_keys(old)
    lifecycle.traceparent = traceparent
    lifecycle.started = context.clock.monotonic()
    lifecycle.policy.reset()
    lifecycle.damper.reset()
    lifecycle.enter(record, move, None)
    if not record.paired:
        lifecycle.timers.arm(Timer.PATIENCE, context.settings.pairing_patience)
    await lifecycle.start_session()


async def _change_code(lifecycle: Lifecycle, context: LinkContext, phone_number: str | None) -> None:
    """Switch a pairing under way to the other kind of code, or to a pairing code for another number."""
    record = lifecycle.record
    if record is None or record.paired or _same_account(phone_number, lifecycle.phone_wanted):
        return
    _check_not_banned(context.bans.left(phone_number))
    lifecycle.phone_wanted = phone_number
    lifecycle.policy.reset()
    await lifecycle.apply(Input.CHANGE, step(lifecycle.state, Input.CHANGE), None)
    if not record.paired and lifecycle.state in LIVE:
        lifecycle.timers.arm(Timer.PATIENCE, context.settings.pairing_patience)


def begins_pairing(lifecycle: Lifecycle, phone_number: str | None) -> bool:
    """Whether `start` would begin a link, or change the code of the pairing under way."""
    record = lifecycle.record
    if record is None or record.state not in LIVE:
        return True
    return not record.paired and not _same_account(phone_number, lifecycle.phone_wanted)


def restorable(record: LinkRecord) -> bool:
    """Whether a restart of the backend starts the link's session again."""
    if not record.paired or record.crashes or record.reason_code in _KEYS_LOST:
        return False
    return step(record.state, Input.RESTORE).to is LinkState.CONNECTING


def awaiting_restore(record: LinkRecord, now: float) -> LinkRecord:
    """The record of a restorable link until its session runs. In memory only, and no event is published: for the
    frontend it is the same link, which was connected before. `now` is in seconds since the epoch.
    """
    return replace(record, state=LinkState.CONNECTING, since=now, reason_code=None)


async def restore(lifecycle: Lifecycle, context: LinkContext) -> None:
    """Start the session of a link that a restart interrupted; a pairing ends, because its codes are gone."""
    record = lifecycle.record
    if record is None or record.state not in LIVE or lifecycle.runner.starts:
        return
    if record.paired:
        context.metrics.transition(LinkState.CONNECTING, Reason.RESTORED)
        await lifecycle.start_session()
    else:
        await lifecycle.handle(Input.CODES_USED_UP, None)


def _check_allowed(lifecycle: Lifecycle, context: LinkContext, phone_number: str | None, *, has_keys: bool) -> None:
    if context.starts_blocked(context.clock.monotonic()):
        raise LinkError("client_outdated", "WhatsApp no longer accepts this version; it must be updated.")
    old = lifecycle.record
    number = phone_number
    if number is None and old is not None and has_keys:
        number = old.phone_number
    _check_not_banned(lifecycle.ban_left() if number is None else context.bans.left(number))


def _check_not_banned(left: float) -> None:
    """`left` is how many seconds the ban still lasts."""
    if left > 0.0:
        raise LinkError("banned", "WhatsApp blocked this account; it can be linked when the block ends.", left)


def _check_same_number(record: LinkRecord, phone_number: str | None) -> None:
    if phone_number is not None and record.phone_number and not _same_account(phone_number, record.phone_number):
        raise LinkError("another_number_linked", "This bot is linked to another phone number; log that one out first.")


def _same_account(one: str | None, other: str | None) -> bool:
    """Whether two wishes for a pairing code, or for none, are for the same account."""
    if one is None or other is None:
        return one is other
    return canonical(one) == canonical(other)
