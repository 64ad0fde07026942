"""Proves that what was served is what is trained on: every logged vector computed again, compared.

A vector is recomputed from the offline log as of its provenance, so that lateness and lag cannot
make a difference: whatever differs is a fault, and gets its cause. How much lateness and lag change
is another question, `headwater.offline.skew`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog import Catalog, OnDemandPlan
from headwater.errors import HeadwaterError
from headwater.offline.causes import Causes
from headwater.offline.compare import equal
from headwater.offline.feature_log import (
    STATUS_CODES,
    FeatureLog,
    LoggedRead,
    Part,
    named_logs,
    replaced_column,
    titled,
    with_code,
)
from headwater.offline.recompute import Recompute, Values
from headwater.offline.skew import ABOUT, Skew, add_skew
from headwater.offline.training_set import on_demand_features
from headwater.online.columns import NULL_VALUE, PRESENT, STATUS_NAMES
from headwater.windows import Bool, Int64

#: Catalogues, today's and those of the log, and the views of each whose code is gone.
Definitions = Sequence[tuple[Catalog, list[str]]]
NO_CODE = "its code is no longer in the registry"
REPLACED = "it was past its objective, and replaced as the view's tag says"
#: Differences of a feature that are kept as examples.
EXAMPLES = 5


@dataclass
class Feature:
    """What came of the values of one feature."""

    view: str
    feature: str
    compared: int = 0
    equal: int = 0
    not_comparable: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def different(self) -> int:
        return self.compared - self.equal

    def as_json(self) -> dict[str, Any]:
        return {
            "view": self.view, "feature": self.feature, "compared": self.compared,
            "equal": self.equal, "different": self.different,
            "not_comparable": dict(self.not_comparable), "causes": dict(self.causes),
            "examples": self.examples,
        }  # fmt: skip


@dataclass
class Report:
    """Every feature by (view, feature), and the vectors that were looked at."""

    vectors: int = 0
    features: dict[tuple[str, str], Feature] = field(default_factory=dict)
    #: Against a training set by event time, where that was asked for.
    skew: dict[tuple[str, str], Skew] = field(default_factory=dict)

    def of(self, view: str, feature: str) -> Feature:
        return self.features.setdefault((view, feature), Feature(view, feature))

    @property
    def compared(self) -> int:
        return sum(f.compared for f in self.features.values())

    @property
    def different(self) -> int:
        return sum(f.different for f in self.features.values())

    @property
    def not_comparable(self) -> int:
        return sum(f.not_comparable.total() for f in self.features.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "vectors": self.vectors, "compared": self.compared, "different": self.different,
            "not_comparable": self.not_comparable,
            "features": [f.as_json() for f in self.features.values()],
            "skew": [
                {"view": view, "feature": feature, **one.as_json()}
                for (view, feature), one in self.skew.items()
            ],
        }  # fmt: skip


def verify(
    catalog: Catalog, logs: Iterable[FeatureLog], since_us: int | None = None,
    until_us: int | None = None, skew: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Report:  # fmt: skip
    """Recompute and compare the vectors of some logs that were served within the times.

    catalog: what the registry holds now; vectors are recomputed by the definitions that they were
    served by, of which only code is taken from it. skew: compare with a training set by event time
    too. progress: is told of vectors as they are done. Raises HeadwaterError where a log or a
    source cannot be read.
    """
    report = Report()
    definitions: dict[str, tuple[Catalog, list[str]]] = {catalog.version: (catalog, [])}
    for log in logs:
        for part in log.read(since_us, until_us):
            then, gone = with_code(part.plan.catalog, catalog)
            definitions[f"{log.path} {then.version}"] = then, gone
            _Check(list(definitions.values()), then, gone, part, report).run()
            for read in part.plan.reads if skew else ():
                if read.view not in gone:
                    add_skew(then, part, read, report.skew)
            report.vectors += part.table.num_rows
            progress(part.table.num_rows)
    return report


class _Check:
    """Checks one part of a log."""

    def __init__(
        self, definitions: Definitions, then: Catalog, gone: list[str], part: Part, report: Report
    ) -> None:
        self.definitions, self.then, self.gone = definitions, then, gone
        self.part, self.report = part, report
        #: Inputs of on-demand views: as served, or recomputed where that was wrong.
        self._columns: dict[tuple[str, str], pa.Array] = {}

    def run(self) -> None:
        for read in self.part.plan.reads:
            self._view(read)
        for name in self.part.plan.on_demand:
            self._on_demand(self.then.on_demand[name])

    def _view(self, read: LoggedRead) -> None:
        if read.view in self.gone:
            for feature, title in titled(read).items():
                self._skip(read.alias, feature, NO_CODE)
                self._columns[read.alias, feature] = self._served(title)[0]
            return
        recompute = Recompute(self.then, self.part, read)
        made = recompute.values()
        self._leave_out_replaced(read, made)
        functions = {a.name: a.function for a in recompute.view.aggregations}
        others = [other for other, lost in self.definitions if read.view not in lost]
        causes = Causes(others, recompute, made)
        comparable = made.reasons == 0
        for feature, title in titled(read).items():
            about = ABOUT.get(functions.get(feature, ""), "")

            def magnitude(name: str = feature, values: Values = made) -> Int64 | None:
                return values.magnitude(name)

            served, codes = self._served(title)
            same = equal(served, made.values[feature], about, magnitude)
            same &= codes == made.statuses[feature]
            entry = self.report.of(read.alias, feature)
            self._count(entry, made, comparable, same)
            wrong = np.flatnonzero(comparable & ~same)
            if len(wrong):
                found = causes.of(feature, served, codes, wrong, about)
                entry.causes.update(found)
                self._examples(entry, read.columns, wrong, found, served, codes, made)
            # A function may turn on the last bit of a sum, so it gets what it got where that was
            # right: a threshold is then passed, a whole number cut and a list made as they were.
            self._columns[read.alias, feature] = pc.if_else(
                pa.array(comparable & ~same), made.values[feature].cast(served.type, safe=False),
                served,
            ) if len(wrong) else served  # fmt: skip

    def _leave_out_replaced(self, read: LoggedRead, made: Values) -> None:
        """Vectors that got a null or a default, since the view was past its objective."""
        name = replaced_column(read)
        if name in self.part.table.column_names:
            replaced = self.part.table[name].to_numpy()
            made.why.append(REPLACED)
            made.reasons[replaced & (made.reasons == 0)] = len(made.why) - 1

    def _served(self, title: str) -> tuple[pa.Array, Int64]:
        """A feature's values, and its statuses as `online.columns` numbers them."""
        codes = self.part.table[f"{title}__status"].to_numpy().astype(np.int64)
        return self.part.table[title].combine_chunks(), codes - STATUS_CODES[0]

    def _skip(self, view: str, feature: str, why: str) -> None:
        self.report.of(view, feature).not_comparable[why] += self.part.table.num_rows

    def _count(self, entry: Feature, made: Values, comparable: Bool, same: Bool) -> None:
        entry.compared += int(comparable.sum())
        entry.equal += int((comparable & same).sum())
        for number in np.unique(made.reasons[~comparable]).tolist():
            entry.not_comparable[made.why[number]] += int((made.reasons == number).sum())

    def _examples(
        self, entry: Feature, keys: tuple[str, ...], rows: Int64, causes: list[str],
        served: pa.Array, codes: Int64, made: Values,
    ) -> None:  # fmt: skip
        for row, cause in zip(rows.tolist(), causes, strict=True):
            if len(entry.examples) == EXAMPLES:
                return
            status = STATUS_NAMES[made.statuses[entry.feature][row]]
            entry.examples.append(
                {
                    "entity": {key: self.part.table[key][row].as_py() for key in keys},
                    "at": utc(int(self.part.times()[row])), "cause": cause,
                    "served": served[row].as_py(), "served_status": STATUS_NAMES[codes[row]],
                    "recomputed": made.values[entry.feature][row].as_py(),
                    "recomputed_status": status,
                    "request_id": self.part.table["__request_id"][row].as_py(),
                }
            )  # fmt: skip

    def _on_demand(self, plan: OnDemandPlan) -> None:
        """The function again over what its inputs should have been."""
        if plan.name in self.gone:
            for feature in plan.feature_names:
                self._skip(plan.name, feature, NO_CODE)
            return
        try:
            found = on_demand_features(self.then, plan, self._columns, self.part.table)
        except HeadwaterError as error:
            for feature in plan.feature_names:
                self._skip(plan.name, feature, str(error))
            return
        n = self.part.table.num_rows
        for feature in plan.feature_names:
            served, codes = self._served(f"{plan.name}__{feature}")
            array = found[feature]
            if isinstance(array, pa.ChunkedArray):
                array = array.combine_chunks()
            status = np.where(np.asarray(array.is_null()), NULL_VALUE, PRESENT)
            values = Values({feature: array}, {feature: status}, np.zeros(n, np.int64))
            same = equal(served, array, "sum", lambda: None) & (codes == status)
            entry = self.report.of(plan.name, feature)
            self._count(entry, values, np.ones(n, np.bool_), same)
            wrong = np.flatnonzero(~same)
            causes = ["of its inputs, or a bug of ours"] * len(wrong)
            entry.causes.update(causes)
            keys = tuple(self.part.plan.key_types())
            self._examples(entry, keys, wrong, causes, served, codes, values)


def utc(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="microseconds")


def logs_of(catalog: Catalog, root: str, service: str = "") -> list[FeatureLog]:
    """The feature logs of a project: its services' own, and the folders of a service's setting."""
    found = named_logs(catalog, root)
    logs = [log for name, log in found.items() if not service or name == service]
    if not logs:
        raise HeadwaterError(
            f"there is no feature log{f' of {service!r}' if service else ''}; give the service "
            "logging_config in the definitions, or HEADWATER_FEATURE_LOG to `headwater serve`"
        )
    return logs


def counters(report: Report) -> Mapping[str, int]:
    """`<view>|<feature>|<compared or different>` -> count, as they are kept for the metrics."""
    found = {}
    for (view, feature), one in report.features.items():
        found[f"{view}|{feature}|compared"] = one.compared
        found[f"{view}|{feature}|different"] = one.different
    return found
