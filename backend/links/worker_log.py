"""What the library logs, read for the few numbers that its events leave out. No text of it is kept or passed on.

neonize cannot say a refusal's number that it does not know, nor how many codes WhatsApp gave out; whatsmeow's log lines
do. They arrive as neonize's `LogEntry`, in threads of the Go side, and hold secrets: what is matched here is digits,
how often a tag occurs, and the stage at which a dial failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

_REFUSED: Final = re.compile(rb"connect failure: <failure ([^>]*)>")
_ATTRIBUTE: Final = re.compile(rb'\b(reason|code|expire)="(\d{1,9})"')
_CODES: Final = b"<pair-device>"
_CODE: Final = b"<ref>"
_RAN_OUT: Final = b"Ran out of QR codes"
_LOST: Final = b"Failed to reconnect after 515 code: "
_LOST_LIMIT: Final = 2048


class Refusal(NamedTuple):
    """WhatsApp's numbers in a `failure`; None where it named none. `expire` is in seconds."""

    reason: int | None
    code: int | None
    expire: int | None


class LibraryLog:
    """`lost` is called with the library's error, in whatever thread it comes, when the reconnect failed that follows a
    515 (after a scan, or when WhatsApp asks for it): the library tries once and tells nobody."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self.codes: int | None = None
        """How many codes WhatsApp gave out for this pairing."""
        self.ran_out = False
        """Whether the library showed its last code to the end."""
        self.refusal: Refusal | None = None
        """The last one, ban or not."""

    def take(self, entry: bytes) -> None:
        """One line, as neonize hands it over."""
        if (refused := _REFUSED.search(entry)) is not None:
            found = {name: int(digits) for name, digits in _ATTRIBUTE.findall(refused[1])}
            self.refusal = Refusal(found.get(b"reason"), found.get(b"code"), found.get(b"expire"))
        elif _CODES in entry:
            self.codes = entry.count(_CODE) or None
        elif _RAN_OUT in entry:
            self.ran_out = True
        elif (at := entry.find(_LOST)) >= 0:
            self._lost(entry[at + len(_LOST) :][:_LOST_LIMIT].decode(errors="replace"))
