"""Applies a Feast project with stock Feast and writes what it then holds to a file, as JSON.

A process of its own, as definitions are read by bare sibling imports and Feast takes seconds to
import. Run as `python describe_feature_repo.py DIR FILE`; DIR is a copy that may be written to.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(repo: Path, description: Path) -> None:
    sys.path.insert(0, str(repo))
    from feast import FeatureStore
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    elsewhere = Path.cwd()
    config = load_repo_config(repo, repo / "feature_store.yaml")
    apply_total(config, repo, skip_source_validation=False)
    os.chdir(elsewhere)
    description.write_text(json.dumps(describe(FeatureStore(repo_path=str(repo)))))


def describe(store: Any) -> dict[str, Any]:
    views = [*store.list_batch_feature_views(), *store.list_stream_feature_views()]
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    return {
        "entities": {entity.name: entity.join_key for entity in store.list_entities()},
        "views": {view.name: _view(view) for view in views},
        "on_demand": {name: _names(view.features) for name, view in on_demand.items()},
        "services": {
            service.name: {p.name: _names(p.features) for p in service.feature_view_projections}
            for service in store.list_feature_services()
        },
        "request": {
            field.name: str(field.dtype)
            for view in on_demand.values()
            for source in view.source_request_sources.values()
            for field in source.schema
        },
        "transformed": _transformed(on_demand),
        "renamed": _renamed({view.name: view for view in views}["plane_last_flight"]),
        "online": _online(store),
    }


def _names(fields: Any) -> list[str]:
    return sorted(field.name for field in fields)


def _view(view: Any) -> dict[str, Any]:
    keys = {column.name for column in view.entity_columns}
    stream = getattr(view, "stream_source", None)
    return {
        "keys": sorted(keys),
        "features": {f.name: str(f.dtype) for f in view.features if f.name not in keys},
        "tags": view.tags,
        "field_tags": {f.name: f.tags for f in view.features if f.tags},
        "batch": view.batch_source.path,
        "topic": stream.kafka_options.topic if stream else None,
        "message": stream.kafka_options.message_format.schema_json if stream else None,
        "aggregations": {
            a.resolved_name(a.time_window): [a.function, a.column, a.time_window.total_seconds()]
            for a in getattr(view, "aggregations", [])
        },
    }


def _transformed(on_demand: dict[str, Any]) -> dict[str, Any]:
    schedule = {"sched_hour": [6, 18, 12, None], "sched_weekday": [1, 7, 3, 3]}
    delays = {
        "origin_departures_24h": [10, 0, None],
        "origin_cancelled_24h": [2, None, None],
        "origin_mean_dep_delay_1h": [30.0, None, 5.0],
        "origin_mean_dep_delay_24h": [10.0, None, 4.0],
        "carrier_mean_dep_delay_24h": [12.5, 1.0, None],
    }
    inputs = {"schedule": schedule, "delay_context": delays}
    return {
        name: {f.name: view.transform_dict(inputs[name])[f.name] for f in view.features}
        for name, view in on_demand.items()
    }


def _renamed(view: Any) -> list[str]:
    import pandas as pd

    names = [word.split()[0] for word in _view(view)["message"].split(", ")]
    return list(view.udf(pd.DataFrame(columns=names)).columns)


def _online(store: Any) -> dict[str, Any]:
    row = {"origin": "EWR", "dest": "LAX", "carrier": "UA", "tailnum": "N14228"}
    found = store.get_online_features(
        features=store.get_feature_service("departure_delay_v1"),
        entity_rows=[{**row, "sched_hour": 8, "sched_weekday": 2}],
    )
    answer: dict[str, Any] = found.to_dict()
    return answer


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
