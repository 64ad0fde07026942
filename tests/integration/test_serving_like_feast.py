"""The same project and data in stock Feast and in Headwater: the same answers to random requests.

What differs on purpose stands in docs/serving.md, and here in `expected`.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from tests.serving import project
from tests.serving.server import Running, serve

REQUESTS = 1500
KEYS = {
    "numbers": ["user_id"],
    "doubles": ["user_id"],
    "texts": ["session_id"],
    "pairs": ["user_id", "session_id"],
}
ON_DEMAND = {"by_lists": "ratio", "by_frame": "total", "by_row": "twice"}


class Both(NamedTuple):
    stock: Any
    ours: Running
    frames: dict[str, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("like_feast")
    stock = project.write(folder / "stock", "{type: sqlite, path: data/online.db}")
    ours = project.write(folder / "ours", project.ours(redis_url), "likefeast")
    frames = project.frames()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
        from feast import FeatureStore
        from feast.feature_server import get_app

        from tests.serving import values

        for repo in (stock, ours):
            project.apply(repo)
        store = FeatureStore(repo_path=str(stock))
        for view, columns in frames.items():
            store.write_to_online_store(view, project.to_frame(columns))
        client = TestClient(get_app(store, 3600), raise_server_exceptions=False)
        with serve(ours, redis_url) as running:
            running.fill(frames)
            for one in (store, FeatureStore(repo_path=str(ours))):
                values.write(one, 1, values.protos())
            yield Both(client, running, frames)


def request(chance: random.Random, both: Both) -> dict[str, Any]:
    views = chance.sample(list(KEYS), chance.randint(1, 3))
    features = []
    for view in views:
        names = [n for n in both.frames[view] if n not in {*KEYS[view], "event_timestamp"}]
        features += [f"{view}:{n}" for n in chance.sample(names, chance.randint(1, len(names)))]
    needs = {key for view in views for key in KEYS[view]}
    if chance.random() < 0.2:
        features.append("everywhere:rate")
    asks_amount = False
    if chance.random() < 0.3:
        view = chance.choice(list(ON_DEMAND))
        features.append(f"{view}:{ON_DEMAND[view]}")
        needs.add("user_id")
        asks_amount = view != "by_row"
    # Of a singleton view, stock answers the first entity alone.
    n = 1 if "by_row:twice" in features else chance.choice([1, 1, 2, 5, 20])
    entities: dict[str, list[Any]] = {}
    if "user_id" in needs:
        entities["user_id"] = [chance.randrange(project.USERS) for _ in range(n)]
    if "session_id" in needs:
        known = both.frames["texts"]["session_id"]
        entities["session_id"] = [chance.choice([*known, "nobody"]) for _ in range(n)]
    if asks_amount:
        entities["amount"] = [float(chance.randint(1, 9)) for _ in range(n)]
    body: dict[str, Any] = {"entities": entities, "full_feature_names": chance.random() < 0.5}
    if chance.random() < 0.1 and {"user_id", "session_id"} <= needs and not asks_amount:
        return {**body, "feature_service": "everything", "full_feature_names": True}
    return {**body, "features": features}


def by_name(answer: Any) -> dict[str, Any]:
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


#: What stock answers for a timestamp that is null.
NO_TIME = -(2**63)
#: (ours, stock's): stock calls a null and a row past its ttl PRESENT.
ALLOWED = {
    ("PRESENT", "PRESENT"),
    ("NULL_VALUE", "PRESENT"),
    ("NOT_FOUND", "NOT_FOUND"),
    ("OUTSIDE_MAX_AGE", "PRESENT"),
}


def second(text: str) -> datetime:
    """Stock cuts event times to seconds."""
    return datetime.fromisoformat(text).replace(microsecond=0)


@pytest.mark.parametrize("part", range(5))
def test_random_requests_are_answered_like_stock_feast(both: Both, part: int) -> None:
    chance = random.Random(part)
    for _ in range(REQUESTS // 5):
        asked = request(chance, both)
        stock = both.stock.post("/get-online-features", json=asked)
        assert stock.status_code == 200, (asked, stock.text)
        ours = both.ours.post("/get-online-features", asked)
        assert ours.status == 200, (asked, ours.body)
        check(asked, by_name(stock.json()), by_name(ours.json))


def check(asked: Any, stock: dict[str, Any], ours: dict[str, Any]) -> None:
    # Under full names, stock drops what a python or pandas function returns.
    dropped = {f"{v}__{f}" for v, f in ON_DEMAND.items()} if asked["full_feature_names"] else set()
    assert set(stock) | dropped >= set(ours) >= set(stock), asked
    for name, theirs in stock.items():
        mine = ours[name]
        rows = zip(
            mine["values"], theirs["values"], mine["statuses"], theirs["statuses"],
            mine["event_timestamps"], theirs["event_timestamps"], strict=True,
        )  # fmt: skip
        for value, their_value, status, their_status, time, their_time in rows:
            if name.endswith("rate"):  # stock does not find the row of a view without entities
                assert (status, value, their_status) == ("PRESENT", 0.25, "NOT_FOUND")
                continue
            what = (name, status, their_status, value, their_value, time, their_time, asked)
            assert (status, their_status) in ALLOWED, what
            hidden = status == "OUTSIDE_MAX_AGE" or their_value == NO_TIME
            assert value == (None if hidden else their_value), what
            if status == "PRESENT" and name.split("__")[-1] not in ON_DEMAND.values():
                assert second(time) == second(their_time), what


def test_a_value_of_every_type_is_answered_like_stock_feast(both: Both) -> None:
    """But for maps with keys that are no texts: stock has none in JSON and says null."""
    from tests.serving.values import VALUES

    for users in ([1], [1, 2, 1]):
        asked = {"features": [f"every_type:{n}" for n in VALUES], "entities": {"user_id": users}}
        stock = by_name(both.stock.post("/get-online-features", json=asked).json())
        ours = by_name(both.ours.post("/get-online-features", asked).json)
        assert stock.pop("scalar_map")["values"] == [None] * len(users)
        assert ours.pop("scalar_map")["values"][0] == {"1": "a", "2": "b"}
        assert {n: c["values"] for n, c in ours.items()} == {
            n: c["values"] for n, c in stock.items()
        }
        assert {n: c["statuses"] for n, c in ours.items()} == {
            n: c["statuses"] for n, c in stock.items()
        }
