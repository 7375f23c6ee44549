"""The base of all refusals."""

from __future__ import annotations

from roundtrip.errors import StorageError


def test_a_refused_event_says_why_to_whoever_reads_the_log() -> None:
    error = StorageError("outbox_full", "There is no room.")
    assert (error.code, error.message, str(error)) == ("outbox_full", "There is no room.", "There is no room.")
