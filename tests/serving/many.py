"""A project of 1,000 features in 100 views, for tests and benchmarks of the pages."""

from __future__ import annotations

from pathlib import Path

from tests.serving import project

VIEWS, FEATURES = 100, 1_000
_DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
views = [
    FeatureView(
        name=f"view_{v:02}", entities=[customer], ttl=timedelta(days=1), online=True,
        schema=[
            Field(name="customer_id", dtype=String),
            *(Field(name=f"feature_{v:02}_{f}", dtype=Float64, description=f"Number {f} of {v}")
              for f in range(10)),
        ],
        source=FileSource(name=f"file_{v}", path="none.parquet", timestamp_field="at"),
        owner=f"team-{v % 7}@example", tags={"freshness_slo": "10m"},
    )
    for v in range(100)
]
globals().update({view.name: view for view in views})
service = FeatureService(name="model", features=views[:50])
"""


def make(repo: Path, store: str) -> Path:
    """An applied repository; `store` is the YAML of its online store."""
    (repo / "data").mkdir(parents=True)
    (repo / "features.py").write_text(_DEFINITIONS)
    (repo / "feature_store.yaml").write_text(project.config("many", store))
    project.apply(repo)
    return repo
