"""What the service shows of the whole project: clocks, jobs and the store, read once a second.

All of it lies in Redis, so every process of the service shows the same, and a scrape waits for
nothing: while Redis is away the clocks stay as they were and go on ageing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headwater import __version__
from headwater.catalog import Catalog, ViewPlan
from headwater.errors import StoreUnavailableError
from headwater.online import drift_status, ingest_status, job_status, verified
from headwater.online.job_status import MATERIALIZE, JobStatus
from headwater.online.store_use import StoreUse, store_use
from headwater.online.writer import OnlineWriter
from headwater.quality.objectives import objectives
from service.budgets import Clocks
from service.metrics import PREFIX

#: Time between two looks at Redis.
LOOK_SECONDS = 1.0
#: So many times the pause between two comparisons of features may take until there is a new one.
DRIFT_PAUSES = 3
#: When the service began; for all of its workers, which are forked from one process.
STARTED = time.time()
#: Checks of drift that have series of their own; alarms come first.
DRIFT_CHECKS = 2_000


class Observed:
    """A collector for prometheus_client; `look` brings it up to date."""

    def __init__(
        self, writer: Callable[[], OnlineWriter], held_to: Clocks | None = None,
        drift_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        """held_to: where the clocks that serving is held to are kept; drift_seconds: how often
        features are compared with their baselines, 0: never."""
        self._drift_seconds = drift_seconds
        self._writer, self._held_to = writer, held_to or Clocks()
        self._catalog_version = ""
        self._promised: list[Metric] = []
        self._features: list[tuple[str, str]] = []
        self.clocks: Mapping[tuple[str, str], int] = {}
        self.jobs: Mapping[tuple[str, str], JobStatus] = {}
        #: (topic, result) -> messages, of all partitions.
        self.taken: Counter[tuple[str, str]] = Counter()
        self.use: StoreUse | None = None
        self.verified: Mapping[tuple[str, str, str], int] = {}
        self.verified_at = 0.0
        self.verify_due: float | None = None
        self.drift = drift_status.Found()
        self.store_up = False

    def promise(self, catalog: Catalog) -> None:
        """Show what a catalogue promises."""
        if catalog.version != self._catalog_version:
            self._promised = [_topics(catalog), *_promised(catalog.views.values())]
            self._features = [
                (plan.name, name)
                for plans in (catalog.views, catalog.on_demand)
                for plan in plans.values()
                for name in plan.feature_names
            ]
            self._catalog_version = catalog.version

    def look(self, catalog: Catalog) -> None:
        """Read Redis; what it does not tell stays as it was."""
        self.promise(catalog)
        try:
            writer = self._writer()
            self.clocks = writer.clocks()
            self._held_to.show(self.clocks)
            self.jobs = job_status.read(writer)
            self.taken = _taken(catalog, writer)
            self.use = store_use(writer)
            self.verified, self.verified_at = verified.read(writer.client, writer.project)
            self.verify_due = verified.due(writer.client, writer.project)
            self.drift = drift_status.read(writer.client, writer.project, self.drift)
            self.store_up = True
        except StoreUnavailableError:
            self.store_up = False

    async def keep_looking(self, catalog: Callable[[], Catalog]) -> None:
        while True:
            await asyncio.to_thread(self.look, catalog())
            await asyncio.sleep(LOOK_SECONDS)

    def collect(self) -> Iterator[Metric]:
        yield from self._promised or (_topics(None), *_promised(()))
        yield self._last_events()
        yield self._taken_in()
        yield from self._job_families()
        yield from self._store_families()
        yield from self._verify_families()
        yield from self._drift_families()
        build = GaugeMetricFamily(
            PREFIX + "build_info", "The version that runs", labels=["component", "version"]
        )
        build.add_metric(["service", __version__], 1)
        yield build

    def _last_events(self) -> Metric:
        family = GaugeMetricFamily(
            PREFIX + "last_event_timestamp_seconds",
            "Event time of the newest event that a stage has seen (source, offline, online)",
            labels=["feature_view", "stage"],
        )
        for (stage, view), event_us in self.clocks.items():
            family.add_metric([view, stage], event_us / 1e6)
        return family

    def _taken_in(self) -> Metric:
        family = CounterMetricFamily(
            PREFIX + "ingest_committed_records",
            "Messages before the committed offsets by what became of them (applied, rejected), "
            "each counted once, whichever workers took them in and however those ended",
            labels=["topic", "result"],
        )  # fmt: skip
        for (topic, result), count in self.taken.items():
            family.add_metric([topic, result], count)
        return family

    def _job_families(self) -> Iterator[Metric]:
        name, view = PREFIX + "materialization_", ["feature_view"]
        seconds = GaugeMetricFamily(
            name + "duration_seconds", "Time that a view's last load took", labels=view
        )
        runs = CounterMetricFamily(
            name + "runs", "Loads of a view, ok and failed", labels=[*view, "result"]
        )
        rows = CounterMetricFamily(name + "rows", "Entities that loads wrote", labels=view)
        success = GaugeMetricFamily(
            name + "last_success_timestamp_seconds", "End of a view's last good load", labels=view
        )
        failure = GaugeMetricFamily(
            name + "last_failure_timestamp_seconds", "End of a view's last load that failed",
            labels=view,
        )  # fmt: skip
        last = GaugeMetricFamily(
            PREFIX + "last_success_timestamp_seconds", "End of a job's last good run",
            labels=["job"],
        )  # fmt: skip
        newest: dict[str, float] = {}
        for (job, subject), status in self.jobs.items():
            newest[job] = max(newest.get(job, 0.0), status.last_success)
            if job == MATERIALIZE:
                seconds.add_metric([subject], status.seconds)
                runs.add_metric([subject, "ok"], status.ok)
                runs.add_metric([subject, "failed"], status.failed)
                rows.add_metric([subject], status.rows)
                if status.last_success:
                    success.add_metric([subject], status.last_success)
                if status.last_failure:
                    failure.add_metric([subject], status.last_failure)
        for job, at in newest.items():
            last.add_metric([job], at)
        yield from (seconds, runs, rows, success, failure, last)

    def _verify_families(self) -> Iterator[Metric]:
        feature = ["feature_view", "feature"]
        compared = CounterMetricFamily(
            PREFIX + "verified_values", "Values that `headwater verify` compared", labels=feature
        )
        different = CounterMetricFamily(
            PREFIX + "online_offline_mismatch", "Values that differed from the offline log",
            labels=feature,
        )  # fmt: skip
        families = {"compared": compared, "different": different}
        # All from 0 on: a first difference must be seen to grow.
        none = {(*of, kind): 0 for of in self._features for kind in families}
        for (view, name, kind), count in (none | dict(self.verified)).items():
            families[kind].add_metric([view, name], count)
        last = GaugeMetricFamily(
            PREFIX + "verified_timestamp_seconds", "When `headwater verify` last ended"
        )
        if self.verified_at:
            last.add_metric([], self.verified_at)
        due = GaugeMetricFamily(
            PREFIX + "verify_due_timestamp_seconds",
            "When there must be a new run of `headwater verify --every`: three times the "
            "last one that ended well and the pause after it",
        )  # fmt: skip
        if self.verify_due is not None:
            due.add_metric([], self.verify_due)
        yield from (compared, different, last, due)

    def _drift_families(self) -> Iterator[Metric]:
        name, labels = PREFIX + "feature_drift_", ["feature_view", "feature", "test", "data"]
        score = GaugeMetricFamily(
            name + "score", "How far a feature (none: a view's rows) is from its baseline",
            labels=labels,
        )  # fmt: skip
        threshold = GaugeMetricFamily(
            name + "threshold", "What that score may be: the objective's, or what chance gives",
            labels=labels,
        )  # fmt: skip
        checks = sorted(self.drift.checks, key=lambda c: c.over <= 0)
        for check in checks[:DRIFT_CHECKS]:
            at = [check.feature_view, check.feature, check.check, check.of]
            score.add_metric(at, check.score)
            threshold.add_metric(at, math.inf if check.limit is None else check.limit)
        made = GaugeMetricFamily(
            name + "checks", "Checks of the last comparison; the first 2,000 have series"
        )
        last = GaugeMetricFamily(
            name + "timestamp_seconds", "When features were last compared with their baselines"
        )
        if self.drift.at:
            made.add_metric([], len(checks))
            last.add_metric([], self.drift.at)
        due = GaugeMetricFamily(
            name + "due_timestamp_seconds",
            "When there must be a new comparison: three pauses after the last one that ended well, "
            "or after the service began",
        )  # fmt: skip
        if self._drift_seconds:
            good = (s.last_success for (job, _), s in self.jobs.items() if job == job_status.DRIFT)
            since = max([STARTED, *good])
            due.add_metric([], since + DRIFT_PAUSES * self._drift_seconds)
        models = GaugeMetricFamily(
            PREFIX + "model_quality", "How good a model was on its last day with outcomes",
            labels=["model", "version", "measure"],
        )  # fmt: skip
        for one in self.drift.models[:DRIFT_CHECKS]:
            models.add_metric([one.model, one.version, one.measure], one.value)
        yield from (score, threshold, made, last, due, models)

    def _store_families(self) -> Iterator[Metric]:
        name, store = PREFIX + "store_", ["store"]
        up = GaugeMetricFamily(
            name + "up", "1 while the store answers (looked at every second)", labels=store
        )
        up.add_metric(["redis"], self.store_up)
        used = GaugeMetricFamily(name + "memory_bytes", "Memory that it uses", labels=store)
        limit = GaugeMetricFamily(
            name + "memory_limit_bytes", "Memory that it may use; none: no limit", labels=store
        )
        evicted = CounterMetricFamily(
            name + "evicted_keys", "Keys that it threw away for lack of memory", labels=store
        )
        if self.use is not None:
            used.add_metric(["redis"], self.use.memory_bytes)
            evicted.add_metric(["redis"], self.use.evicted_keys)
            if self.use.memory_limit_bytes:
                limit.add_metric(["redis"], self.use.memory_limit_bytes)
        yield from (up, used, limit, evicted)


def _taken(catalog: Catalog, writer: OnlineWriter) -> Counter[tuple[str, str]]:
    """What became of the messages of the catalogue's topics."""
    topics = {topic for stream in catalog.streams.values() for topic in stream.topics}
    found = Counter({(topic, result): 0 for topic in topics for result in ("applied", "rejected")})
    for (topic, _), status in ingest_status.read(writer).items():
        if topic in topics:
            found.update({(topic, result): n for result, n in status.taken.items()})
    return found


