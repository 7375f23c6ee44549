"""Records: how they begin, and the values that are public or stored."""

from __future__ import annotations

from roundtrip.links.record import LinkRecord, LinkState, new_record, store_name
from tests.support.links import KEY


def test_the_states_are_the_contracts() -> None:
    states = "idle connecting qr pairing_code paired connected degraded disconnected qr_expired logged_out replaced"
    assert [state.value for state in LinkState] == [*states.split(), "banned", "client_outdated", "failed"]


def test_a_new_record_begins_now() -> None:
    record = new_record(KEY, 7.0)
    assert record == LinkRecord(KEY, record.link_id, LinkState.CONNECTING, 7.0, 7.0)


def test_a_store_file_is_named_after_its_link() -> None:
    assert store_name("a" * 32) == "a" * 32 + ".db"
