"""What a caller of the link service can get wrong, or has to wait for."""

from __future__ import annotations


class LinkError(Exception):
    """A refused command. `code` is public; `status` is the HTTP status that fits; `retry_after` is in seconds.

    Codes: `phone_number_invalid`, `outbox_full`, `outbox_unavailable`, `store_unavailable`, `client_outdated`,
    `banned`, `another_number_linked`, `too_many_links`, `shutting_down`, `not_simulated`, `link_not_found`,
    `action_impossible`.
    """

    def __init__(self, code: str, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after
