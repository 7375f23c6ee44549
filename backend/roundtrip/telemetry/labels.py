"""The fixed sets of values that labels of metrics may have: no user, link or socket can add a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OTHER: Final = "other"
"""The label of a value outside its set: counted, never a new series."""

MODES: Final = ("live", "replay")
GRADES: Final = ("received", "acked")
"""The transport's receipt and the application's acknowledgement: two grades, never mixed."""

OVERDUE: Final = ("key_mismatch", "queue_full", "send_failed", "ack_timeout", "late")
"""Why an event whose key had a socket was not confirmed in time: the reason of the attempt that failed first, or `late`
where none did. Absent people are none of them."""
SPREAD: Final = ("mean", "max")
"""Of what there are several, without a series for each."""

SIGNALS: Final = ("traces", "logs")
PAGE_SPANS: Final = (
    "accepted",
    "not_sampled",
    "no_event",
    "unknown_event",
    "other_trace",
    "malformed",
    "time",
    "too_many",
)
"""What becomes of a span that a page sends: kept, as its event's are or not, or refused, and why."""
ANNOUNCEMENTS: Final = ("sent", "found_later")
TAKEOVERS: Final = ("started", "node_lost", "handed_over")
"""Why a node has a link: nobody had it when it looked, its node's lease ended, or its node gave it away."""
ADMIN_LOGINS: Final = ("accepted", "refused", "limited")


@dataclass(frozen=True, slots=True)
class LabelSets:
    """Every label value of every metric. Those without a default come from the enums that own them.

    `event_types` and `outcomes` are in the order of their enum's numbers, so that a number is an index;
    `outcomes` are the ends of an event, without `pending` (number 0).
    """

    event_types: tuple[str, ...]
    outcomes: tuple[str, ...]
    miss_reasons: tuple[str, ...]
    link_states: tuple[str, ...]
    transitions: tuple[tuple[str, str], ...] = ()
    """Each state that a link enters, with each reason for which it does."""
    transports: tuple[str, ...] = ("websocket", "polling")
    connect_results: tuple[str, ...] = (
        "accepted",
        "bot_id_missing",
        "bot_id_invalid",
        "user_id_invalid",
        "too_many_sockets",
        "unauthorized",
        "forbidden",
        "rate_limited",
        "unavailable",
        "canary_elsewhere",
    )
    disconnect_reasons: tuple[str, ...] = (
        "client disconnect",
        "transport close",
        "transport error",
        "ping timeout",
        "server disconnect",
        "queue_full",
        "token_expired",
        "draining",
        "protocol_error",
        "replay_failed",
    )
    """The client left; the network lost it (three); from `server disconnect` on, this program closed it."""
    packet_refusals: tuple[str, ...] = (
        "malformed",
        "packet_type",
        "namespace",
        "second_connect",
        "second_request",
        "not_joined",
        "slow_request",
        "attachments",
        "ack",
        "unasked",
        "jsonp",
    )
    faults: tuple[str, ...] = (
        "key_mismatch",
        "stale_cleanup",
        "drop_acks",
        "drop_receipts",
        "early_disconnect",
        "slow_outbox",
        "outbox_down",
        "whatsapp_flap",
        "host_death",
    )
    worker_exits: tuple[str, ...] = (
        "stopped",
        "exited",
        "crashed",
        "panicked",
        "killed",
        "unresponsive",
        "memory",
    )
    limits: tuple[str, ...] = (
        "handshakes_per_address",
        "handshakes_per_user",
        "connections",
        "connections_per_address",
        "connections_per_user",
        "events_per_socket",
        "packet_size",
        "body_size",
        "json_depth",
        "slow_request",
        "links_per_user",
        "pairings_per_hour",
        "descriptors",
        "page_traces_per_address",
        "page_traces_per_user",
    )
    canary_stages: tuple[str, ...] = ("connect", "upgrade", "handshake", "store", "delivery", "ack")
    ready_checks: tuple[str, ...] = ("outbox", "links", "restore", "draining")
    malformed: tuple[str, ...] = ("malformed", "line_too_long", "header_too_long", "head_too_large", "http_version")
