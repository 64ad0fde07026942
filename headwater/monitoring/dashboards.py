"""Grafana dashboards: overview, one view, ingest, service. Built with grafana-foundation-sdk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.monitoring.alerts import P, null_ratio
from headwater.monitoring.options import Options

RATE = "$__rate_interval"
_VIEW = 'feature_view=~"$view"'
_HOT = 'route="/get-online-features"'


class Query(NamedTuple):
    """One PromQL expression and how its lines are called."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    title: str
    queries: Sequence[Query]
    unit: str = "short"
    description: str = ""


class Board(NamedTuple):
    """A dashboard: rows of panels. `by_view`: it has a choice of views."""

    name: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    by_view: bool = False


def boards(catalog: Catalog) -> list[Board]:
    """The dashboards that make sense for a project."""
    found = [_overview(), _view(), _service()]
    return [*found, _ingest()] if catalog.streams else found


def _age(stage: str, matcher: str = "") -> str:
    more = f",{matcher}" if matcher else ""
    clock = f'{P}last_event_timestamp_seconds{{stage="{stage}"{more}}}'
    return f"time() - max by (feature_view) ({clock})"


def _nulls(matcher: str = "") -> str:
    found = null_ratio(RATE)
    return found.replace("_total[", f"_total{{{matcher}}}[") if matcher else found


