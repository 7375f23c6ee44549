"""Socket mapping: are events missing their sockets, which, why, and since when."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.builders.links import explore_traces, traces_link
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
    log_rows,
    number,
    rows,
    steps,
)
from dashboards.builders.promql import DEFECTS, NOBODY, TYPE, exact, increase, rate, recorded, series, total

UID = "roundtrip-socket-mapping"

REASONS = {
    "key_mismatch": PURPLE,
    "ack_timeout": RED,
    "send_failed": "dark-red",
    "queue_full": "dark-orange",
    "just_disconnected": AMBER,
    "other_bot_connected": "light-blue",
    "disconnected": "yellow",
    "never_connected": "blue",
}
"""Purple to orange are the backend's or the frontend's fault; yellow and blue mean that nobody was there."""

MISSES = series("missed_emits_total", TYPE)
MISMATCHES = series("missed_emits_total", TYPE, 'reason="key_mismatch"')
ACCEPTED = series("socket_connects_total", 'result="accepted"')
ATTEMPTS = series("emit_attempts_total", TYPE)
MISSED_ATTEMPTS = series("emit_attempts_total", TYPE, 'result="missed"')
DEFECTS_5M = recorded("missed_emits:count5m", TYPE, DEFECTS)
NOBODY_5M = recorded("missed_emits:count5m", TYPE, NOBODY)
WORST = ("RoundtripMissedEmits", "RoundtripKeyMismatch")

TRACES_OF_REASON = traces_link(
    "Traces of ${__field.labels.reason}", '{ span.roundtrip.miss.reason = "${__field.labels.reason}" }'
)
TRACES_OF_TYPE = traces_link(
    "Traces of missed ${__field.labels.type}",
    '{ span.roundtrip.miss.reason != nil && name = "emit ${__field.labels.type}" }',
)


def build() -> dashboard.Dashboard:
    board = page(
        UID,
        "WhatsApp says connected, the backend emits, and nobody is listening: this dashboard shows that failure. "
        "The first row answers whether events miss their sockets now, which, why, and since when.",
        keys=True,
    )
    _now(board)
    _misses(board)
    _sockets(board)
    _lines(board)
    return board


def _now(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Are events missing their sockets now?"))
    board.with_panel(
        number(
            "Misses by a defect, last 5 minutes",
            About(
                "Attempts that missed by somebody's mistake: key mismatch, missing acknowledgement, full queue, failed "
                "send. Counted exactly.",
                "Anything but none: somebody was there and was not told. The event stays stored and is replayed.",
                "Look right: which event, why, since when.",
                WORST,
            ),
            [Query(total(DEFECTS_5M), instant=True)],
            size=(4, 6),
            thresholds=ZERO_IS_GOOD,
            zero="NONE",
            none="NO DATA",
        )
    )
    board.with_panel(
        number(
            "Nobody was there, last 5 minutes",
            About(
                "Attempts for people who have no page open now. Counted exactly.",
                "Nothing by itself: their events wait for them. A jump says that pages lost their connection.",
                "Compare with the connected sockets below.",
                ("RoundtripMissedEmits",),
            ),
            [Query(total(NOBODY_5M), instant=True)],
            size=(4, 6),
            zero="NONE",
            none="NO DATA",
        )
    )
    board.with_panel(
        number(
            "Why",
            About(
                "The same misses by reason, defects first.",
                "key_mismatch: emitter and frontend build the key differently. ack_timeout: a socket took the event "
                "and never confirmed. other_bot_connected, disconnected and never_connected: nobody was there.",
                "Click a reason to open its traces; the runbook of each reason names the cure.",
                WORST,
            ),
            [Query(f"{total(found, 'reason')} > 0", "{{reason}}", instant=True) for found in (DEFECTS_5M, NOBODY_5M)],
            size=(5, 6),
            names=True,
            none="nothing is missing",
            thresholds=steps((None, RED)),
            colors=REASONS,
            links=[TRACES_OF_REASON],
        )
    )
    board.with_panel(
        number(
            "Which events",
            About(
                "The misses by a defect, by event type.",
                "whatsapp_connected or whatsapp_qr here: people wait in front of a page that does not move.",
                "Click a type to open its traces.",
                WORST,
            ),
            [Query(f"{total(DEFECTS_5M, 'type')} > 0", "{{type}}", instant=True)],
            size=(4, 6),
            names=True,
            none="nothing is missing",
            thresholds=steps((None, RED)),
            links=[TRACES_OF_TYPE],
        )
    )
    board.with_panel(
        number(
            "Missing since",
            About(
                "When the present spell of defects began; a spell ends after five minutes without one.",
                "A moment that matches a deployment, of the backend or of a frontend.",
                "Compare with the annotations and the deployments; roll back what came then.",
                WORST,
            ),
            [Query(f"1000 * min({recorded('missing_since:timestamp_seconds')})", instant=True)],
            unit="dateTimeFromNow",
            size=(3, 6),
            thresholds=steps((None, RED)),
            none="all found",
        )
    )
    board.with_panel(
        rows(
            "Firing alerts",
            About(
                "Roundtrip's alerts that fire now.",
                "Any row. critical wants somebody at once, warning today.",
                "Click the alert's name for its runbook.",
            ),
            [
                Query(
                    'max by (alertname, severity) (ALERTS{alertname=~"Roundtrip.+",alertname!="RoundtripWatchdog",'
                    'alertstate="firing"})'
                )
            ],
            size=(4, 6),
            hide=("Value",),
            column_links={"alertname": ("Open the runbook", "/d/${__value.raw}")},
            none="no alert fires",
        )
    )


def _misses(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("What was missed"))
    board.with_panel(
        graph(
            "Missed emits by reason",
            About(
                "Misses over time; each dot is the trace of one of them.",
                "A new colour, or a step that stays. Short blue and yellow bars are people closing tabs.",
                "Click a dot for the trace, a bar for all traces of that reason.",
                WORST,
            ),
            [Query(f"{total(increase(MISSES), 'reason')} > 0", "{{reason}}")],
            bars=True,
            stacked=True,
            colors=REASONS,
            links=[TRACES_OF_REASON],
        )
    )
    board.with_panel(
        graph(
            "Key mismatches by event",
            About(
                "Events for a key without sockets while the same user has sockets under another botId.",
                "Anything: somebody builds keys by hand, such as using the userId as botId.",
                "Open a trace: the attempt names the bots that were looked for and found. Fix the caller.",
                ("RoundtripKeyMismatch",),
            ),
            [Query(f"{total(increase(MISMATCHES), 'type')} > 0", "{{type}}")],
            bars=True,
            stacked=True,
            links=[TRACES_OF_TYPE],
        )
    )
    board.with_panel(
        rows(
            "Misses in this time range",
            About(
                "Exact counts by event type and reason over the dashboard's time range.",
                "Rows with key_mismatch, ack_timeout, send_failed or queue_full.",
                "Start with the largest; click it for its traces.",
                WORST,
            ),
            [Query(f"{total(exact(MISSES), 'type', 'reason')} > 0")],
            rename={"Value": "misses"},
            sort="misses",
            none="no misses in this time range",
            column_links={
                "reason": (
                    "Traces of this reason",
                    explore_traces('{ span.roundtrip.miss.reason = "${__value.raw}" }'),
                ),
                "type": (
                    "Traces of missed events of this type",
                    explore_traces('{ span.roundtrip.miss.reason != nil && name = "emit ${__value.raw}" }'),
                ),
            },
        )
    )
    board.with_panel(
        graph(
            "Share of attempts that missed",
            About(
                "Misses per attempt, live and replay apart.",
                "live above a few percent while people are connected. replay above zero: sockets vanish "
                "right after connecting.",
                "If live only: see the reasons. If replay too: see the sockets that left within seconds, below.",
                ("RoundtripMissedEmits",),
            ),
            [
                Query(
                    f"{total(rate(MISSED_ATTEMPTS), 'mode')} / {total(rate(ATTEMPTS), 'mode')}",
                    "{{mode}}",
                )
            ],
            unit="percentunit",
            soft_max=0.1,
            thresholds=steps((None, GREEN), (0.05, RED)),
        )
    )


def _sockets(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Who is connected"))
    board.with_panel(
        graph(
            "Connected sockets against mapped keys",
            About(
                "Open: handshakes accepted minus sockets that left. Mapped: sockets that the registry can find. "
                "Keys: users' bots with at least one.",
                "Open above mapped: a socket is connected and cannot be found, so its events miss. That is the "
                "stale clean-up: an old socket's disconnect removed a new mapping.",
                "Ask /debug/sockets on the admin port who is mapped; restart the node to rebuild the map.",
                ("RoundtripUnmappedSockets",),
            ),
            [
                Query(f"{total(ACCEPTED)} - {total(series('socket_disconnects_total'))}", "open"),
                Query(total(series("sockets")), "mapped"),
                Query(total(series("mapped_keys")), "keys"),
            ],
            colors={"open": RED, "mapped": GREEN, "keys": "blue"},
        )
    )
    board.with_panel(
        graph(
            "Sockets by transport",
            About(
                "Mapped sockets by how they are connected.",
                "polling grows against websocket: something between browser and backend refuses the upgrade.",
                "Check the proxy's Upgrade and Connection headers and its idle timeout.",
            ),
            [Query(total(series("sockets"), "transport"), "{{transport}}")],
            stacked=True,
        )
    )
    board.with_panel(
        heat(
            "How long sockets live",
            About(
                "Lifetimes of sockets that ended, as a heatmap; a frontend that stays shows up high.",
                "A band below five seconds: pages connect and leave at once.",
                "See the reasons of disconnects beside it, then the frontend's reconnect loop.",
                ("RoundtripSocketChurn",),
            ),
            total(increase(series("socket_lifetime_seconds_bucket")), "le"),
        )
    )
    board.with_panel(
        graph(
            "Sockets that left within 5 seconds",
            About(
                "Sockets that ended in less than five seconds, and all that ended.",
                "Most of those that end are early: they cannot have shown anything to anybody.",
                "Compare the reasons of disconnects; ping timeout points at the network, client disconnect at the "
                "page's own code.",
                ("RoundtripSocketChurn",),
            ),
            [
                Query(total(increase(series("socket_lifetime_seconds_bucket", 'le="5.0"'))), "within 5 s"),
                Query(total(increase(series("socket_lifetime_seconds_count"))), "all"),
            ],
            bars=True,
            colors={"within 5 s": RED, "all": "blue"},
        )
    )
    board.with_panel(
        graph(
            "Connects by result",
            About(
                "Handshakes by how they ended.",
                "Any refusal that grows: bot_id_missing and forbidden are frontends with a wrong key, unauthorized "
                "an expired or foreign token, too_many_sockets a page that never closes.",
                "The frontend's connect_error carries the same code; read it there.",
                ("RoundtripHandshakesRefused",),
            ),
            [Query(f"{total(increase(series('socket_connects_total')), 'result')} > 0", "{{result}}")],
            bars=True,
            stacked=True,
            colors={"accepted": GREEN},
        )
    )
    board.with_panel(
        graph(
            "Disconnects by reason",
            About(
                "Sockets that left, by why.",
                "ping timeout or transport error in waves: network or proxy. queue_full: a page that cannot keep up. "
                "Closed by the backend: server disconnect, token_expired, draining, protocol_error, replay_failed.",
                "Match the wave with deployments and the proxy's log.",
                ("RoundtripSocketChurn",),
            ),
            [Query(f"{total(increase(series('socket_disconnects_total')), 'reason')} > 0", "{{reason}}")],
            bars=True,
            stacked=True,
        )
    )
    board.with_panel(
        graph(
            "Refusals by limit",
            About(
                "Calls and handshakes that exceeded a limit.",
                "Anything steady: one client in a loop, or a limit that is too tight.",
                "The limit's name says which setting; the log names the key's hash.",
            ),
            [Query(f"{total(increase(series('rate_limited_total')), 'limit')} > 0", "{{limit}}")],
            bars=True,
            stacked=True,
            size=(12, 6),
        )
    )
    board.with_panel(
        graph(
            "Refused packets",
            About(
                "Packets and requests that broke the socket protocol; each closes its connection.",
                "Any that goes on: a client that is no stock one, or somebody who tries the doors.",
                "The label says what was wrong; the log has a line `packet_refused` for each connection.",
            ),
            [Query(f"{total(increase(series('packets_refused_total')), 'what')} > 0", "{{what}}")],
            bars=True,
            stacked=True,
            size=(12, 6),
        )
    )


def _lines(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("The last misses, one by one"))
    board.with_panel(
        log_rows(
            "Last misses",
            About(
                "One line per missed attempt, newest first.",
                "The same key again and again: one user's frontend is wrong. Many keys: the backend is.",
                "Click the trace id to see what was looked for and what was found, the event's id for its timeline, "
                "the key for all of its log lines; put the key's hash into the variable on top to see it alone.",
                WORST,
            ),
            '{service_name="roundtrip"} |= `emit_missed` | key=~`$key.*`',
            fields={"type": 1, "reason": 2, "mode": 3, "key": 4, "event_id": 5, "trace_id": 6},
        )
    )
