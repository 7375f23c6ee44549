"""What all panels have in common, so that a dashboard's module reads as its list of questions.

Every panel says in its description what it shows, what a bad value means, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, loki, prometheus, stat, table
from grafana_foundation_sdk.builders import timeseries as timeseries_builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model

from dashboards.builders.links import explore_logs, explore_traces

METRICS: Final = model.DataSourceRef(type_val="prometheus", uid="$datasource")
LOGS: Final = model.DataSourceRef(type_val="loki", uid="$logs")
GREEN: Final = "green"
AMBER: Final = "orange"
RED: Final = "red"
PURPLE: Final = "purple"
BLUE: Final = "blue"


@dataclass(frozen=True)
class Query:
    """One PromQL target. `instant` asks for one value now, else a range."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: prometheus_model.PromQueryFormat = prometheus_model.PromQueryFormat.TIME_SERIES


@dataclass(frozen=True)
class About:
    """A panel's description. `runbooks` are names of alerts that guard it."""

    shows: str
    bad: str
    do: str
    runbooks: tuple[str, ...] = ()

    def text(self) -> str:
        return f"{self.shows}\n\n**Bad:** {self.bad}\n\n**Do:** {self.do}"


def steps(*bounds: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from each bound upwards; the first bound is None."""
    values = [model.Threshold(value=value, color=color) for value, color in bounds]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(values)


ZERO_IS_GOOD: Final = steps((None, GREEN), (1e-9, RED))
NEUTRAL: Final = steps((None, BLUE))


def _runbooks(about: About) -> list[Any]:
    return [dashboard.DashboardLink(f"Runbook: {name}").url(f"/d/{name}").target_blank(True) for name in about.runbooks]


EXEMPLARS: Final = re.compile(
    r"\broundtrip_missed_emits_total\b|\broundtrip_(?:delivery|receipt|ack)_seconds_bucket\b"
    r"|\btraces_span_metrics_duration_seconds_bucket\b"
)
"""The series that carry exemplars. A target that asks for those of others costs Prometheus a search for nothing."""


def _targets(queries: Sequence[Query]) -> list[Any]:
    built = []
    for ref, query in zip("ABCDEFGHIJ", queries, strict=False):
        target = (
            prometheus.Dataquery()
            .ref_id(ref)
            .expr(query.expr)
            .legend_format(query.legend or "__auto")
            .format(query.format)
            .editor_mode(prometheus_model.QueryEditorMode.CODE)
        )
        built.append(target.instant() if query.instant else target.range().exemplar(bool(EXEMPLARS.search(query.expr))))
    return built


def _dress(panel: Any, title: str, about: About, unit: str, size: tuple[int, int], links: Iterable[Any] = ()) -> Any:
    """Title, description, unit, size, runbooks and links: what a panel must have."""
    panel.title(title).description(about.text()).unit(unit).span(size[0]).height(size[1]).links(_runbooks(about))
    found = list(links)
    return panel.data_links(found) if found else panel


def graph(
    title: str,
    about: About,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    bars: bool = False,
    stacked: bool = False,
    colors: dict[str, str] | None = None,
    links: Iterable[Any] = (),
    thresholds: dashboard.ThresholdsConfig | None = None,
    soft_max: float | None = None,
) -> Any:
    """Values over time. `colors` fixes a series' colour by its legend; `soft_max` keeps a zero from looking large."""
    panel = (
        timeseries_builder.Panel()
        .datasource(METRICS)
        .targets(_targets(queries))
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI).hide_zeros(True))
        .line_width(0 if bars else 2)
        .fill_opacity(80 if bars else 10)
        .show_points(common_model.VisibilityMode.NEVER)
        .draw_style(common_model.GraphDrawStyle.BARS if bars else common_model.GraphDrawStyle.LINE)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A"))
    if thresholds is not None:
        panel.thresholds(thresholds).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        )
    if soft_max is not None:
        panel.axis_soft_max(soft_max)
    for name, color in (colors or {}).items():
        panel.override_by_name(
            name, [model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})]
        )
    return _dress(panel, title, about, unit, size, links)


def number(
    title: str,
    about: About,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    size: tuple[int, int] = (4, 6),
    thresholds: dashboard.ThresholdsConfig = NEUTRAL,
    names: bool = False,
    none: str = "0",
    spark: bool = False,
    links: Iterable[Any] = (),
    colors: dict[str, str] | None = None,
    zero: str | None = None,
) -> Any:
    """One big value, or one per series with `names`. `none` is shown where there is no series, `zero` for a 0."""
    panel = (
        stat.Panel()
        .datasource(METRICS)
        .targets(_targets(queries))
        .thresholds(thresholds)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .color_mode(common_model.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(common_model.BigValueGraphMode.AREA if spark else common_model.BigValueGraphMode.NONE)
        .text_mode(common_model.BigValueTextMode.VALUE_AND_NAME if names else common_model.BigValueTextMode.VALUE)
        .orientation(common_model.VizOrientation.HORIZONTAL if names else common_model.VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .no_value(none)
    )
    if zero is not None:
        panel.mappings([model.ValueMap(options={"0": model.ValueMappingResult(text=zero, index=0)})])
    for name, color in (colors or {}).items():
        panel.override_by_name(
            name, [model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})]
        )
    return _dress(panel, title, about, unit, size, links)