def _topics(catalog: Catalog | None) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + "stream_topic_info", "Which topics a Kafka source reads",
        labels=["stream", "topic"],
    )  # fmt: skip
    for stream in catalog.streams.values() if catalog else ():
        for topic in stream.topics:
            family.add_metric([stream.name, topic], 1)
    return family


def _promised(views: Iterable[ViewPlan]) -> Iterator[Metric]:
    """What the catalogue says: objectives, and what a view is."""
    view = ["feature_view"]
    info = GaugeMetricFamily(
        PREFIX + "feature_view_info", "What a view is: kind, stream, owner",
        labels=[*view, "kind", "stream", "owner"],
    )  # fmt: skip
    slo = GaugeMetricFamily(
        PREFIX + "freshness_slo_seconds",
        "The freshness objective of a view (tag freshness_slo)", labels=view,
    )  # fmt: skip
    age = GaugeMetricFamily(
        PREFIX + "served_age_limit_seconds",
        "The objective for the age of served values (tag max_served_age)", labels=view,
    )  # fmt: skip
    nulls = GaugeMetricFamily(
        PREFIX + "feature_null_ratio_limit",
        "The objective for a feature's null ratio (tag max_null_ratio)",
        labels=[*view, "feature"],
    )  # fmt: skip
    for one in views:
        promised = objectives(one)
        info.add_metric([one.name, one.kind, one.stream, one.owner], 1)
        if promised.freshness:
            slo.add_metric([one.name], promised.freshness)
        if promised.served_age:
            age.add_metric([one.name], promised.served_age)
        for feature, limit in promised.null_ratios.items():
            nulls.add_metric([one.name, feature], limit)
    yield from (info, slo, age, nulls)
