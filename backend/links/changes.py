"""What a step changes in a link's record. Pure."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from backend.links import driver as d
from backend.links import faces
from backend.links.bans import Ban
from backend.links.driver import Report
from backend.links.machine import Fate, Input, Move, Reason
from backend.links.record import Device, LinkRecord
from backend.links.snapshot import LinkState

_DEVICE: Final = {Input.DEVICE_REMOVED: Device.REMOVED, Input.DEVICE_KEPT: Device.KEPT}


def after(
    record: LinkRecord, cause: Input, move: Move, report: Report | None, now: float, ban: Ban | None = None
) -> LinkRecord:
    """The record as it will be once `move` is made. `now` is in seconds since the epoch, `ban` what a BANNED means."""
    new = record
    if isinstance(report, d.PairSucceeded):
        new = replace(new, paired=True, phone_number=report.phone_number)
    if isinstance(report, d.Online):
        name = report.display_name or record.display_name  # right after pairing it may not be known yet
        new = replace(new, paired=True, phone_number=report.phone_number, display_name=name)
    if move.to is LinkState.BANNED and ban is not None:
        new = replace(new, banned_until=ban.until, retry_at=ban.over)
    if move.to is LinkState.LOGGED_OUT:
        new = replace(new, device=_DEVICE.get(cause, record.device))
    if move.to is LinkState.CONNECTED:
        new = replace(new, connected_before=True)
    if move.to is not record.state:
        new = replace(new, state=move.to, since=now)
    if move.says is not None:
        why = Input.FLAPPING if move.reason is Reason.FLAPPING else cause
        new = replace(new, reason_code=faces.reason_code(why, report, record.paired))
    if move.fate in (Fate.FORGET, Fate.LOGOUT):
        new = replace(new, paired=False, phone_number=None, display_name=None, also_linked=False)
    return new


def is_news(old: LinkRecord, new: LinkRecord) -> bool:
    """Whether a state that goes on now says something else about itself."""
    return _told(old) != _told(new)


def _told(record: LinkRecord) -> tuple[object, ...]:
    return record.phone_number, record.display_name, record.reason_code, record.also_linked, record.device
