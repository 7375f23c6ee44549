"""What can go wrong for a caller: one base for all parts. The HTTP status of a code is decided in `api/problems.py`."""

from __future__ import annotations


class RoundtripError(Exception):
    """A refusal or a failure that a caller is told of.

    `code` is public and for programs, `message` a sentence for people that holds no secret, `retry_after` the seconds
    after which it may be tried again, None where waiting does not help or nobody knows.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


class StorageError(RoundtripError):
    """It could not be stored or read, and nothing was changed. Codes: `outbox_full`, `outbox_unavailable`,
    `store_unavailable`."""
