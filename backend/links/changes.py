"""What a step changes in a link's record. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from backend.links import driver as d
from backend.links import faces
from backend.links.driver import Report
from backend.links.machine import Fate, Input, Move, Reason
from backend.links.record import LinkRecord
from backend.links.snapshot import LinkState


def after(record: LinkRecord, cause: Input, move: Move, report: Report | None, now: float) -> LinkRecord:
    """The record as it will be once `move` is made. `now` is in seconds since the epoch."""
    new = record
    if isinstance(report, d.PairSucceeded):
        new = replace(new, paired=True, phone_number=report.phone_number)
    if isinstance(report, d.Online):
        name = report.display_name or record.display_name  # right after pairing it may not be known yet
        new = replace(new, paired=True, phone_number=report.phone_number, display_name=name)
    if isinstance(report, d.TemporaryBan):
        until = None if report.expires_in is None else now + report.expires_in
        new = replace(new, banned_until=until)
    if move.to is LinkState.CONNECTED:
        new = replace(new, connected_before=True)
    if move.to is not record.state:
        new = replace(new, state=move.to, since=now)
    if move.says is not None and not move.if_news:
        why = Input.FLAPPING if move.reason is Reason.FLAPPING else cause
        new = replace(new, reason_code=faces.reason_code(why, report, record.paired))
    if move.fate in (Fate.FORGET, Fate.LOGOUT):
        new = replace(new, paired=False, phone_number=None, display_name=None, also_linked=False)
    return new


def is_news(old: LinkRecord, new: LinkRecord) -> bool:
    """Whether a connection that already stands now says something else about whose it is."""
    return (old.phone_number, old.display_name) != (new.phone_number, new.display_name)