def _quantile(q: float, metric: str, matcher: str = "", by: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return (
        f"histogram_quantile({q:g}, sum by ({labels}) "
        f"(rate({P}{metric}_bucket{{{matcher}}}[{RATE}])))"
    )


def _overview() -> Board:
    slo = f"max by (feature_view) ({P}freshness_slo_seconds)"
    return Board("overview", "Headwater: overview", [
        ("Freshness", [
            Panel("Age against the objective", [
                Query(f"({_age('online')}) / on (feature_view) {slo}", "{{feature_view}}"),
            ], "percentunit", "Over 100 % a view is stale."),
            Panel("Age of what can be served", [Query(_age("online"), "{{feature_view}}")], "s"),
        ]),
        ("Values", [
            Panel("Nulls among served values, by view", [Query(
                f"sum by (feature_view) (rate({P}online_nulls_total[{RATE}])) / "
                f"(sum by (feature_view) (rate({P}online_values_total[{RATE}])) > 0)",
                "{{feature_view}}",
            )], "percentunit"),
            Panel("Values served", [Query(
                f"sum by (feature_view) (rate({P}online_values_total[{RATE}]))", "{{feature_view}}"
            )], "cps"),
        ]),
        ("Service and stores", [
            Panel("Requests", [Query(
                f"sum by (status) (rate({P}request_duration_seconds_count[{RATE}]))", "{{status}}"
            )], "reqps"),
            Panel("The online store answers", [
                Query(f"max by (store) ({P}store_up)", "{{store}}")
            ]),
        ]),
    ])  # fmt: skip


def _view() -> Board:
    return Board("view", "Headwater: one view", [
        ("Freshness", [
            Panel("Age by stage", [
                *(Query(_age(stage, _VIEW), f"{{{{feature_view}}}} {stage}")
                  for stage in ("source", "offline", "online")),
                Query(f"max by (feature_view) ({P}freshness_slo_seconds{{{_VIEW}}})",
                      "{{feature_view}} objective"),
            ], "s", "Where the lines part, the fault lies between."),
            Panel("Age of served values", [
                Query(_quantile(q, "served_value_age_seconds", _VIEW, "feature_view"),
                      f"{{{{feature_view}}}} p{q * 100:g}")
                for q in (0.5, 0.95)
            ], "s"),
        ]),
        ("Nulls", [
            Panel("Nulls by feature", [Query(_nulls(_VIEW), "{{feature}}")], "percentunit"),
            Panel("Nulls by reason", [Query(
                f"sum by (feature, reason) (rate({P}online_nulls_total{{{_VIEW}}}[{RATE}]))",
                "{{feature}} {{reason}}",
            )], "cps"),
        ]),
        ("Loads", [
            Panel("Rows loaded from batch sources", [Query(
                f"max by (feature_view) ({P}materialization_rows_total{{{_VIEW}}})",
                "{{feature_view}}",
            )]),
            Panel("Last good load", [Query(
                "time() - max by (feature_view) "
                f"({P}materialization_last_success_timestamp_seconds{{{_VIEW}}})",
                "{{feature_view}}",
            )], "s"),
        ]),
    ], by_view=True)  # fmt: skip


def _ingest() -> Board:
    return Board("ingest", "Headwater: ingest", [
        ("Lag", [
            Panel("Messages that wait", [Query(
                f"max by (topic, partition) ({P}ingest_lag_records)", "{{topic}}-{{partition}}"
            )]),
            Panel("Age of what is applied", [Query(
                f"max by (topic, partition) ({P}ingest_lag_seconds)", "{{topic}}-{{partition}}"
            )], "s"),
        ]),
        ("Events", [
            Panel("Messages", [Query(
                f"sum by (topic, result) (rate({P}ingest_records_total[{RATE}]))",
                "{{topic}} {{result}}",
            )], "cps"),
            Panel("Rejected", [Query(
                f"sum by (feature_view, reason) (rate({P}ingest_rejected_total[{RATE}]))",
                "{{feature_view}} {{reason}}",
            )], "cps"),
            Panel("Watermark's age", [Query(
                f"time() - max by (feature_view) ({P}ingest_watermark_timestamp_seconds)",
                "{{feature_view}}",
            )], "s", "It grows where no events come, and where events are stuck."),
        ]),
        ("Workers", [
            Panel("Time by step", [Query(
                f"sum by (step) (rate({P}ingest_batch_seconds_sum[{RATE}]))", "{{step}}"
            )], "percentunit", "Seconds of work a second: at 100 % a step is the bottleneck."),
            Panel("From Kafka to Redis", [
                Query(_quantile(q, "ingest_servable_seconds"), f"p{q * 100:g}")
                for q in (0.5, 0.99)
            ], "s"),
            Panel("Memory", [Query(
                'process_resident_memory_bytes{job="headwater-ingest"}', "{{instance}}"
            )], "bytes"),
            Panel("Processor", [Query(
                f'rate(process_cpu_seconds_total{{job="headwater-ingest"}}[{RATE}])',
                "{{instance}}",
            )], "percentunit"),
        ]),
    ])  # fmt: skip


def _service() -> Board:
    errors = f'sum(rate({P}request_duration_seconds_count{{{_HOT},status="5xx"}}[{RATE}]))'
    every = f"(sum(rate({P}request_duration_seconds_count{{{_HOT}}}[{RATE}])) > 0)"
    return Board("service", "Headwater: service", [
        ("Requests for vectors", [
            Panel("Rate by status", [Query(
                f"sum by (status) (rate({P}request_duration_seconds_count{{{_HOT}}}[{RATE}]))",
                "{{status}}",
            )], "reqps"),
            Panel("Share that fails", [Query(f"({errors} or vector(0)) / {every}", "5xx")],
                  "percentunit"),
            Panel("Latency", [
                Query(_quantile(q, "request_duration_seconds", _HOT), f"p{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ], "s"),
        ]),
        ("Every route", [
            Panel("Rate by route", [Query(
                f"sum by (route, status) (rate({P}request_duration_seconds_count[{RATE}]))",
                "{{route}} {{status}}",
            )], "reqps"),
            Panel("Latency by route, p95", [Query(
                _quantile(0.95, "request_duration_seconds", by="route"), "{{route}}"
            )], "s"),
        ]),
        ("Saturation", [
            Panel("Under way", [Query(f"sum by (route) ({P}requests_in_flight)", "{{route}}")]),
            Panel("Entities a request", [
                Query(_quantile(q, "online_entities_per_request"), f"p{q * 100:g}")
                for q in (0.5, 0.99)
            ]),
            Panel("Time of the store, p95", [Query(
                _quantile(0.95, "store_operation_duration_seconds", by="store, op"),
                "{{store}} {{op}}",
            )], "s"),
            Panel("Failed calls to a store", [Query(
                f"sum by (store, op, kind) (rate({P}store_errors_total[{RATE}]))",
                "{{store}} {{op}} {{kind}}",
            )], "cps"),
            Panel("Memory of the store", [
                Query(f"max by (store) ({P}store_memory_bytes)", "{{store}}"),
            ], "bytes"),
        ]),
    ])  # fmt: skip


def dashboard(board: Board, catalog: Catalog, options: Options) -> str:
    """A board as the JSON that Grafana reads. Raises HeadwaterError without the SDK."""
    try:
        from grafana_foundation_sdk.builders import dashboard as built
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
    except ImportError:
        raise HeadwaterError(
            "dashboards are built with grafana-foundation-sdk: pip install 'headwater[monitoring]'"
        ) from None
    made = (
        built.Dashboard(f"{board.title} ({catalog.project})")
        .uid(_uid(catalog.project, board.name))
        .tags(["headwater", catalog.project])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("utc")
        .with_variable(
            built.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    if board.by_view:
        made = made.with_variable(
            built.QueryVariable("view").label("View").datasource(_source())
            .query(f"label_values({P}feature_view_info, feature_view)")
            .multi(True).include_all(True)
        )  # fmt: skip
    for title, panels in board.rows:
        made = made.with_row(built.Row(title))
        for panel in panels:
            made = made.with_panel(_panel(panel, 24 // min(len(panels), 3), options))
    text = JSONEncoder(sort_keys=True, indent=2).encode(made.build())
    return json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def _uid(project: str, board: str) -> str:
    """A name of at most 40 characters, as Grafana wants it, that no other project's board has."""
    name = f"headwater-{project}-{board}"
    if len(name) <= 40 and re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    return f"headwater-{hashlib.sha256(project.encode()).hexdigest()[:12]}-{board}"


def _source() -> Any:
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    return DataSourceRef(type_val="prometheus", uid="$datasource")


def _panel(panel: Panel, width: int, options: Options) -> Any:
    from grafana_foundation_sdk.builders import prometheus, timeseries

    made = (
        timeseries.Panel().title(panel.title).description(panel.description).unit(panel.unit)
        .datasource(_source()).span(width).height(8).min(0).interval(options.time(1))
    )  # fmt: skip
    for at, (expr, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(65 + at))
        made = made.with_target(query)
    return made
