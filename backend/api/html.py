"""The layout that the debug pages share, in htpy: everything is escaped, no script, no inline style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import htpy as h
from htpy import Node, Renderable


def table(headings: Sequence[str], rows: Iterable[Sequence[Node]], empty: str) -> Renderable:
    """A table, or the sentence `empty` where there are no rows."""
    body = [h.tr[(h.td[cell] for cell in row)] for row in rows]
    if not body:
        return h.p(".empty")[empty]
    head = h.thead[h.tr[(h.th(scope="col")[heading] for heading in headings)]]
    return h.div(".scroll", tabindex="0")[h.table[head, h.tbody[body]]]


def facts(pairs: Iterable[tuple[str, Node]]) -> Renderable:
    """A list of names and values; what has no value is left out."""
    return h.dl[(h.div[h.dt[name], h.dd[value]] for name, value in pairs if value is not None)]


def anchor(to: str, text: str) -> Renderable:
    return h.a(href=to)[text]


def page(title: str, *parts: Node) -> str:
    """A whole document."""
    return str(
        h.html(lang="en")[
            h.head[
                h.meta(charset="utf-8"),
                h.meta(name="viewport", content="width=device-width, initial-scale=1"),
                h.meta(name="color-scheme", content="light dark"),
                h.title[f"{title} · Roundtrip"],
                h.link(rel="stylesheet", href="/debug/style.css"),
            ],
            h.body[
                h.header[h.nav[anchor("/debug/sockets", "Sockets"), " ", anchor("/debug/links", "Links")]],
                h.main[h.h1[title], parts],
            ],
        ]
    )