def bars(
    title: str,
    about: About,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    thresholds: dashboard.ThresholdsConfig = NEUTRAL,
) -> Any:
    """Present values beside each other, such as the steps of a funnel."""
    panel = (
        bargauge.Panel()
        .datasource(METRICS)
        .targets(_targets(queries))
        .thresholds(thresholds)
        .min(0)
        .orientation(common_model.VizOrientation.HORIZONTAL)
        .display_mode(common_model.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    )
    return _dress(panel, title, about, unit, size)


def heat(title: str, about: About, bucket_expr: str, *, size: tuple[int, int] = (12, 8)) -> Any:
    """A histogram over time; `bucket_expr` is summed by `le`."""
    query = Query(bucket_expr, "{{le}}", format=prometheus_model.PromQueryFormat.HEATMAP)
    panel = (
        heatmap.Panel()
        .datasource(METRICS)
        .targets(_targets([query]))
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .exemplars_color("rgba(255,0,255,0.7)")
    )
    return _dress(panel, title, about, "short", size)


def rows(
    title: str,
    about: About,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    size: tuple[int, int] = (12, 8),
    hide: Sequence[str] = (),
    rename: dict[str, str] | None = None,
    links: Iterable[Any] = (),
    sort: str | None = None,
    column_links: dict[str, tuple[str, str]] | None = None,
    none: str = "nothing",
) -> Any:
    """A table of instant queries, one row a series. `column_links` gives a column a title and an address."""
    shown = [Query(q.expr, q.legend, instant=True, format=prometheus_model.PromQueryFormat.TABLE) for q in queries]
    panel = (
        table.Panel()
        .datasource(METRICS)
        .targets(_targets(shown))
        .no_value(none)
        .transformations(
            [
                model.DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": dict.fromkeys(("Time", "__name__", "job", "instance", *hide), True),
                        "indexByName": {},
                        "renameByName": rename or {},
                    },
                )
            ]
        )
    )
    if sort is not None:
        panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    for column, (text, url) in (column_links or {}).items():
        _link_column(panel, column, [(text, url)])
    return _dress(panel, title, about, unit, size, links)


def _link_column(panel: Any, column: str, links: Sequence[tuple[str, str]]) -> None:
    """Have a table's column lead somewhere: `links` are titles and addresses."""
    value = [{"title": title, "url": url, "targetBlank": True} for title, url in links]
    panel.override_by_name(column, [model.DynamicConfigValue(id_val="links", value=value)])


def log_rows(title: str, about: About, logql: str, *, size: tuple[int, int] = (24, 9), fields: dict[str, int]) -> Any:
    """Log lines as a table, newest first; `fields` are the columns in their order. Trace ids open their trace, event
    ids the event's timeline, keys their log lines and traces."""
    panel = (
        table.Panel()
        .datasource(LOGS)
        .targets([loki.Dataquery().ref_id("A").expr(logql).query_type("range").max_lines(50)])
        .transformations(
            [
                model.DataTransformerConfig(
                    id_val="extractFields", options={"source": "labels", "format": "json", "replace": False}
                ),
                model.DataTransformerConfig(
                    id_val="organize",
                    options={
                        "excludeByName": {"labels": True, "id": True, "tsNs": True, "labelTypes": True, "Line": True},
                        "includeByName": dict.fromkeys(("Time", *fields), True),
                        "indexByName": {"Time": 0, **fields},
                        "renameByName": {},
                    },
                ),
            ]
        )
        .no_value("no misses in this time range")
    )
    _link_column(panel, "trace_id", [("Open the trace", explore_traces("${__value.raw}"))])
    _link_column(
        panel,
        "event_id",
        [
            ("The event's timeline", "$admin/debug/events/${__value.raw}"),
            ("The event's spans", explore_traces('{ span.messaging.message.id = "${__value.raw}" }')),
        ],
    )
    _link_column(
        panel,
        "key",
        [
            ("The key's log lines", explore_logs('{service_name="roundtrip"} | key=`${__value.raw}`')),
            ("The key's traces", explore_traces('{ span.roundtrip.key.hash = "${__value.raw}" }')),
        ],
    )
    _link_column(
        panel,
        "reason",
        [("Traces of this reason", explore_traces('{ span.roundtrip.miss.reason = "${__value.raw}" }'))],
    )
    return _dress(panel, title, about, "string", size)
