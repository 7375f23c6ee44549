"""Delivery: does every event end confirmed, how fast, and do the books balance."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.builders.links import traces_link
from dashboards.builders.page import page
from dashboards.builders.panels import (
    AMBER,
    GREEN,
    PURPLE,
    RED,
    ZERO_IS_GOOD,
    About,
    Query,
    graph,
    heat,
    number,
    rows,
    steps,
)
from dashboards.builders.promql import SELECTOR, TYPE, exact, increase, quantile, recorded, series, total

UID = "roundtrip-delivery"

OUTCOMES = {"acked": GREEN, "received": "light-green", "superseded": "blue", "discarded": AMBER, "expired": RED}
UNSEEN = 'outcome=~"expired|discarded"'
DUE_NOW = total(exact(series("events_due_total")))
OVERDUE_NOW = total(exact(series("events_overdue_total")))
BURN = ("RoundtripDeliveryBurnFast", "RoundtripDeliveryBurnSlow")


def build() -> dashboard.Dashboard:
    board = page(
        UID, "What became of every event: confirmed, waiting, superseded, expired. The sums must balance, always."
    )
    _goal(board)
    _outcomes(board)
    _times(board)
    _again(board)
    return board


def _goal(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Is the promise kept?"))
    board.with_panel(
        number(
            "Events confirmed in time",
            About(
                "Of the events in this time range whose key had a socket, the share that was confirmed within "
                "ACK_TIMEOUT (5 s) of when both were there. Each event counts once. Goal: 99.5 %.",
                "Below 99.5 %: the goal is broken. Events for people who are away do not count, neither way.",
                "See what consumed the error budget; the burn rate says how urgent it is.",
                BURN,
            ),
            [Query(f"1 - {OVERDUE_NOW} / clamp_min({DUE_NOW}, 1)", instant=True)],
            unit="percentunit",
            size=(4, 6),
            thresholds=steps((None, RED), (0.995, GREEN)),
            none="NO DATA",
        )
    )
    board.with_panel(
        number(
            "Ledger balance",
            About(
                "Created minus resolved minus pending. Both sides come from one reading of the outbox.",
                "Anything but 0: events appeared or vanished without an outcome. Data may be lost.",
                "Do not restart: save the data folder, then follow the runbook.",
                ("RoundtripLedgerOutOfBalance",),
            ),
            [Query(total(recorded("ledger:balance")), instant=True)],
            size=(3, 6),
            thresholds=steps((None, RED), (0, GREEN), (1e-9, RED)),
            none="NO DATA",
            zero="balanced",
        )
    )
    board.with_panel(
        number(
            "Pending events",
            About(
                "Events that wait for a confirmation.",
                "Growing while sockets are connected: confirmations are lost. Otherwise people are away.",
                "Compare with the oldest ones beside it and with the misses.",
                ("RoundtripPendingWithSocket",),
            ),
            [Query(total(series("events_pending", TYPE)), instant=True)],
            size=(3, 6),
        )
    )
    board.with_panel(
        number(
            "Pending although a page is connected",
            About(
                "For how long the oldest pending event has had a socket of its key.",
                "Above a minute: the page is there and is not served, or does not confirm.",
                "Find the key in the last misses on Socket mapping; the runbook has the queries.",
                ("RoundtripPendingWithSocket",),
            ),
            [Query(f"max({series('oldest_pending_event_with_socket_age_seconds')})", instant=True)],
            unit="s",
            size=(4, 6),
            thresholds=steps((None, GREEN), (10, AMBER), (60, RED)),
            zero="none",
        )
    )
    board.with_panel(
        number(
            "Oldest pending event, of its life",
            About(
                "Age of the oldest event that waits, as a share of EVENT_TTL, after which it expires.",
                "Near all of it: somebody has been away for as long, and will not see it.",
                "Nothing by itself. Raise EVENT_TTL if people are away for longer as a rule.",
            ),
            [
                Query(
                    f"max({series('oldest_pending_event_age_seconds')} / {series('event_ttl_seconds')})",
                    instant=True,
                )
            ],
            unit="percentunit",
            size=(4, 6),
        )
    )
    board.with_panel(
        graph(
            "How fast the error budget burns",
            About(
                "Errors against what the goal of 99.5 % allows; 1 uses the budget up exactly at the month's end.",
                "5m and 1h above 14.4: page. 6h and 3d above 1: ticket.",
                "Open Socket mapping for the reason.",
                BURN,
            ),
            [
                Query(f"max(roundtrip:delivery_errors:ratio_rate{w}{{{SELECTOR}}}) / 0.005", w)
                for w in ("5m", "1h", "6h", "3d")
            ],
            size=(6, 6),
            thresholds=steps((None, GREEN), (14.4, RED)),
        )
    )
    board.with_panel(
        number(
            "Error budget left",
            About(
                "What this time range's events leave of the half percent that the goal allows. Choose 30 days for the "
                "month's.",
                "Below 0: more events were lost for people who were there than the goal allows.",
                "See beside it what consumed it, and stop that before anything new is deployed.",
                BURN,
            ),
            [Query(f"1 - {OVERDUE_NOW} / (0.005 * clamp_min({DUE_NOW}, 1))", instant=True)],
            unit="percentunit",
            size=(6, 7),
            thresholds=steps((None, RED), (0, AMBER), (0.25, GREEN)),
            none="NO DATA",
        )
    )
    board.with_panel(
        graph(
            "What consumed the error budget",
            About(
                "Events that were due and not confirmed in time, by the first cause; late: no attempt failed, it only "
                "took too long.",
                "Any colour that goes on.",
                "key_mismatch: fix who builds the key. ack_timeout: pages that do not confirm. queue_full: pages that "
                "do not read. late: the outbox or the loop is slow.",
                (*BURN, "RoundtripAcksMissing"),
            ),
            [Query(f"{total(increase(series('events_overdue_total')), 'cause')} > 0", "{{cause}}")],
            bars=True,
            stacked=True,
            size=(12, 7),
        )
    )
    board.with_panel(
        rows(
            "The same, counted",
            About(
                "Events of this time range that were not confirmed in time, by cause. Exact counts.",
                "Any row.",
                "Start with the largest.",
                BURN,
            ),
            [Query(f"{total(exact(series('events_overdue_total')), 'cause')} > 0")],
            rename={"Value": "events"},
            sort="events",
            size=(6, 7),
            none="none",
        )
    )


def _outcomes(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("What became of the events"))
    board.with_panel(
        graph(
            "Events created",
            About(
                "Events stored, by type.",
                "A wave of qr or disconnected without deployments: WhatsApp or the network has trouble.",
                "See the dashboard of the links.",
            ),
            [Query(f"{total(increase(series('events_created_total', TYPE)), 'type')} > 0", "{{type}}")],
            bars=True,
            stacked=True,
        )
    )
    board.with_panel(
        graph(
            "Events resolved by outcome",
            About(
                "acked: the page confirmed. received: the transport did. superseded: a newer one made it pointless. "
                "expired: nobody came in time. discarded: its link was removed.",
                "expired: somebody never learned. received instead of acked with a frontend that acks: acks are lost.",
                "Look an event up under /debug/events on the admin port.",
                BURN,
            ),
            [Query(f"{total(increase(series('events_resolved_total', TYPE)), 'outcome')} > 0", "{{outcome}}")],
            bars=True,
            stacked=True,
            colors=OUTCOMES,
        )
    )
    board.with_panel(
        rows(
            "Ledger since the outbox began",
            About(
                "Every event by type and outcome, exactly.",
                "expired rows of types other than qr and pairing_code.",
                "Open the ledger of the key: GET /api/bots/{botId}/events.",
                ("RoundtripLedgerOutOfBalance",),
            ),
            [Query(f"{total(series('events_resolved_total', TYPE), 'type', 'outcome')} > 0")],
            rename={"Value": "events"},
            sort="events",
        )
    )
    board.with_panel(
        graph(
            "Pending events by type",
            About(
                "What waits, by type.",
                "connected events that pile up: nobody learns that linking worked.",
                "Compare with the connected sockets.",
                ("RoundtripPendingWithSocket",),
            ),
            [Query(f"{total(series('events_pending', TYPE), 'type')} > 0", "{{type}}")],
            stacked=True,
        )
    )


def _times(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("How fast"))
    slow = traces_link("Slow traces", "{ span.messaging.message.id != nil && traceDuration > 1s }")
    board.with_panel(
        graph(
            "Time to the first confirmation",
            About(
                "From an event's creation until the first receipt or acknowledgement; replays, hours later, apart.",
                "p50 of live in seconds: live events arrive late. Replays in minutes are people coming back.",
                "Click a dot for the trace: where did the time go?",
                BURN,
            ),
            [
                Query(quantile(q, "delivery", by=("mode", "grade")), f"p{round(q * 100)} {{{{mode}}}} {{{{grade}}}}")
                for q in (0.5, 0.95, 0.99)
            ],
            unit="s",
            links=[slow],
        )
    )
    board.with_panel(
        heat(
            "Deliveries by time",
            About(
                "The same as a heatmap: live deliveries low, replays high.",
                "A band at the acknowledgement's timeout (5 s): every event is tried twice.",
                "See acknowledgement times and retries.",
            ),
            total(increase(series("delivery_seconds_bucket")), "le"),
        )
    )
    board.with_panel(
        graph(
            "Time to the transport's receipt",
            About(
                "From an attempt until the transport says that the browser has it.",
                "Above half a second: slow network, or a loop that lags.",
                "Compare with the event loop's lag on the Backend dashboard.",
                ("RoundtripReceiptsMissing",),
            ),
            [Query(quantile(q, "receipt"), f"p{round(q * 100)}") for q in (0.5, 0.99)],
            unit="s",
        )
    )
    board.with_panel(
        graph(
            "Time to the page's acknowledgement",
            About(
                "From an attempt until the page's own code confirmed.",
                "Much above the receipt: the page is busy, or acks at the wrong place.",
                "Click a dot; the trace shows receipt and ack beside each other.",
                ("RoundtripAcksMissing",),
            ),
            [Query(quantile(q, "ack"), f"p{round(q * 100)}") for q in (0.5, 0.99)],
            unit="s",
        )
    )
    board.with_panel(
        graph(
            "Confirmations",
            About(
                "Attempts that were confirmed, by what came first: the transport's receipt or the page's own word, "
                "which overtakes the receipt as a rule. Not confirmed: taken by a socket, and silence.",
                "Not confirmed above zero. Acks that stop: pages do not confirm. Receipts that stop: the transport.",
                "The runbook of the missing kind tells the cure.",
                ("RoundtripReceiptsMissing", "RoundtripAcksMissing"),
            ),
            [
                Query(total(increase(series("missed_emits_total", TYPE, 'reason="ack_timeout"'))), "not confirmed"),
                Query(total(increase(series("receipt_seconds_count"))), "receipts"),
                Query(total(increase(series("ack_seconds_count"))), "acks"),
            ],
            colors={"not confirmed": RED, "receipts": "light-green", "acks": GREEN},
            size=(24, 7),
        )
    )


def _again(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Second tries"))
    board.with_panel(
        graph(
            "Replays",
            About(
                "Attempts that sent what was missed, to sockets that came later.",
                "A steady stream: events systematically come before their sockets, or acks are lost.",
                "Open a replay's trace; its link leads to the event's creation.",
            ),
            [Query(total(increase(series("emit_attempts_total", TYPE, 'mode="replay"')), "result"), "{{result}}")],
            bars=True,
            stacked=True,
            colors={"sent": GREEN, "missed": RED},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Retries for a missing acknowledgement",
            About(
                "Attempts that a socket took and nobody confirmed in time.",
                "Anything steady: frontends promise acks and do not send them.",
                "The runbook shows the two lines that a frontend needs.",
                ("RoundtripAcksMissing",),
            ),
            [
                Query(
                    total(increase(series("missed_emits_total", TYPE, 'reason="ack_timeout"')), "type"),
                    "{{type}}",
                )
            ],
            bars=True,
            stacked=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Expired and discarded",
            About(
                "Events that ended unseen.",
                "Any expired event of a type other than qr and pairing_code: somebody never learned.",
                "Find the user through the ledger and tell them; raise EVENT_TTL if people are away for longer.",
            ),
            [
                Query(
                    total(increase(series("events_resolved_total", TYPE, UNSEEN)), "type", "outcome") + " > 0",
                    "{{outcome}} {{type}}",
                )
            ],
            bars=True,
            stacked=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        number(
            "Misses that were replayed",
            About(
                "Replays that reached a socket in this time range.",
                "None at all while events were missed and people came back.",
                "Connect a page with the key and watch Socket mapping.",
            ),
            [Query(total(exact(series("emit_attempts_total", TYPE, 'mode="replay"', 'result="sent"'))), instant=True)],
            size=(12, 5),
            thresholds=steps((None, PURPLE)),
        )
    )
    board.with_panel(
        number(
            "Send attempts that failed",
            About(
                "Attempts in this time range that broke on a full queue or a failed write.",
                "Anything: pages that cannot keep up, or sockets that die while they are written to.",
                "See the disconnects by reason; raise SEND_QUEUE_LIMIT only for pages that are slow by nature.",
                ("RoundtripMissedEmits",),
            ),
            [Query(total(exact(series("missed_emits_total", TYPE, 'reason=~"queue_full|send_failed"'))), instant=True)],
            size=(12, 5),
            thresholds=ZERO_IS_GOOD,
        )
    )
