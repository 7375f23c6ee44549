"""Just enough HTML for the debug pages: elements from Python, everything escaped, no script, no inline style."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Part = str | int | float | None
_VOID: Final = frozenset({"meta", "link"})


def element(name: str, /, *parts: Part, **attributes: str) -> Markup:
    """`class_` becomes `class`; a plain string is escaped, None is left out."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(parts)}</{name}>")


def join(parts: Iterable[Part]) -> Markup:
    return Markup("".join(part if isinstance(part, Markup) else _text(part) for part in parts))


def table(headings: Sequence[str], rows: Iterable[Sequence[Part]], empty: str) -> Markup:
    """A table, or the sentence `empty` where there are no rows."""
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    if not body:
        return element("p", empty, class_="empty")
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    return element(
        "div", element("table", element("thead", head), element("tbody", *body)), class_="scroll", tabindex="0"
    )


def facts(pairs: Iterable[tuple[str, Part]]) -> Markup:
    """A list of names and values; what has no value is left out."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs if value is not None)
    )


def link(to: str, text: str) -> Markup:
    return element("a", text, href=to)


def page(title: str, *parts: Part) -> str:
    """A whole document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · Roundtrip"),
        element("link", rel="stylesheet", href="/debug/style.css"),
    )
    nav = element("nav", link("/debug/sockets", "Sockets"), " ", link("/debug/links", "Links"))
    body = element("body", element("header", nav), element("main", element("h1", title), *parts))
    return "<!doctype html>" + element("html", head, body, lang="en")


def _text(part: Part) -> str:
    return "" if part is None else html.escape(str(part))


STYLE: Final = """
:root {
  color-scheme: light dark;
  --line: color-mix(in srgb, CanvasText 15%, Canvas);
  --quiet: color-mix(in srgb, CanvasText 65%, Canvas);
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: CanvasText; background: Canvas; }
header, main { max-width: 76rem; margin: 0 auto; padding: 1rem 1.25rem; }
nav a { margin-right: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem 2rem; margin: 0; }
dt, th { color: var(--quiet); font-size: .8rem; font-weight: 500; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.empty, .hint { color: var(--quiet); }
.good, .bad { border-radius: 1rem; padding: .05rem .6rem; font-size: .85rem; white-space: nowrap; }
.good { background: color-mix(in srgb, seagreen 22%, Canvas); }
.bad { background: color-mix(in srgb, crimson 20%, Canvas); }
"""
