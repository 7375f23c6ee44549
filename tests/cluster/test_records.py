"""What the chaos relies on: times in which two nodes had a link online are found, and a pause is no such time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import Node, Span, overlaps
from tests.support.tcp_proxy import TcpProxy

SECOND = 1_000_000_000


def node(folder: Path, name: str, *notes: tuple[str | None, bool, float]) -> Node:
    """A node whose record has these lines: link, online, and at which second."""
    made = Node(name, folder, TcpProxy(1), "database", {})
    lines = [json.dumps({"link": link, "online": online, "at": int(at * SECOND)}) for link, online, at in notes]
    made.record.write_text("".join(f"{line}\n" for line in lines))
    return made


def test_a_link_that_goes_from_one_to_the_other_is_no_overlap(tmp_path: Path) -> None:
    a = node(tmp_path, "a", ("link", True, 1), ("link", False, 2), ("other", True, 1), (None, False, 9))
    b = node(tmp_path, "b", ("link", True, 2), ("link", False, 3))
    assert overlaps([a, b]) == []
    assert a.sessions()["other"] == [Span(SECOND, 9 * SECOND)], "its process was killed then"


def test_a_link_that_is_online_at_both_is_found(tmp_path: Path) -> None:
    a = node(tmp_path, "a", ("link", True, 1), ("link", False, 5))
    b = node(tmp_path, "b", ("link", True, 3), ("link", False, 6))
    [(link, one, other, seconds)] = overlaps([a, b])
    assert (link, one, other) == ("link", "a", "b")
    assert seconds == pytest.approx(2.0)


def test_a_process_that_is_paused_can_do_nothing(tmp_path: Path) -> None:
    """What is left is the moment between its waking and the end of its session."""
    a = node(tmp_path, "a", ("link", True, 1), ("link", False, 9.1))
    b = node(tmp_path, "b", ("link", True, 6), ("link", False, 20))
    a.pauses.append(Span(2 * SECOND, 9 * SECOND))
    [(_, _, _, seconds)] = overlaps([a, b])
    assert seconds == pytest.approx(0.1)
    assert a.sessions()["link"] == [Span(SECOND, 2 * SECOND), Span(9 * SECOND, int(9.1 * SECOND))]
