"""The base of all errors that reach a caller. The HTTP status of a code is decided in `api/problems.py`."""

from __future__ import annotations


class RoundtripError(Exception):
    """A refusal or a failure that is reported to the caller.

    `code` is public and for programs, `message` a sentence for users that holds no secret, `retry_after` the seconds
    after which a retry may succeed, None where waiting does not help or the time is unknown.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after


class StartError(Exception):
    """The program cannot start; the message is one line for whoever started it. `status` is the exit status: 2 where
    waiting and trying again cannot help, because something is set wrongly."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class StorageError(RoundtripError):
    """A store could not be written or read; nothing was changed. Codes: `outbox_full`, `outbox_unavailable`,
    `store_unavailable`."""


class IllegalTransitionError(RuntimeError):
    """A state was asked to change in a way that its table does not have: a mistake of this program. The state stays as
    it was. `what` names whose state it is, `cause` what it was asked for."""

    def __init__(self, what: str, state: str, cause: str) -> None:
        super().__init__(f"{what}: {state} -> {cause}")
        self.state = state
        self.cause = cause
