"""The debug pages as HTML."""

from __future__ import annotations

from roundtrip.api.debug import pages as html
from roundtrip.delivery.wire import Miss
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.outbox.records import Attempt, MissReason, Mode
from tests.support.api import Api

KEY = BotKey("ada", "<b>bot</b>")


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_gets_a_page(served: Api) -> None:
    event = await served.event(KEY)
    served.links.states[KEY] = LinkState.CONNECTED
    served.outbox.record(KEY, event.seq, (Attempt(event.created_at, Mode.LIVE, reason=MissReason.NEVER_CONNECTED),))
    served.registry.missed(KEY, event.type.wire, event.id, Miss(MissReason.NEVER_CONNECTED))
    link = "/debug/links/link-of-%3Cb%3Ebot%3C%2Fb%3E"
    for path in ("/debug/sockets", "/debug/links", link, f"/debug/events/{event.id}"):
        status, page, headers = await served.call("GET", path, admin=True, headers=BROWSER)
        assert status == 200, path
        assert headers["Content-Type"].startswith("text/html"), path
        assert "&lt;b&gt;bot&lt;/b&gt;" in page, path  # escaped, whatever an id holds
        assert "<b>" not in page, path
        assert "<script" not in page, path
        assert "style=" not in page, path


def test_text_and_attributes_are_escaped() -> None:
    hostile = '"><script>&'
    shown = html.page(
        hostile,
        html.table((hostile,), [(hostile, None, 3)], "none"),
        html.facts([(hostile, html.anchor(hostile, hostile))]),
    )
    assert "<script>" not in shown
    assert '<a href="&#34;&gt;&lt;script&gt;&amp;">&#34;&gt;&lt;script&gt;&amp;</a>' in shown
    assert "<td></td><td>3</td>" in shown
