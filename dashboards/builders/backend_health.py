"""Backend: is the process well, is the outbox fast, does telemetry get out."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

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
from dashboards.builders.promql import SELECTOR, increase, quantile, rate, series, total

UID = "roundtrip-backend"
COLLECTOR = 'job="otel-collector"'


def _own(name: str) -> str:
    """A metric of the process, which has no prefix."""
    return f"{name}{{{SELECTOR}}}"


def build() -> dashboard.Dashboard:
    board = page(UID, "The process under it all: loop, outbox, memory, telemetry, collector.", event_types=False)
    _now(board)
    _readiness(board)
    _canary(board)
    _loop_and_outbox(board)
    _cluster(board)
    _http(board)
    _process(board)
    _telemetry(board)
    _watchers(board)
    return board


def _now(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Is it up?"))
    board.with_panel(
        number(
            "Backends up",
            About(
                "Backends that answer Prometheus.",
                "0 or fewer than expected: nobody is served there.",
                "Follow the runbook: health, then logs.",
                ("RoundtripBackendDown",),
            ),
            [Query(f"sum({_own('up')})", instant=True)],
            size=(3, 5),
            thresholds=steps((None, RED), (1, GREEN)),
            none="NONE",
        )
    )
    board.with_panel(
        rows(
            "Builds",
            About(
                "What runs, and on what.",
                "Two versions for longer than a deployment takes.",
                "Finish or roll back the deployment.",
            ),
            [Query(f"{series('build_info')} * on (job, instance) group_left (implementation) {_own('python_info')}")],
            size=(7, 5),
            hide=("Value",),
        )
    )
    board.with_panel(
        number(
            "Up since",
            About(
                "When the youngest backend started.",
                "A start that nobody did: it crashed, or was killed for its memory.",
                "See memory below and the last log lines.",
                ("RoundtripCrashLoop",),
            ),
            [Query(f"1000 * max({_own('process_start_time_seconds')})", instant=True)],
            unit="dateTimeFromNow",
            size=(4, 5),
            none="NO DATA",
        )
    )
    board.with_panel(
        number(
            "Faults switched on",
            About(
                "Named faults that are on, for development.",
                "Anything on outside an exercise: what you see elsewhere is not real.",
                "DELETE /debug/faults/{name} on the admin port.",
                ("RoundtripFaultActive",),
            ),
            [Query(f"max by (fault) ({series('fault_active')}) > 0", "{{fault}}", instant=True)],
            size=(5, 5),
            names=True,
            none="none",
            thresholds=steps((None, PURPLE)),
        )
    )
    board.with_panel(
        number(
            "Background tasks that died",
            About(
                "Tasks that ended by an error since the start.",
                "Anything but 0: a part of the backend may not work any more.",
                "The log has the error; restart after saving it.",
                ("RoundtripTaskDied",),
            ),
            [Query(total(series("task_failures_total")), instant=True)],
            size=(5, 5),
            thresholds=ZERO_IS_GOOD,
        )
    )


def _readiness(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Can it do its work?"))
    board.with_panel(
        graph(
            "Ready, check by check",
            About(
                "1 while a check of /readyz is well: outbox and link store can be written, the restore runs, no stop.",
                "0: a balancer takes the backend out; new links are refused.",
                "GET /readyz on the admin port says why, in a sentence.",
                ("RoundtripNotReady", "RoundtripOutboxFailing"),
            ),
            [Query(f"min by (check, instance) ({series('ready')})", "{{check}} {{instance}}")],
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Links still to be restored",
            About(
                "Links that a restart interrupted and that are not back yet.",
                "Stays above 0: WhatsApp does not let them in, or is not reached.",
                "See the links board, and the log: link_restored, link_not_restored.",
            ),
            [Query(f"sum by (instance) ({series('links_restoring')})", "{{instance}}")],
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Requests that are none",
            About(
                "HTTP requests that could not be taken, by why.",
                "A steady rate: somebody scans the port, speaks TLS or HTTP/2 to it, or a proxy is set up wrongly.",
                "Look at what stands in front: its protocol, and its limits of header sizes.",
            ),
            [Query(f"{total(increase(series('malformed_requests_total')), 'reason')} > 0", "{{reason}}")],
            bars=True,
            stacked=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Logins to the console",
            About(
                "Logins with the admin key, by how they ended.",
                "Any `refused` in a row, or `limited`: somebody tries keys.",
                "Change ROUNDTRIP_ADMIN_KEY, and see who can reach the admin listener.",
            ),
            [Query(f"{total(increase(series('admin_logins_total')), 'result')} > 0", "{{result}}")],
            bars=True,
            stacked=True,
            size=(8, 7),
        )
    )


def _canary(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Does an event of its own come back?"))
    board.with_panel(
        number(
            "Canary: failures in a row",
            About(
                "Rounds in which a node's own event did not come back through its public address, up to now.",
                "2 or more: what happened to the canary happens to people.",
                "See the stage on the right, and follow the runbook.",
                ("RoundtripCanaryFailing",),
            ),
            [Query(f"max({series('canary_failing')})", instant=True)],
            size=(4, 7),
            thresholds=steps((None, GREEN), (1, AMBER), (2, RED)),
        )
    )
    board.with_panel(
        graph(
            "Canary: round trip",
            About(
                "From the publishing of a node's own event to its acknowledgement by a client, proxy included.",
                "Grows without a slower outbox: the way through the proxy does.",
                "Compare with the outbox's write time and the loop's lag below.",
                ("RoundtripCanaryFailing",),
            ),
            [
                Query(quantile(q, "canary_delivery", by=("instance",)), f"p{round(q * 100)} {{{{instance}}}}")
                for q in (0.5, 0.99)
            ],
            unit="s",
            size=(10, 7),
        )
    )
    board.with_panel(
        graph(
            "Canary: failed rounds by stage",
            About(
                "Rounds that failed, by what they were waiting for.",
                "connect, upgrade, handshake: listener or proxy. store: outbox. delivery, ack: the sending.",
                "The log's line `canary_failed` has the reason.",
                ("RoundtripCanaryFailing",),
            ),
            [Query(total(increase(series("canary_failures_total")), "stage"), "{{stage}}")],
            bars=True,
            stacked=True,
            size=(10, 7),
        )
    )


def _loop_and_outbox(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Event loop and outbox"))
    board.with_panel(
        graph(
            "Event loop's lag",
            About(
                "How much later than asked the loop runs a timer.",
                "p99 above 0.1 s: something blocks; every event waits for it.",
                "Take a profile (py-spy) while it lasts; look at what was deployed.",
                ("RoundtripEventLoopBlocked",),
            ),
            [
                Query(quantile(q, "event_loop_lag", by=("instance",)), f"p{round(q * 100)} {{{{instance}}}}")
                for q in (0.5, 0.99)
            ],
            unit="s",
            thresholds=steps((None, GREEN), (0.1, RED)),
            size=(8, 8),
        )
    )
    board.with_panel(
        graph(
            "Event loop standing still",
            About(
                "Share of the time in which the loop ran nothing that was due.",
                "Above a twelfth: it stands still again and again. A quantile does not show it: the timer looks "
                "once per stall.",
                "py-spy dump while it lasts; look for blocking calls in what was deployed.",
                ("RoundtripEventLoopStalls",),
            ),
            [Query(f"sum by (instance) ({rate(series('event_loop_lag_seconds_sum'))})", "{{instance}}")],
            unit="percentunit",
            soft_max=0.1,
            thresholds=steps((None, GREEN), (0.08, RED)),
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "A batch waits for its commit",
            About(
                "For how long the outbox's writer has been at its present batch.",
                "Seconds: the disk or the database hangs; every event waits behind it.",
                "Look at the disk; /readyz says whether the outbox answers.",
                ("RoundtripOutboxStuck",),
            ),
            [Query(f"max by (instance) ({series('outbox_oldest_batch_age_seconds')})", "{{instance}}")],
            unit="s",
            soft_max=1,
            thresholds=steps((None, GREEN), (10, RED)),
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Garbage collections",
            About(
                "How long one stopped the program.",
                "p99 above 0.05 s: every event waits for it, and something makes objects that refer to each other.",
                "Compare with the number of sockets and links; `python_gc_objects_collected_total` has what was freed.",
            ),
            [
                Query(quantile(q, "gc_pause", by=("instance",)), f"p{round(q * 100)} {{{{instance}}}}")
                for q in (0.5, 0.99)
            ],
            unit="s",
            thresholds=steps((None, GREEN), (0.05, RED)),
            size=(8, 8),
        )
    )
    board.with_panel(
        graph(
            "Outbox write time",
            About(
                "One durable commit, a batch of events.",
                "p99 above 0.1 s: the disk is slow; every event waits before it is emitted.",
                "Check the disk's latency and who else writes to it.",
                ("RoundtripOutboxSlow",),
            ),
            [Query(quantile(q, "outbox_write"), f"p{round(q * 100)}") for q in (0.5, 0.99)],
            unit="s",
            thresholds=steps((None, GREEN), (0.1, RED)),
            size=(8, 8),
        )
    )
    board.with_panel(
        heat(
            "Outbox writes, all",
            About(
                "Commits by how long they took.",
                "A second band far above the first: the disk stalls from time to time.",
                "Look for backups or snapshots at those times.",
                ("RoundtripOutboxSlow",),
            ),
            total(increase(series("outbox_write_seconds_bucket")), "le"),
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Failed commits",
            About(
                "Commits that the outbox could not make, and nodes that do not reach the store.",
                "Anything: requests are refused, events wait in memory.",
                "Disk full, read-only or broken: see the log and the runbook.",
                ("RoundtripOutboxFailing",),
            ),
            [
                Query(total(increase(series("outbox_failures_total"))), "failures"),
                Query(f"sum(1 - {series('store_up')})", "store away"),
            ],
            bars=True,
            colors={"failures": RED, "store away": RED},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Clock steps and slowed replays",
            About(
                "Times that the machine's clock was set, and replays made to wait for clients that confirm nothing.",
                "Steps: time synchronisation is broken. Replays: a client reconnects without end.",
                "The log says `clock_stepped` with the seconds, `replays_slowed` with the key.",
            ),
            [
                Query(total(increase(series("clock_steps_total"))), "clock steps"),
                Query(total(increase(series("replays_slowed_total"))), "slowed replays"),
            ],
            bars=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Outbox size",
            About(
                "Bytes that the outbox takes where it is stored.",
                "Steady growth without more users: the clean-up does not run.",
                "See pending events; make room before the disk is full.",
                ("RoundtripOutboxFull",),
            ),
            [
                Query(f"sum by (instance) ({series('outbox_size_bytes')})", "{{instance}}"),
                Query(f"sum by (instance) ({series('outbox_limit_bytes')})", "limit {{instance}}"),
            ],
            unit="bytes",
            size=(8, 7),
        )
    )


def _cluster(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Cluster"))
    board.with_panel(
        number(
            "Nodes",
            About(
                "Live nodes on one store; without a shared store each is alone and says 1.",
                "Fewer than were started.",
                "The runbook: which one is gone, and who has its links now.",
                ("RoundtripNodeLost",),
            ),
            [Query(f"max({series('nodes')})", instant=True)],
            size=(3, 7),
            thresholds=steps((None, RED), (1, GREEN)),
            none="NO DATA",
        )
    )
    board.with_panel(
        graph(
            "Store reached",
            About(
                "1 while a node reaches the store of its events.",
                "0 at one node: its way there. 0 at all: the store itself.",
                "Sockets stay and events wait; see the runbook, and the database's own log.",
                ("RoundtripStoreDown",),
            ),
            [Query(f"min by (instance) ({series('store_up')})", "{{instance}}")],
            soft_max=1,
            size=(7, 7),
        )
    )
    board.with_panel(
        graph(
            "Age of the leases",
            About(
                "Seconds since each node's lease was renewed, and how long a lease lasts; 0 without a shared store.",
                "Beyond a third of its length: a renewal failed. At 80 % the node ends its WhatsApp sessions.",
                "The log's `lease_not_renewed` says what failed.",
                ("RoundtripNodeLeaseOld",),
            ),
            [
                Query(f"max by (instance) ({series('node_lease_age_seconds')})", "{{instance}}"),
                Query(f"max({series('node_lease_seconds')})", "lease"),
            ],
            unit="s",
            colors={"lease": RED},
            size=(7, 7),
        )
    )
    board.with_panel(
        graph(
            "Links taken over",
            About(
                "Links that nodes took: `handed_over` at a stop, `node_lost` after a lease ended, `started`: nobody's.",
                "node_lost without a node that was killed, or again and again.",
                "The log says `link_claimed` with why; compare with the leases beside.",
                ("RoundtripNodeLost", "RoundtripTakeoversFlapping"),
            ),
            [Query(total(increase(series("link_takeovers_total")), "reason"), "{{reason}}")],
            bars=True,
            stacked=True,
            colors={"node_lost": RED, "handed_over": GREEN, "started": "blue"},
            size=(7, 7),
        )
    )
    board.with_panel(
        graph(
            "Events told to other nodes",
            About(
                "Keys with a new event that one node told another of (`sent`), and those whose events it found only by "
                "looking, seconds later (`found_later`).",
                "found_later again and again: signals get lost.",
                "The log says `signals_connection_lost`: is the connection to PostgreSQL cut, or led through a pool?",
            ),
            [Query(total(rate(series("announcements_total")), "result"), "{{result}}")],
            unit="ops",
            colors={"found_later": RED, "sent": "blue"},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Sockets by node",
            About(
                "Connected sockets of each node.",
                "One node has far more than the others: the proxy does not spread, or it was the only one for a while.",
                "See the proxy's balancing (docs/scaling.md); a reconnect spreads anew.",
            ),
            [Query(f"sum by (instance) ({series('sockets')})", "{{instance}}")],
            stacked=True,
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Links by node",
            About(
                "Links that each node owns.",
                "One node has most of them long after a deployment, and its CPU is the highest.",
                "Restart it: it hands its links over. See *Links taken over*.",
            ),
            [Query(f"sum by (instance) ({series('links')})", "{{instance}}")],
            stacked=True,
            size=(8, 7),
        )
    )


def _http(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("HTTP"))
    duration = "http_server_request_duration_seconds"
    board.with_panel(
        graph(
            "Requests by route",
            About(
                "Requests a second to both listeners, by route; websockets are not among them.",
                "A route that stops, or one that somebody calls in a loop.",
                "Compare with the refusals by limit on Socket mapping.",
            ),
            [Query(f"sum by (route) ({rate(_own(f'{duration}_count'))})", "{{route}}")],
            unit="reqps",
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Requests by status",
            About(
                "The same by class of status.",
                "5xx: the backend fails. 4xx in waves: a caller that was deployed wrongly, or its tokens.",
                "The log has a line for each 5xx; its trace has the cause.",
            ),
            [Query(f"sum by (status_class) ({rate(_own(f'{duration}_count'))})", "{{status_class}}")],
            colors={"5xx": RED, "4xx": AMBER, "2xx": GREEN},
            unit="reqps",
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Request time",
            About(
                "p99 by route. A polling client's GET of /socket.io/ waits for its next packet.",
                "PUT of a link above a second: the outbox or the loop is slow.",
                "Compare with the outbox's write time and the loop's lag.",
            ),
            [Query(f"histogram_quantile(0.99, sum by (le, route) ({rate(_own(f'{duration}_bucket'))}))", "{{route}}")],
            unit="s",
            size=(8, 7),
        )
    )


def _process(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Process"))
    board.with_panel(
        graph(
            "Memory",
            About(
                "Resident and virtual memory.",
                "Resident grows for hours without more sockets: a leak.",
                "Compare with sockets and pending events; restart buys time.",
            ),
            [
                Query(_own("process_resident_memory_bytes"), "resident {{instance}}"),
                Query(_own("process_virtual_memory_bytes"), "virtual {{instance}}"),
            ],
            unit="bytes",
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "CPU",
            About(
                "Cores in use.",
                "Near 1: the loop has no room left, lag follows.",
                "Spread the users over more nodes; see events created.",
                ("RoundtripEventLoopBlocked",),
            ),
            [Query(f"sum by (instance) ({rate(_own('process_cpu_seconds_total'))})", "{{instance}}")],
            size=(8, 7),
            thresholds=steps((None, GREEN), (0.9, RED)),
        )
    )
    board.with_panel(
        graph(
            "Open files",
            About(
                "File descriptors, one a socket, and their limit.",
                "Above four fifths of the limit: soon nobody can connect.",
                "Raise the limit (ulimit -n); look for sockets that never close.",
            ),
            [
                Query(_own("process_open_fds"), "open {{instance}}"),
                Query(_own("process_max_fds"), "limit {{instance}}"),
            ],
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Garbage collection",
            About(
                "Collections and collected objects by generation.",
                "Generation 2 often: much memory is made and lost; the loop pauses for it.",
                "Compare with the loop's lag.",
            ),
            [
                Query(f"sum by (generation) ({rate(_own('python_gc_collections_total'))})", "runs {{generation}}"),
                Query(
                    f"sum by (generation) ({rate(_own('python_gc_objects_collected_total'))})", "objects {{generation}}"
                ),
                Query(
                    f"sum by (generation) ({rate(_own('python_gc_objects_uncollectable_total'))})",
                    "uncollectable {{generation}}",
                ),
            ],
            unit="ops",
            size=(24, 6),
        )
    )


def _telemetry(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Telemetry and collector"))
    board.with_panel(
        graph(
            "Telemetry lost by the backend",
            About(
                "Spans and log records that the backend could not get out, beside the spans that arrived.",
                "Anything lost: traces have holes. Events are not delayed by it.",
                "Is the collector up? See beside.",
                ("RoundtripTelemetryDropped",),
            ),
            [
                Query(total(increase(series("telemetry_dropped_total")), "signal"), "{{signal}} lost"),
                Query(total(increase(series("spans_exported_total"))), "spans exported"),
            ],
            colors={"spans exported": GREEN},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Collector: spans in and out",
            About(
                "Spans accepted, refused, sent on, failed to be sent, and lost for want of room.",
                "refused: its memory limit is reached. failed or queue full: Tempo does not take them.",
                "Give it memory, or see Tempo's log.",
                ("RoundtripCollectorFailing", "RoundtripCollectorLosing"),
            ),
            [
                Query(total(rate(f"otelcol_receiver_accepted_spans_total{{{COLLECTOR}}}")), "accepted"),
                Query(total(rate(f"otelcol_receiver_refused_spans_total{{{COLLECTOR}}}")), "refused"),
                Query(total(rate(f"otelcol_exporter_sent_spans_total{{{COLLECTOR}}}")), "sent"),
                Query(total(rate(f"otelcol_exporter_send_failed_spans_total{{{COLLECTOR}}}")), "failed"),
                Query(total(rate(f"otelcol_exporter_enqueue_failed_spans_total{{{COLLECTOR}}}")), "queue full"),
            ],
            unit="ops",
            colors={"refused": AMBER, "failed": RED},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Collector: queues and memory",
            About(
                "How full the sending queues are, and traces that wait for their decision.",
                "A queue near its size: data is about to be dropped.",
                "See which exporter; restart what it sends to.",
                ("RoundtripCollectorFailing",),
            ),
            [
                Query(
                    f"max by (exporter, data_type) (otelcol_exporter_queue_size{{{COLLECTOR}}} / "
                    f"otelcol_exporter_queue_capacity{{{COLLECTOR}}})",
                    "{{exporter}} {{data_type}}",
                )
            ],
            unit="percentunit",
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Spans that pages sent",
            About(
                "What became of spans that pages sent of the events they handled (BROWSER_TRACES).",
                "Refusals, by their reason: a frontend sends what is not its own, or wrong. not_sampled is no refusal.",
                "The log's page_spans_refused; docs/frontend.md says what a span needs.",
            ),
            [Query(total(increase(series("page_spans_total")), "result"), "{{result}}")],
            colors={"accepted": GREEN},
            size=(24, 6),
        )
    )
    board.with_panel(
        graph(
            "Span durations",
            About(
                "p99 by span, made by the collector from every span that the backend kept.",
                "One name that grows: that step is slow.",
                "Click a dot for a trace of it.",
            ),
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, span_name) (rate("
                    'traces_span_metrics_duration_seconds_bucket{service_name="roundtrip"}[$__rate_interval])))',
                    "{{span_name}}",
                )
            ],
            unit="s",
            size=(24, 8),
        )
    )


def _watchers(board: dashboard.Dashboard) -> None:
    board.with_row(dashboard.Row("Who watches the watchers"))
    board.with_panel(
        graph(
            "What observes",
            About(
                "1 while a part of the observability stack answers Prometheus.",
                "0: what it shows is old, and what it should store is lost.",
                "docker compose ps, then its log.",
                ("RoundtripObserverDown", "RoundtripCollectorFailing"),
            ),
            [Query('min by (job) (up{job=~"otel-collector|tempo|loki|grafana|alertmanager|prometheus"})', "{{job}}")],
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Alerts on their way",
            About(
                "Notifications that Prometheus sent, dropped or failed to pass on, and Alertmanager's failed ones.",
                "Anything dropped or failed: an alert that fires reaches nobody.",
                "See Alertmanager's log and its receivers; the watchdog's silence tells the same.",
                ("RoundtripAlertsNotSent", "RoundtripWatchdog"),
            ),
            [
                Query(total(rate('prometheus_notifications_sent_total{job="prometheus"}')), "sent"),
                Query(total(rate('prometheus_notifications_dropped_total{job="prometheus"}')), "dropped"),
                Query(total(rate('prometheus_notifications_errors_total{job="prometheus"}')), "not taken"),
                Query(total(rate('alertmanager_notifications_failed_total{job="alertmanager"}')), "not delivered"),
            ],
            unit="ops",
            colors={"dropped": RED, "not taken": RED, "not delivered": RED},
            size=(8, 7),
        )
    )
    board.with_panel(
        graph(
            "Rules",
            About(
                "Evaluations of rules that failed, and seconds that the slowest group took.",
                "Any failure: alerts are missing.",
                "Status, then Rules, in Prometheus itself says which and why.",
                ("RoundtripRulesFailing",),
            ),
            [
                Query(total(rate('prometheus_rule_evaluation_failures_total{job="prometheus"}')), "failures"),
                Query('max(prometheus_rule_group_last_duration_seconds{job="prometheus"})', "slowest group, seconds"),
            ],
            colors={"failures": RED},
            size=(8, 7),
        )
    )
