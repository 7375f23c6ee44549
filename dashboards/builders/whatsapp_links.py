"""WhatsApp links: from the code on the screen to a connection that stays."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.builders.links import traces_link
from dashboards.builders.page import page
from dashboards.builders.panels import (
    AMBER,
    GREEN,
    RED,
    ZERO_IS_GOOD,
    About,
    Query,
    bars,
    graph,
    heat,
    number,
    rows,
    steps,
)
from dashboards.builders.promql import exact, increase, quantile, series, total

UID = "roundtrip-whatsapp-links"

STATES = {
    "connected": GREEN,
    "paired": "light-green",
    "qr": "blue",
    "pairing_code": "light-blue",
    "connecting": "semi-dark-blue",
    "degraded": "yellow",
    "disconnected": AMBER,
    "qr_expired": "text",
    "logged_out": "light-red",
    "replaced": "light-red",
    "failed": RED,
    "banned": "dark-red",
    "client_outdated": "purple",
    "idle": "text",
}

NEEDS_A_PERSON = 'state=~"logged_out|replaced|banned|client_outdated|failed"'


def build() -> dashboard.Dashboard:
    board = page(
        UID,
        "Do people get from the code on the screen to connected, and does the connection stay?",
        event_types=False,
    )
    _now(board)
    _pairing(board)
    _staying(board)
    _workers(board)
    return board


def _now(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Links now"))
    board.with_panel(
        number(
            "Connected links",
            About(
                "WhatsApp sessions that are online.",
                "Falls while nobody logged out: WhatsApp or the network fails.",
                "See the transitions by reason below.",
                ("RoundtripLinksDown",),
            ),
            [Query(total(series("links", 'state="connected"')), instant=True)],
            size=(4, 6),
            thresholds=steps((None, GREEN)),
        )
    )
    board.with_panel(
        number(
            "Links that need a person",
            About(
                "Logged out, replaced, banned, outdated or failed: nothing heals these by itself.",
                "Many at once: not the users' doing.",
                "client_outdated: upgrade the WhatsApp library now. banned: stop sending and read the runbook.",
                ("RoundtripClientOutdated",),
            ),
            [Query(f"{total(series('links', NEEDS_A_PERSON), 'state')} > 0", "{{state}}", instant=True)],
            size=(6, 6),
            names=True,
            none="none",
            thresholds=steps((None, RED)),
            colors=STATES,
        )
    )
    board.with_panel(
        number(
            "Client outdated",
            About(
                "Links that WhatsApp refuses because the library's version is too old.",
                "Anything but 0: every link follows within hours.",
                "Upgrade neonize and deploy; the runbook has the steps.",
                ("RoundtripClientOutdated",),
            ),
            [Query(total(series("links", 'state="client_outdated"')), instant=True)],
            size=(4, 6),
            thresholds=ZERO_IS_GOOD,
            zero="none",
        )
    )
    board.with_panel(
        graph(
            "Links by state",
            About(
                "All links over time, by state.",
                "disconnected or degraded grow together with falling connected: an outage.",
                "Check the path to WhatsApp (proxy, DNS) and its status page.",
                ("RoundtripLinksDown",),
            ),
            [Query(f"{total(series('links'), 'state')} > 0", "{{state}}")],
            stacked=True,
            colors=STATES,
            size=(10, 6),
        )
    )


def _pairing(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("From the code to connected"))
    entered = "link_transitions_total"
    board.with_panel(
        bars(
            "Funnel",
            About(
                "Links in this time range that began, showed a code, were paired, and connected. Exact counts.",
                "A large step from code to paired: people give up or the code never reaches the page. "
                "From paired to connected: the first connection fails.",
                "Code to paired: see Socket mapping for missed whatsapp_qr. Paired to connected: see transitions.",
                ("RoundtripMissedEmits",),
            ),
            [
                Query(total(exact(series(entered, f'to=~"{states}"'))), name, instant=True)
                for name, states in (
                    ("began", "connecting"),
                    ("code shown", "qr|pairing_code"),
                    ("paired", "paired"),
                    ("connected", "connected"),
                )
            ],
            size=(8, 8),
        )
    )
    board.with_panel(
        graph(
            "Time to pair",
            About(
                "From a link's start to its first connection.",
                "p50 above a minute: people struggle, or the code shows up late.",
                "Open a trace: when was the code created, when did the page get it?",
            ),
            [Query(quantile(q, "link_pairing"), f"p{round(q * 100)}") for q in (0.5, 0.95)],
            unit="s",
            size=(8, 8),
            links=[traces_link("Traces of links", '{ name = "link start" }')],
        )
    )
    board.with_panel(
        heat(
            "Time to pair, all links",
            About(
                "The same as a heatmap.",
                "A band near the codes' end (160 s): people are just in time.",
                "Look at the page with a person who has not seen it before.",
            ),
            total(increase(series("link_pairing_seconds_bucket")), "le"),
            size=(8, 8),
        )
    )


def _staying(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Does it stay connected?"))
    board.with_panel(
        graph(
            "Transitions by state and reason",
            About(
                "Every change of a link's state.",
                "Waves of disconnected, or any logged_out, banned or client_outdated.",
                "The reason is WhatsApp's own word; the runbooks explain them.",
                ("RoundtripLinkFlapping", "RoundtripClientOutdated"),
            ),
            [
                Query(
                    f"{total(increase(series('link_transitions_total')), 'to', 'reason')} > 0",
                    "{{to}} {{reason}}",
                )
            ],
            bars=True,
            stacked=True,
            size=(24, 8),
        )
    )
    board.with_panel(
        graph(
            "Flaps",
            About(
                "Connections that were lost and back soon after, and links whose connection comes and goes.",
                "Links that flap above a tenth of all: an unstable path, or two processes that share the accounts.",
                "Check the proxy; look for the same account elsewhere (replaced).",
                ("RoundtripLinkFlapping",),
            ),
            [
                Query(total(increase(series("link_flaps_total"))), "flaps"),
                Query(total(series("links_flapping")), "links that flap"),
            ],
            colors={"flaps": AMBER, "links that flap": RED},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Restarts and worker exits",
            About(
                "Sessions started again by the backend, worker processes that ended, by how, and links whose worker "
                "keeps dying.",
                "panicked or crashed: the library. killed or memory: want of memory. unresponsive: a hung session. One "
                "link that keeps crashing: its account; all of them: the library.",
                "The worker's last log lines carry the link's id.",
                ("RoundtripLinkFlapping", "RoundtripWorkerCrashes"),
            ),
            [
                Query(total(increase(series("link_restarts_total"))), "restarts"),
                Query(f"{total(increase(series('worker_exits_total')), 'cause')} > 0", "worker {{cause}}"),
                Query(f"{total(series('links_crashing'))} > 0", "links that keep crashing"),
            ],
            bars=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Corrections",
            About(
                "Times that the library contradicted what the backend believed of a link.",
                "Anything steady: events of the library were lost or came out of order.",
                "Open the link under /debug/links on the admin port and compare.",
            ),
            [Query(total(increase(series("link_corrections_total"))), "corrections")],
            bars=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        rows(
            "Transitions in this time range",
            About(
                "Exact counts by state entered and reason.",
                "Rows of logged_out, replaced, banned, client_outdated, failed.",
                "Start with the largest.",
                ("RoundtripClientOutdated",),
            ),
            [Query(f"{total(exact(series('link_transitions_total')), 'to', 'reason')} > 0")],
            rename={"Value": "transitions"},
            sort="transitions",
            size=(24, 8),
        )
    )


def _workers(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("The processes that accounts share"))
    board.with_panel(
        graph(
            "Workers",
            About(
                "Worker processes: hosts of linked accounts, and one for each link that is being paired.",
                "Falls and rises together with worker exits: hosts die, and others take their accounts over.",
                "See which cause, and the log's worker_ended lines.",
                ("RoundtripHostDies",),
            ),
            [Query(total(series("workers")), "workers")],
            size=(6, 7),
        )
    )
    board.with_panel(
        graph(
            "Sessions in one worker",
            About(
                "How many accounts share a worker: the mean, and the most.",
                "The mean far below the most: small groups, as after a death that nothing explains.",
                "They fill up again after ten minutes; ROUNDTRIP_SESSIONS_PER_WORKER is the limit.",
                ("RoundtripHostDies",),
            ),
            [Query(f"max by (stat) ({series('worker_sessions')})", "{{stat}}")],
            size=(6, 7),
        )
    )
    board.with_panel(
        graph(
            "Memory of one worker",
            About(
                "Proportional set size of the workers: the mean, and the most.",
                "The most comes near ROUNDTRIP_WORKER_MEMORY_LIMIT: its accounts are about to be moved out.",
                "One account with a large history, or many: see docs/whatsapp.md.",
                ("RoundtripHostDies",),
            ),
            [Query(f"max by (stat) ({series('worker_memory_bytes')})", "{{stat}}")],
            unit="bytes",
            size=(6, 7),
        )
    )
    board.with_panel(
        graph(
            "Workers that ended",
            About(
                "Worker processes that ended, by cause.",
                "Anything but stopped and exited: killed, panicked, crashed, unresponsive, or over the memory limit.",
                "The runbook has a cure for each; a trace of a move shows how long an account was away.",
                ("RoundtripHostDies", "RoundtripWorkerCrashes"),
            ),
            [Query(f"{total(increase(series('worker_exits_total')), 'cause')} > 0", "{{cause}}")],
            bars=True,
            size=(6, 7),
            links=[traces_link("Traces of moves", '{ name = "worker move" }')],
        )
    )
