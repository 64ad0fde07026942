"""The alerts: what is wrong, as PromQL over our metrics, and who is told. Pure.

They hold for every view that the service shows, so a new view is watched at once. Windows and
waits are multiples of the scrape interval `i`: at 15 s, 20 are five minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from headwater.monitoring.options import Options

P = "featurestore_"
SERVICE, INGEST = "headwater-service", "headwater-ingest"
#: Least events or values in a window for a ratio of them to mean anything.
VOLUME = 100
#: A share of requests that may fail or be slow (over SLOW_SECONDS), and how many times faster
#: than that it is used up when somebody is called: Google's SRE workbook, chapter 5.
BUDGET, BURN, SLOW_SECONDS = {"errors": 0.001, "slow": 0.01}, 14.4, "0.1"


class Alert(NamedTuple):
    """One rule. `waits`: how many intervals it must hold before it fires.

    `needs`: what a project must have for it to make sense: "" nothing, "stream", "batch".
    """

    name: str
    severity: Literal["page", "ticket"]
    expr: str
    waits: float
    summary: str
    description: str
    needs: Literal["", "stream", "batch"] = ""


def alerts(options: Options) -> list[Alert]:
    """Every alert, pages first."""
    found = [
        *_servers(options),
        *_freshness(options),
        *_ingest(options),
        *_requests(options),
        *_nulls(options),
        *_stores(options),
        *_jobs(options),
        *_drift(),
        *_verified(options),
    ]
    return sorted(found, key=lambda alert: alert.severity)


def _down(down: str, o: Options) -> str:
    """PromQL: it was down at two of the last eight looks.

    Holding on a little after the repair, a cause outlives its effects, and goes on hiding them.
    """
    return f"sum_over_time(({down})[{o.time(8)}:{o.time(1)}]) >= 2"


def _gone(job: str, o: Options) -> str:
    """PromQL: no process of a job answers, or there is none to ask.

    A look at which nothing at all was scraped is none: the watching server itself was not there.
    """
    return _down(f'(sum(up{{job="{job}"}}) or 0 * count(up)) == bool 0', o)


def _servers(o: Options) -> Iterator[Alert]:
    yield Alert(
        "FeatureServiceDown", "page",
        _gone(SERVICE, o), 0,
        "No process of the feature service answers",
        "Nobody gets feature vectors.",
    )  # fmt: skip
    yield Alert(
        "IngestDown", "page",
        _gone(INGEST, o), 0,
        "No ingest worker answers",
        "Events wait in Kafka; every stream view is getting stale.", "stream",
    )  # fmt: skip
    yield Alert(
        "InstanceDown", "ticket",
        f'up{{job=~"{SERVICE}|{INGEST}"}} == 0', 20,
        "{{ $labels.instance }} of {{ $labels.job }} does not answer",
        "The others have taken its work over; there is one less to fail.",
    )  # fmt: skip
    yield Alert(
        "FeatureStoreDown", "page", _down(f"max by (store) ({P}store_up) == bool 0", o), 0,
        "The online store ({{ $labels.store }}) does not answer",
        "Requests for vectors are answered 503, and nothing can be written.",
    )  # fmt: skip


_ONLINE = f'max by (feature_view) ({P}last_event_timestamp_seconds{{stage="online"}})'
_SOURCE = f'max by (feature_view) ({P}last_event_timestamp_seconds{{stage="source"}})'
_SLO = f"max by (feature_view) ({P}freshness_slo_seconds)"


def _info(labels: str, matcher: str = "") -> str:
    return (
        f"on (feature_view) group_left ({labels}) "
        f"max by (feature_view, {labels}) ({P}feature_view_info{matcher})"
    )


def _freshness(o: Options) -> Iterator[Alert]:
    yield Alert(
        "FeatureViewStale", "page",
        f"(time() - {_ONLINE} > on (feature_view) {_SLO}) * {_info('stream, owner')}", 1,
        "View {{ $labels.feature_view }} is stale",
        "Its newest event that can be served is {{ $value | humanizeDuration }} old.",
    )  # fmt: skip
    yield Alert(
        "FeatureViewNeverLoaded", "ticket",
        f"({_SLO} unless on (feature_view) {_ONLINE}) * {_info('stream, owner')}", 20,
        "View {{ $labels.feature_view }} has an objective and was never loaded",
        "Every value of it is served as NOT_FOUND.",
    )  # fmt: skip
    # Of a partition that changes hands nobody says for a while what waits.
    waiting = f"sum by (topic) (max_over_time({P}ingest_lag_records[{o.time(4)}]))"
    lagging = (
        f"sum by (stream) ({waiting} * on (topic) group_right "
        f"max by (stream, topic) ({P}stream_topic_info)) > 0"
    )
    of_stream = _info("stream", '{stream!=""}')
    silent = f"max by (stream) ((time() - {_SOURCE} > on (feature_view) {_SLO}) * {of_stream})"
    # While a worker does not go round, nobody knows what waits.
    turned = f"{P}ingest_turn_timestamp_seconds"
    yield Alert(
        "SourceSilent", "page",
        f"last_over_time(({silent} unless on (stream) ({lagging}))[{o.time(3)}:{o.time(1)}]) "
        f"and on () time() - min({turned}) < {4 * o.interval:g} "
        f'and on () sum(up{{job="{INGEST}"}}) > 0', 0,
        "Kafka source {{ $labels.stream }} is silent",
        "Its newest event is {{ $value | humanizeDuration }} old, and none waits in Kafka.",
        "stream",
    )  # fmt: skip
    yield Alert(
        "OfflineLogBehind", "ticket",
        f"({_SOURCE} - max by (feature_view) "
        f'({P}last_event_timestamp_seconds{{stage="offline"}}) > {20 * o.interval:g}) * '
        f"{_info('stream, owner')}", 20,
        "The offline log of view {{ $labels.feature_view }} is behind",
        "It lacks the last {{ $value | humanizeDuration }} of what has arrived.", "stream",
    )  # fmt: skip


def _ingest(o: Options) -> Iterator[Alert]:
    # A worker that hangs, or is refused by a store over and over, no longer says that any wait.
    yield Alert(
        "IngestStalled", "page",
        f"(sum by (topic) ({P}ingest_lag_records) > 0 and on (topic) sum by (topic) "
        f'(rate({P}ingest_records_total{{result!="duplicate"}}[{o.time(8)}])) == 0) or '
        f"max by (instance) (time() - {P}ingest_turn_timestamp_seconds) > {8 * o.interval:g}", 4,
        "Nothing is taken in: {{ or $labels.topic $labels.instance }}",
        "Messages wait, or the worker stands still, and nothing was applied lately.", "stream",
    )  # fmt: skip
    yield Alert(
        "IngestLagSeconds", "ticket",
        f"max by (topic, partition) ({P}ingest_lag_seconds) > {20 * o.interval:g}", 20,
        "Ingest is behind on {{ $labels.topic }}-{{ $labels.partition }}",
        "What is applied now came {{ $value | humanizeDuration }} ago.", "stream",
    )  # fmt: skip
    yield Alert(
        "SchemaViolation", "ticket",
        f"sum by (feature_view, reason) (increase({P}ingest_rejected_total"
        f'{{reason=~"invalid|udf"}}[{o.time(20)}])) > 0', 0,
        "Events of view {{ $labels.feature_view }} are rejected as {{ $labels.reason }}",
        "{{ $value | humanize }} of them lately; `headwater dead-letters list` says why.", "stream",
    )  # fmt: skip
    yield Alert(
        "LateEvents", "ticket",
        f"sum by (feature_view) (increase({P}ingest_late_records_total[{o.time(20)}])) > "
        f"{VOLUME}", 0,
        "Many events of view {{ $labels.feature_view }} come too late",
        "{{ $value | humanize }} of them lately; they count neither online nor offline.", "stream",
    )  # fmt: skip


def _requests(o: Options) -> Iterator[Alert]:
    route = 'route="/get-online-features"'
    count = f"{P}request_duration_seconds_count"

    def burn(bad: str, window: str, share: float) -> str:
        every = f"sum(rate({count}{{{route}}}[{window}]))"
        return f"{bad.replace('WINDOW', window)} / {every} > {share:g}"

    def both(bad: str, budget: str) -> str:
        share = BURN * BUDGET[budget]
        volume = f"sum(increase({count}{{{route}}}[{o.time(20)}])) > {VOLUME}"
        windows = (o.time(20), o.time(240), o.time(4))  # the last: it still goes on
        return " and ".join([*(burn(bad, window, share) for window in windows), volume])

    # What the definitions refuse is no error: its view is stale, which is a page of its own.
    refused = f"(sum(rate({P}requests_refused_total{{{route}}}[WINDOW])) or vector(0))"
    errors = f'(sum(rate({count}{{{route},status="5xx"}}[WINDOW])) - {refused})'
    yield Alert(
        "OnlineErrorBudgetBurn", "page", both(errors, "errors"), 0,
        "Requests for vectors fail",
        "{{ $value | humanizePercentage }} of them are answered 5xx.",
    )  # fmt: skip
    bucket = f"{P}request_duration_seconds_bucket"
    slow = (
        f"(sum(rate({count}{{{route}}}[WINDOW])) - "
        f'sum(rate({bucket}{{{route},le="{SLOW_SECONDS}"}}[WINDOW])))'
    )
    yield Alert(
        "OnlineLatencyBudgetBurn", "page", both(slow, "slow"), 0,
        "Requests for vectors are slow",
        f"{{{{ $value | humanizePercentage }}}} of them take longer than {SLOW_SECONDS} s.",
    )  # fmt: skip
    age = f"sum by (feature_view, le) (rate({P}served_value_age_seconds_bucket[{o.time(20)}]))"
    yield Alert(
        "FeatureServedStale", "ticket",
        f"(histogram_quantile(0.95, {age}) > on (feature_view) "
        f"max by (feature_view) ({P}served_age_limit_seconds)) * {_info('owner')}", 4,
        "Values of view {{ $labels.feature_view }} are served too old",
        "One in twenty is older than {{ $value | humanizeDuration }}.",
    )  # fmt: skip


def null_ratio(window: str, offset: str = "") -> str:
    """PromQL: nulls among the values that were served, by feature."""
    by = "sum by (feature_view, feature)"
    nulls = f"{by} (increase({P}online_nulls_total[{window}]{offset}))"
    return f"{nulls} / ({_served(window, offset)} > 0)"


def _served(window: str, offset: str = "") -> str:
    return f"sum by (feature_view, feature) (increase({P}online_values_total[{window}]{offset}))"


def _nulls(o: Options) -> Iterator[Alert]:
    window, before = o.time(20), o.time(240)
    on = "on (feature_view, feature)"
    enough = f"{_served(window)} > {VOLUME}"
    yield Alert(
        "FeatureNullRatioHigh", "ticket",
        f"{null_ratio(window)} > {on} max by (feature_view, feature) "
        f"({P}feature_null_ratio_limit) and {on} {enough}", 4,
        "Feature {{ $labels.feature_view }}:{{ $labels.feature }} is null too often",
        "{{ $value | humanizePercentage }} of what is served is null.",
    )  # fmt: skip
    usual = null_ratio(before, f" offset {window}")
    noise = f"4 * sqrt({_variance(usual)} / {on} ({_served(window)} > 0))"
    yield Alert(
        "NullRatioJump", "ticket",
        f"{null_ratio(window)} - {on} {usual} > {on} (0.1 + {noise}) and {on} {enough} and {on} "
        f"{_served(before, f' offset {window}')} > {VOLUME}", 0,
        "Feature {{ $labels.feature_view }}:{{ $labels.feature }} is null more often than before",
        "The share of nulls rose by {{ $value | humanizePercentage }}.",
    )  # fmt: skip


def _variance(ratio: str) -> str:
    """PromQL: p (1 - p), the variance of one draw; p is clamped away from certainty."""
    return f"(clamp({ratio}, 0.01, 0.99) * (1 - clamp({ratio}, 0.01, 0.99)))"


def _stores(o: Options) -> Iterator[Alert]:
    yield Alert(
        "StoreEvictsKeys", "page",
        f"max by (store) (increase({P}store_evicted_keys_total[{o.time(20)}])) > 0", 0,
        "The online store throws values away for lack of memory",
        "{{ $value | humanize }} keys lately; set maxmemory-policy noeviction and give it more.",
    )  # fmt: skip
    yield Alert(
        "StoreMemoryHigh", "ticket",
        f"max by (store) ({P}store_memory_bytes / {P}store_memory_limit_bytes) > 0.9", 20,
        "The online store is nearly full",
        "It uses {{ $value | humanizePercentage }} of the memory that it may.",
    )  # fmt: skip
    yield Alert(
        "FeatureLogDropping", "ticket",
        f'sum(increase({P}logged_vectors_total{{outcome=~"dropped|failed"}}[{o.time(20)}])) > 0', 0,
        "Served vectors are missing from the feature log",
        "{{ $value | humanize }} lately: what is checked of them is a smaller sample.",
    )  # fmt: skip


def _jobs(_: Options) -> Iterator[Alert]:
    failed, good = (
        f"max by (feature_view) ({P}materialization_last_{end}_timestamp_seconds)"
        for end in ("failure", "success")
    )
    yield Alert(
        "MaterializationFailed", "ticket", f"{failed} > ({good} or {failed} * 0)", 0,
        "Loading view {{ $labels.feature_view }} fails",
        "It keeps the values of its last good load.", "batch",
    )  # fmt: skip
    yield Alert(
        "DriftJobOverdue", "ticket",
        f"time() - max({P}feature_drift_due_timestamp_seconds) > 0", 1,
        "Features are no longer compared with their baselines",
        "The comparison is overdue by {{ $value | humanizeDuration }}: drift goes unseen.",
    )  # fmt: skip


def _verified(o: Options) -> Iterator[Alert]:
    yield Alert(
        "VerifyJobOverdue", "ticket",
        f"time() - max({P}verify_due_timestamp_seconds) > 0", 1,
        "Served values are no longer verified against the log",
        "The run is overdue by {{ $value | humanizeDuration }}: differences go unseen.",
    )  # fmt: skip
    window, by = o.time(240), "max by (feature_view, feature)"
    metric = f"{P}online_offline_mismatch_total"
    # A run's count may be the first of its series, where `increase` would see nothing.
    before = f"({by} (last_over_time({metric}[{window}] offset {window})) or {by} ({metric}) * 0)"
    yield Alert(
        "OnlineOfflineMismatch", "ticket",
        f"({by} ({metric}) - {before} > 0) and on () "
        f"time() - max({P}verified_timestamp_seconds) < {240 * o.interval:g}", 0,
        "Served values of {{ $labels.feature_view }}:{{ $labels.feature }} differ from the log",
        "{{ $value }} of those that `headwater verify` compared lately cannot be recomputed.",
    )  # fmt: skip


def _drift() -> Iterator[Alert]:
    """The job that compares has weighed chance and objectives: a score over its limit is one."""

    def over(matcher: str) -> str:
        labels = "feature_view, feature, test, data"
        score = f"max by ({labels}) ({P}feature_drift_score{{{matcher}}})"
        limit = f"max by ({labels}) ({P}feature_drift_threshold{{{matcher}}})"
        return f"{score} > on ({labels}) {limit}"

    of_features, of_rows = over('feature!=""'), over('feature=""')
    yield Alert(
        "FeatureDrift", "ticket", f"count by (feature_view, feature, data) ({of_features})", 0,
        "Feature {{ $labels.feature_view }}:{{ $labels.feature }} has drifted "
        "({{ $labels.data }})",
        "{{ $value }} checks say that it is not what it was; `headwater drift` says which.",
    )  # fmt: skip
    yield Alert(
        "SourcePartial", "ticket", f"max by (feature_view) ({of_rows})", 0,
        "View {{ $labels.feature_view }} gets fewer rows than at the same hours of the past",
        "{{ $value | humanizePercentage }} of an hour's rows are missing.",
    )  # fmt: skip
