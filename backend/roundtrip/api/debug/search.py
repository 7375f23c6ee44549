"""The one search field: an event id, a trace id, a user id, a bot id, a link id, or a hash from a log or a span."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final
from urllib.parse import quote

from roundtrip.api.debug.console import Links
from roundtrip.api.debug.verdict import event_page
from roundtrip.api.schemas import ApiModel
from roundtrip.outbox.base import Outbox
from roundtrip.sockets.registry import Registry

MOST: Final = 20

_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HASH: Final = re.compile(r"[0-9a-f]{16}")
_EVENT: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Hit(ApiModel, frozen=True):
    """Something that was found: what it is, how it is called, and the console's address that shows it."""

    kind: str
    label: str
    target: str


class Hits(ApiModel, frozen=True):
    hits: tuple[Hit, ...]


class Search:
    def __init__(self, sockets: Registry, links: Links, outbox: Outbox) -> None:
        self._sockets = sockets
        self._links = links
        self._outbox = outbox

    async def find(self, text: str) -> Hits:
        """The best hit first; at most `MOST`."""
        wanted = text.strip()
        if not wanted:
            return Hits(())
        lowered = wanted.lower()
        hits = list(islice(self._by_name(wanted, exact=True), MOST))
        if _EVENT.fullmatch(lowered) and await self._outbox.find(lowered) is not None:
            hits.append(Hit("event", lowered, event_page(lowered)))
        if (match := _TRACEPARENT.fullmatch(lowered)) is not None:
            hits.append(Hit("trace", match[1], f"/console/traces/{match[1]}"))
        elif _TRACE.fullmatch(lowered) and not hits:  # a link's id looks like a trace's
            hits.append(Hit("trace", lowered, f"/console/traces/{lowered}"))
        if _HASH.fullmatch(lowered):
            hits.append(Hit("key", lowered, f"/console/traces?key={lowered}"))
            hits.append(Hit("user", lowered, f"/console/traces?user={lowered}"))
        hits += islice(self._by_name(wanted, exact=False), MOST)
        return Hits(tuple(hits[:MOST]))

    def _by_name(self, wanted: str, *, exact: bool) -> Iterator[Hit]:
        """Links and keys of which an id is the text, or contains it."""
        folded = wanted.casefold()
        for view in self._links.links():
            if _fits((view.link_id, view.user_id, view.bot_id), wanted, folded, exact):
                label = f"{view.user_id} · {view.bot_id}"
                yield Hit("link", label, f"/console/links/{quote(view.link_id, safe='')}")
        for key in self._sockets.mapped():
            if _fits(key, wanted, folded, exact):
                target = f"/console/sockets?user={quote(key.user_id, safe='')}&bot={quote(key.bot_id, safe='')}"
                yield Hit("socket", f"{key.user_id} · {key.bot_id}", target)


def _fits(ids: tuple[str, ...], wanted: str, folded: str, exact: bool) -> bool:
    if exact:
        return wanted in ids
    return wanted not in ids and any(folded in part.casefold() for part in ids)
