"""The same project and data in stock Feast and in Headwater: the same answers to random requests.

What differs on purpose stands in docs/serving.md, and here in `expected`.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pandas as pd
import pytest

from headwater import catalog_files
from tests.serving import project
from tests.serving.server import Answer, Running, serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast.protos.feast.types.Value_pb2 import Value

REQUESTS = 2500
KEYS = {
    "numbers": ["user_id"],
    "doubles": ["user_id"],
    "texts": ["session_id"],
    "pairs": ["user_id", "session_id"],
    "shops": ["shop_id"],
    "orders": ["session_id", "hour"],
    "every_type": ["user_id"],
}
#: Of each on-demand view: what it makes, its keys and what the request gives.
ON_DEMAND = {
    "by_lists": (["ratio"], ["user_id", "amount"]),
    "by_frame": (["total"], ["user_id", "amount"]),
    "by_row": (["twice"], ["user_id"]),
    "by_views": (["gap"], ["user_id"]),
    "by_frames": (["more", "wordy"], ["user_id", "session_id", "amount"]),
}
SERVICES = {"everything": ["user_id", "session_id"], "renamed": ["user_id"]}
MADE = {name for names, _ in ON_DEMAND.values() for name in names}
HOURS = [1704067200 + 3600 * i for i in range(3)]
ENTITY_OF = {"user_id": "user", "session_id": "session"}


def keyed() -> dict[str, dict[str, list[Any]]]:
    """Rows of views whose keys are of other types; stock writes none that is a UUID or a truth."""
    now = datetime.now(UTC)
    orders = [(session, hour) for session in ("s1", "s2", "s5") for hour in HOURS[:2]]
    return {
        "shops": {
            "shop_id": [-1, 0, 7, -(2**31), 2**31 - 1],
            "score": [0.5, None, 1.5, -0.0, 1e300],
            "event_timestamp": [now.isoformat()] * 5,
        },
        "orders": {
            "session_id": [session for session, _ in orders], "hour": [hour for _, hour in orders],
            "paid": [1.5, None, 3.0, 0.1, 5.5, 6.0], "items": [1, 2, None, 4, 5, -6],
            "note": ["a", "", None, "日本", '"', "b"],
            "event_timestamp": [(now - timedelta(days=i // 4 * 3)).isoformat() for i in range(6)],
        },
    }  # fmt: skip


class Both(NamedTuple):
    stock: Any
    ours: Running
    features: dict[str, list[str]]
    sessions: list[str]
    #: Users whose row in `numbers` is past its ttl.
    expired: set[int]

    def ask(self, body: Any) -> tuple[Any, Answer]:
        """The answers of both."""
        stock = self.stock.post("/get-online-features", json=body)
        return stock, self.ours.post("/get-online-features", body)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("like_feast")
    stock = project.write(folder / "stock", "{type: sqlite, path: data/online.db}")
    ours = project.write(folder / "ours", project.ours(redis_url), "likefeast")
    frames = {**project.frames(), **keyed()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient
        from feast import FeatureStore
        from feast.feature_server import get_app

        from tests.serving import values

        for repo in (stock, ours):
            catalog_files.write(repo)
        store = FeatureStore(repo_path=str(stock))
        for view, columns in frames.items():
            frame = project.to_frame(columns)
            if view == "orders":
                frame["hour"] = pd.to_datetime(frame["hour"].astype("int64"), unit="s", utc=True)
            store.write_to_online_store(view, frame)
        client = TestClient(get_app(store, 3600), raise_server_exceptions=False)
        with serve(ours, redis_url) as running:
            running.fill(frames)
            chance, now = random.Random(0), datetime.now(UTC)
            for user in range(1, 13):
                row = values.protos()
                row = {n: v if user == 1 or chance.random() < 0.8 else Value()
                       for n, v in row.items()}  # fmt: skip
                for one in (store, FeatureStore(repo_path=str(ours))):
                    values.write(one, user, row, now)
            features = {
                view: [n for n in columns if n not in {*KEYS.get(view, []), "event_timestamp"}]
                for view, columns in {**frames, "every_type": values.VALUES}.items()
            }
            times = zip(
                *(frames["numbers"][n] for n in ("user_id", "event_timestamp")), strict=True
            )
            long_ago = (now - timedelta(days=1)).isoformat()
            expired = {user for user, time in times if time < long_ago}
            yield Both(client, running, features, frames["texts"]["session_id"], expired)


def column(chance: random.Random, both: Both, key: str, n: int) -> list[Any]:
    """Values of a key, or of what a request gives; some have no row."""
    known: Any = {
        "user_id": range(project.USERS), "session_id": [*both.sessions, "nobody"],
        "shop_id": [-1, 0, 2**31 - 1, 5],
        "hour": HOURS, "amount": [1.0, 2.5, 9.0],
    }[key]  # fmt: skip
    return [chance.choice(known) for _ in range(n)]


def request(chance: random.Random, both: Both) -> dict[str, Any]:
    body: dict[str, Any] = {"full_feature_names": chance.random() < 0.5}
    features: list[str] = []
    if chance.random() < 0.1:
        body["feature_service"] = chance.choice(list(SERVICES))
        needs = SERVICES[body["feature_service"]]
    else:
        views = chance.sample(list(KEYS), chance.randint(1, 3))
        needs = [key for view in views for key in KEYS[view]]
        for view in views:
            names = both.features[view]
            few = chance.sample(names, chance.randint(1, min(len(names), 12)))
            latest = "@latest" if chance.random() < 0.05 else ""
            features += [f"{view}{latest}:{name}" for name in few]
        if chance.random() < 0.2:
            features.append("everywhere:rate")
        # Beside an on-demand view, stock fails on types that Arrow has not.
        if chance.random() < 0.5 and "every_type" not in views:
            for view in chance.sample(list(ON_DEMAND), chance.randint(1, 2)):
                made, inputs = ON_DEMAND[view]
                features += [f"{view}:{name}" for name in made]
                needs = [*needs, *inputs]
        chance.shuffle(features)
        if len({name.partition(":")[2] for name in features}) < len(features):
            body["full_feature_names"] = True
        body["features"] = features
    # Of a singleton view, stock answers the first entity alone.
    n = 1 if "by_row:twice" in features else chance.choice([1, 1, 2, 5, 20])
    odd = chance.random()
    if odd < 0.2:
        needs = [*needs, chance.choice(["user_id", "session_id", "shop_id"])]
    keys = list(dict.fromkeys(needs))
    chance.shuffle(keys)
    entities = {key: column(chance, both, key, n) for key in keys}
    if chance.random() < 0.1:
        entities["nobody_asks"] = list(range(n))
    # What Feast takes for a key of another type, or for its name.
    if "user_id" in entities and 0.2 < odd < 0.4:
        kind = chance.choice([str, float])
        entities["user_id"] = [kind(v) if chance.random() < 0.5 else v for v in entities["user_id"]]
    elif odd > 0.9:
        entities = {ENTITY_OF.get(name, name): values for name, values in entities.items()}
    return {**body, "entities": entities}


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
        stock, ours = both.ask(asked)
        assert stock.status_code == 200, (asked, stock.text)
        assert ours.status == 200, (asked, ours.body)
        check(asked, by_name(stock.json()), by_name(ours.json), both.expired)


def check(
    asked: Any, stock: dict[str, Any], ours: dict[str, Any], expired: Collection[int]
) -> None:
    users = ours["user_id"]["values"] if "user_id" in ours else []
    dropped: set[str] = set()
    if asked["full_feature_names"]:
        # Under full names, stock drops what a python or pandas function returns.
        dropped = {f"{v}__{f}" for v, (made, _) in ON_DEMAND.items() for f in made}
    assert set(stock) | dropped >= set(ours) >= set(stock), asked
    for name, theirs in stock.items():
        mine = ours[name]
        rows = zip(
            mine["values"], theirs["values"], mine["statuses"], theirs["statuses"],
            mine["event_timestamps"], theirs["event_timestamps"], strict=True,
        )  # fmt: skip
        feature = name.split("__")[-1]
        for at, (value, their_value, status, their_status, time, their_time) in enumerate(rows):
            if feature == "rate":  # stock does not find the row of a view without entities
                assert (status, value, their_status) == ("PRESENT", 0.25, "NOT_FOUND")
                continue
            what = (name, status, their_status, value, their_value, time, their_time, asked)
            assert (status, their_status) in ALLOWED, what
            if feature == "scalar_map":  # stock has no JSON for it
                assert (value is None) == (status != "PRESENT"), what
                continue
            hidden = status == "OUTSIDE_MAX_AGE" or their_value == NO_TIME
            if feature in {"gap", "more"} and users[at] in expired:
                hidden = True  # stock computes from values past their ttl
            assert value == (None if hidden else their_value), what
            assert type(value) is type(None if hidden else their_value), what
            if status == "PRESENT" and feature not in MADE:
                assert second(time) == second(their_time), what


PAIR = {"user_id": [1, 2], "session_id": ["s1", "s1"]}
#: Of each kind of odd request: an example, and what stock and Headwater say to it.
ODD: dict[str, tuple[dict[str, Any], int, int]] = {
    "unknown feature": ({"features": ["doubles:d9"], "entities": PAIR}, 500, 422),
    "unknown view": ({"features": ["nope:d0"], "entities": PAIR}, 404, 404),
    "unknown service": ({"feature_service": "nope", "entities": PAIR}, 404, 404),
    "a service's alias as a view": ({"features": ["other:d1"], "entities": PAIR}, 404, 404),
    "no feature": ({"features": ["doubles"], "entities": PAIR}, 500, 422),
    "a view's version": ({"features": ["doubles@v1:d0"], "entities": PAIR}, 500, 404),
    "nothing asked": ({"features": [], "entities": PAIR}, 500, 422),
    "features that are no list": ({"features": "doubles:d0", "entities": PAIR}, 422, 422),
    "a feature that is no text": ({"features": [1], "entities": PAIR}, 422, 422),
    "no entities": ({"features": ["doubles:d0"]}, 422, 422),
    "entities that are no object": ({"features": ["doubles:d0"], "entities": [1]}, 422, 422),
    "a key's column that is no list": (
        {"features": ["doubles:d0"], "entities": {"user_id": 1}}, 422, 422
    ),
    "a flag that is none": (
        {"features": ["doubles:d0"], "entities": PAIR, "full_feature_names": "maybe"}, 422, 422
    ),
    "the same feature twice": ({"features": ["doubles:d0"] * 2, "entities": PAIR}, 500, 422),
    "one name in two views": (
        {"features": ["pairs:score", "shops:score"],
         "entities": {**PAIR, "shop_id": [0, 0]}}, 500, 422,
    ),
    "no key": ({"features": ["doubles:d0"], "entities": {}}, 500, 422),
    "another key": ({"features": ["doubles:d0"], "entities": {"session_id": ["s1"]}}, 500, 422),
    "a part of a key": ({"features": ["pairs:score"], "entities": {"user_id": [1]}}, 200, 422),
    "no entity": ({"features": ["doubles:d0"], "entities": {"user_id": []}}, 500, 200),
    "ragged columns": (
        {"features": ["pairs:score"], "entities": {"user_id": [1, 2], "session_id": ["s1"]}},
        500, 422,
    ),
    "no request data": ({"features": ["by_lists:ratio"], "entities": {"user_id": [1]}}, 404, 422),
    "request data of no use": (
        {"features": ["by_lists:ratio"], "entities": {"user_id": [1], "amount": ["x"]}}, 500, 422
    ),
    "a fault in a python view": (
        {"features": ["by_mistake:broken"], "entities": {"user_id": [1], "amount": [13.0]}},
        500, 422,
    ),
    "a fault in a pandas view": (
        {"features": ["by_frame:total"], "entities": {"user_id": [1], "amount": ["x"]}}, 500, 422
    ),
    "views without entities alone": ({"features": ["everywhere:rate"], "entities": {}}, 500, 200),
}  # fmt: skip
#: Values that are no key of a type, and what stock and Headwater say to them.
WRONG_KEYS: dict[str, list[tuple[Any, int, int]]] = {
    "user_id": [("x", 500, 422), (None, 500, 422), ([1], 500, 422), ({}, 500, 422),
                (2**63, 500, 422), (-(2**63) - 1, 500, 422), (10**30, 500, 422),
                (1.5, 200, 422), (True, 200, 422), ("", 500, 422), ("1.0", 500, 422)],
    "session_id": [(None, 500, 422), (["s1"], 500, 422), (1.5, 200, 422), (True, 200, 422)],
    "shop_id": [(2**31, 500, 422), ("x", 500, 422)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_requests(both: Both, kind: str) -> None:
    body, stock_status, our_status = ODD[kind]
    stock, ours = both.ask(body)
    assert (stock.status_code, ours.status) == (stock_status, our_status), (stock.text, ours.body)
    if our_status >= 400:
        detail = ours.json["detail"] if isinstance(ours.json, dict) else ours.json
        assert len(detail) > 20, "it says what is wrong"


@pytest.mark.parametrize(
    ("key", "wrong", "stock_status", "our_status"),
    [(key, *one) for key, several in WRONG_KEYS.items() for one in several],
)
def test_keys_of_another_type(
    both: Both, key: str, wrong: Any, stock_status: int, our_status: int
) -> None:
    right: dict[str, Any] = {"user_id": 1, "session_id": "s1", "shop_id": 0}
    view = next(view for view, keys in KEYS.items() if key in keys)
    for values in ([wrong], [right[key], wrong]):
        entities = {name: [right[name]] * len(values) for name in KEYS[view]} | {key: values}
        asked = {"features": [f"{view}:{both.features[view][0]}"], "entities": entities}
        stock, ours = both.ask(asked)
        assert (stock.status_code, ours.status) == (stock_status, our_status), (asked, ours.body)
        assert repr(key) in ours.json["detail"]


def test_a_value_of_every_type_is_answered_like_stock_feast(both: Both) -> None:
    """But for maps with keys that are no texts: stock has none in JSON and says null."""
    for users in ([1], [1, 99, 1]):
        asked = {
            "features": [f"every_type:{n}" for n in both.features["every_type"]],
            "entities": {"user_id": users}, "full_feature_names": False,
        }  # fmt: skip
        stock, ours = (by_name(answer) for answer in (both.ask(asked)[0].json(),
                                                      both.ask(asked)[1].json))  # fmt: skip
        assert ours["scalar_map"]["values"][0] == {"1": "a", "2": "b"}
        check(asked, stock, ours, both.expired)
        assert None not in [c["values"][0] for n, c in stock.items() if n != "scalar_map"]
