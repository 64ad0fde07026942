"""One view under several names and keys, and what on-demand views see: as in stock Feast, by every
client, and in a training set."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater import catalog_cache, catalog_files
from headwater.offline.training_set import build
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient
    from feast import FeatureStore, RepoConfig
    from feast.feature_server import get_app

NOW = datetime.now(UTC).replace(microsecond=0)
ROWS: dict[str, list[Any]] = {
    "place_id": [1, 2, 3],
    "temp": [1.5, None, 3.0],
    "hits": [5, None, 7],
    "seen": [datetime(2024, 5, 6, 7, tzinfo=UTC), None, datetime(2023, 1, 2, tzinfo=UTC)],
    "event_timestamp": [NOW - timedelta(hours=1)] * 3,
}
LEAVES = 1_735_689_600
MANY = {"place_id": [1, 2, 3, 9], "leaves": [LEAVES] * 4, "amount": [1, 2.5, 3, 4]}
COMPUTED = [
    *(f"by_moment:{name}" for name in ("next_day", "label", "filled")),
    *(f"by_moments:{name}" for name in ("year", "week_later", "twice")),
    "weather:hits",
]


class Both(NamedTuple):
    stock: Any
    ours: Running
    repo: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("trips")
    repos = {}
    for name, store in (
        ("stock", "{type: sqlite, path: data/online.db}"),
        ("ours", project.ours(redis_url)),
    ):
        repo = repos[name] = folder / name
        (repo / "data").mkdir(parents=True)
        shutil.copy(Path(project.__file__).with_name("trips.py"), repo / "features.py")
        (repo / "feature_store.yaml").write_text(project.config("trips", store))
        pq.write_table(pa.table(ROWS), repo / "data" / "weather.parquet")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            catalog_files.write(repo)
            frame = pa.table(ROWS).to_pandas()
            FeatureStore(repo_path=str(repo)).write_to_online_store("weather", frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = get_app(FeatureStore(repo_path=str(repos["stock"])), 3600)
        client = TestClient(app, raise_server_exceptions=False)
        with serve(repos["ours"], redis_url) as running:
            yield Both(client, running, repos["ours"])


def served(answer: Any) -> dict[str, list[Any]]:
    names = answer["metadata"]["feature_names"]
    columns = [
        # What stock answers for a time that is null.
        [None if value == -(2**63) else value for value in column["values"]]
        for column in answer["results"]
    ]
    return dict(zip(names, columns, strict=True))


def remote(both: Both) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="trips", provider="local", entity_key_serialization_version=3,
            registry=str(both.repo / "data" / "registry.db"),
            online_store={"type": "remote", "path": both.ours.url},
        )
    )  # fmt: skip


@pytest.mark.parametrize("places", [[1], [1, 2, 3, 9]])
def test_a_function_sees_and_makes_what_it_does_in_stock_feast(
    both: Both, places: list[int]
) -> None:
    asked = {"features": COMPUTED, "entities": {"place_id": places}}
    stock = both.stock.post("/get-online-features", json=asked)
    assert stock.status_code == 200, stock.text
    found = both.ours.post("/get-online-features", asked).columns()
    assert {name: column["values"] for name, column in found.items()} == served(stock.json())
    assert found["next_day"]["values"][0] == 1715065200
    # What a function changes in place is its own.
    assert found["hits"]["values"] == [5, None, 7, None][: len(places)]


def test_an_entity_without_a_row_is_one_among_others(both: Both) -> None:
    """The only entity of a request, in pandas mode, gave columns of objects that do not add up."""
    asked = [name for name in COMPUTED if name.startswith("by_moments")]
    alone = both.ours.features(asked, {"place_id": [9]}).columns()
    assert [alone[name]["values"] for name in ("year", "week_later", "twice")] == [[None]] * 3


def test_a_training_set_has_what_was_served(both: Both) -> None:
    found = both.ours.features("computed", MANY).columns()
    catalog = catalog_cache.load(both.repo)
    labels = pa.table(
        {**MANY, "leaves": [datetime.fromtimestamp(LEAVES, UTC)] * 4, "event_timestamp": [NOW] * 4}
    )
    table = build(catalog, catalog.services["computed"].features, labels)
    assert found["days"]["values"] == [239, None, 730, None]
    for name in ("days", *(feature.split(":")[1] for feature in COMPUTED)):
        values = [int(v.timestamp()) if isinstance(v, datetime) else v
                  for v in table[name].to_pylist()]  # fmt: skip
        assert values == found[name]["values"], name


def test_request_data_of_another_type_is_refused(both: Both) -> None:
    for name, wrong in (("amount", "x"), ("amount", {}), ("leaves", "soon"), ("leaves", [1])):
        given = {"place_id": [1], "leaves": [LEAVES], "amount": [2], name: [wrong]}
        answer = both.ours.features(["by_request:days"], given)
        assert answer.status == 422
        assert f"entities['{name}'] has {wrong!r}" in answer.json["detail"]


def test_one_view_is_read_by_two_keys(both: Both) -> None:
    entities = {"origin_id": [1, 3, 9], "goal_id": [3, 3, 2]}
    asked = {"feature_service": "trips", "entities": entities, "full_feature_names": True}
    stock = both.stock.post("/get-online-features", json=asked)
    found = served(both.ours.post("/get-online-features", asked).json)
    assert found == served(stock.json())
    assert found["origin__temp"] == [1.5, 3.0, None]
    assert found["goal__temp"] == [3.0, 3.0, None]
    rows = [dict(zip(entities, row, strict=True)) for row in zip(*entities.values(), strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for store in (FeatureStore(repo_path=str(both.repo)), remote(both)):
            service = store.get_feature_service("trips")
            direct = store.get_online_features(service, rows, full_feature_names=True).to_dict()
            assert direct["origin__hits"] == [5, 7, None]
            assert direct["goal__hits"] == [7, 7, None]


def test_an_on_demand_view_keeps_to_its_own_key(both: Both) -> None:
    """Beside the same view under another name and key."""
    entities = {"origin_id": [1], "place_id": [3]}
    found = both.ours.features("by_another_key", entities, full_feature_names=True).columns()
    assert found["origin__temp"]["values"] == [1.5]
    assert found["by_moments__twice"]["values"] == [14]


def test_feasts_remote_client_pushes_to_a_stream_view(both: Both) -> None:
    """It sends the keys of one twice over."""
    frame = pd.DataFrame(
        {"place_id": [11, 12], "people": [3, 4], "event_timestamp": [pd.Timestamp(NOW)] * 2}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        remote(both).push("visits_push", frame)
    found = both.ours.features(["visits:people"], {"place_id": [11, 12]}).columns()
    assert found["people"]["values"] == [3, 4]


def test_rows_are_pushed_by_the_names_of_the_source(both: Both) -> None:
    times = [NOW.isoformat()]
    for place, keyed, counted in ((21, "PLACE", "PAX"), (22, "PLACE", "people"),
                                  (23, "place_id", "people")):  # fmt: skip
        df = {keyed: [place], counted: [place], "event_timestamp": times}
        body = {"push_source_name": "visits_push", "df": df, "to": "online_and_offline"}
        answer = both.ours.post("/push", body)
        assert answer.status == 200, answer.body
    found = both.ours.features(["visits:people"], {"place_id": [21, 22, 23]}).columns()
    assert found["people"]["values"] == [21, 22, 23]
    table = pq.read_table(both.repo / "data" / "visits.parquet")
    assert table["PLACE"].to_pylist() == table["PAX"].to_pylist() == [21, 22, 23]


def test_a_disabled_view_is_not_loaded(both: Both) -> None:
    load = {"feature_views": ["weather"]}
    assert both.ours.post("/materialize", load).status == 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = FeatureStore(repo_path=str(both.repo))
        store.disable_feature_view("weather")
        try:
            until(lambda: both.ours.post("/materialize", load).status == 422)
            assert "disabled" in both.ours.post("/materialize", load).json["detail"]
            assert both.ours.post("/materialize", {}).status == 200, "all that are online"
        finally:
            store.enable_feature_view("weather")
        until(lambda: both.ours.post("/materialize", load).status == 200)
