"""Functions of definitions take along what they use of the project's other modules."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headwater import catalog_cache, catalog_files
from headwater.changes import compare
from headwater.testing import Project

CONFIG = """
project: helped
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: headwater.offline.DuckDBOfflineStore}
entity_key_serialization_version: 3
"""
#: The source of all definitions here; of its fields one is theirs.
SOURCE = """
from datetime import timedelta
from feast import Entity, Field, FileSource, KafkaSource, ValueType
from feast.data_format import DeltaFormat, JsonFormat
from feast.stream_feature_view import stream_feature_view

user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
source = KafkaSource(
    name="orders", topic="orders", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat("user bigint, %s, at timestamp"),
    batch_source=FileSource(name="log", path="data/log/orders", file_format=DeltaFormat(),
                            timestamp_field="at"),
)
"""
DEFINITIONS = (
    (SOURCE % "dollars double")
    + """
from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64
from money import rates
from money.rates import Rounding, euros


def halved(x):
    return x / 2


@stream_feature_view(
    entities=[user], source=source, timestamp_field="at", ttl=timedelta(0), mode="python",
    schema=[Field(name="amount", dtype=Float64)],
)
def spent(events):
    events["amount"] = [Rounding.cents(halved(euros(x))) for x in events["dollars"]]
    return events


@on_demand_feature_view(
    sources=[RequestSource(name="asked", schema=[Field(name="x", dtype=Float64)])],
    schema=[Field(name="y", dtype=Float64)], mode="python",
)
def converted(inputs):
    return {"y": [rates.euros(x) for x in inputs["x"]]}
"""
)
RATES = """
RATE = 0.5


def euros(x):
    return x * RATE


class Rounding:
    @staticmethod
    def cents(x):
        return round(x, 2)
"""
MADE_TEXTS = (
    (SOURCE % "size int")
    + """
from feast.aggregation import Aggregation
from feast.types import Array, Int64, String, UnixTimestamp


def of(function, column):
    return Aggregation(column=column, function=function, time_window=timedelta(hours=1),
                       name=f"{function}_{column}")


@stream_feature_view(
    entities=[user], source=source, timestamp_field="at", ttl=timedelta(0), mode="python",
    aggregations=[of("last", "word"), of("count_distinct", "word"), of("last_2", "size"),
                  of("max", "day"), of("count", "only_counted"), of("sum", "number")],
    schema=[Field(name="last_word", dtype=String), Field(name="last_2_size", dtype=Array(String)),
            Field(name="max_day", dtype=UnixTimestamp), Field(name="sum_number", dtype=Int64)],
)
def labelled(events):
    words = [None if n is None else "x" * n for n in events["size"]]
    days = [t.replace(hour=0, minute=0) for t in events["at"]]
    return {"user": events["user"], "word": words, "day": days, "only_counted": words,
            "number": events["size"], "size": [str(n) for n in events["size"]]}
"""
)
#: What a worker or a service does, which has the catalogue and not the project's modules.
RUN = """
import sys
from pathlib import Path
import pyarrow as pa
from headwater import catalog_cache
from headwater.transform import load, transform_events
catalog = catalog_cache.load(Path(sys.argv[1]))
events = pa.table({"dollars": [2.126]})
print(transform_events(catalog.views["spent"].udf, events)[0]["amount"].to_pylist())
print(load(catalog.on_demand["converted"].code.body)({"x": [3.0]})["y"])
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "feature_store.yaml").write_text(CONFIG)
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "money").mkdir()
    (tmp_path / "money" / "__init__.py").touch()
    (tmp_path / "money" / "rates.py").write_text(RATES)
    return tmp_path


def test_helpers_run_where_the_project_is_not_imported(repo: Path) -> None:
    catalog_files.write(repo)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, repo], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["[0.53]", "[1.5]"], done.stderr


def test_a_change_of_a_helper_is_a_change_of_the_views_that_use_it(repo: Path) -> None:
    catalog_files.write(repo)
    before = catalog_cache.load(repo)
    assert not compare(before, catalog_files.read(repo))
    (repo / "money" / "rates.py").write_text(RATES.replace("0.5", "0.25"))
    changed = {(change.kind, change.name) for change in compare(before, catalog_files.read(repo))}
    assert changed == {("feature view", "spent"), ("on-demand feature view", "converted")}
    catalog_files.write(repo)
    assert catalog_cache.load(repo).version != before.version


def test_columns_that_a_function_makes_are_what_their_features_say(repo: Path) -> None:
    """They were taken for numbers, and the first text ended every worker."""
    (repo / "definitions.py").write_text(MADE_TEXTS)
    events = [
        {"user": 1, "size": size, "at": f"2026-01-01T10:0{minute}:00Z"}
        for minute, size in enumerate([2, None, 3, 2])
    ]
    (row,) = Project(repo).values("labelled", events, ["2026-01-01T10:30:00Z"])
    made = {name: value for name, value in row.items() if name not in {"user", "event_timestamp"}}
    assert made == {
        "last_word": "xx", "count_distinct_word": 2, "last_2_size": ["3", "2"],
        "max_day": datetime(2026, 1, 1, tzinfo=UTC), "count_only_counted": 3, "sum_number": 7,
    }  # fmt: skip
