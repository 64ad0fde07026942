"""Functions of definitions take along what they use of the project's other modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headwater import catalog_cache, catalog_files
from headwater.changes import compare

CONFIG = """
project: helped
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
offline_store: {type: headwater.offline.DuckDBOfflineStore}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, Field, FileSource, KafkaSource, RequestSource, ValueType
from feast.data_format import DeltaFormat, JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64
from money import rates
from money.rates import Rounding, euros

user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
source = KafkaSource(
    name="orders", topic="orders", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat("user bigint, dollars double, at timestamp"),
    batch_source=FileSource(name="log", path="data/log/orders", file_format=DeltaFormat(),
                            timestamp_field="at"),
)


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
RATES = """
RATE = 0.5


def euros(x):
    return x * RATE


class Rounding:
    @staticmethod
    def cents(x):
        return round(x, 2)
"""
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
