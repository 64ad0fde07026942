"""Vectors in the feature log are those that were served, whatever they hold; no request waits."""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.offline.feature_log import FeatureLog, Part
from headwater.offline.log_segments import first_us, folder_of, names
from headwater.offline.log_writer import left_over
from service.feature_log import TURN_SECONDS
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

STATUSES = {1: "PRESENT", 2: "NULL_VALUE", 3: "NOT_FOUND", 4: "OUTSIDE_MAX_AGE"}
SECOND = "0.3"


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "log"), "HEADWATER_FEATURE_LOG_SECONDS": SECOND}
    with serve(repo, redis_url, **settings) as server:
        server.fill(project.frames())
        yield server


def logged(running: Running, folder: Path, rows: int) -> Part:
    """The log once it has so many rows of its first plan."""

    def parts() -> list[Part]:
        return list(FeatureLog(str(folder)).read()) if folder.exists() else []

    until(lambda: sum(part.table.num_rows for part in parts()) >= rows)
    found = parts()
    assert sum(part.table.num_rows for part in found) == rows
    return found[0]


def outcomes(running: Running) -> dict[str, float]:
    text = running.get("/metrics").body.decode()
    return {
        kind: float(n)
        for kind, n in re.findall(r'logged_vectors_total\{outcome="(\w+)"\} ([\d.e+]+)', text)
    }


def test_every_kind_of_value_is_logged_as_it_was_answered(running: Running, repo: Path) -> None:
    users = list(range(project.USERS))
    sessions = [f"s{i}" if i % 3 else f"é{i} {{x}}" for i in range(project.SESSIONS)] * 2
    before = time.time_ns() // 1000
    both = {"user_id": users, "session_id": sessions}
    whole = running.features("everything", both, full_feature_names=True).columns()
    alone = [
        running.features(
            "everything", {"user_id": [u], "session_id": [s]}, full_feature_names=True
        ).columns()
        for u, s in zip(users, sessions, strict=True)
    ]
    after = time.time_ns() // 1000
    part = logged(running, repo / "log" / "everything", 2 * len(users))
    table = part.table
    times = part.times()
    assert ((times >= before) & (times <= after)).all()
    assert part.plan.service == "everything"
    assert set(table["__catalog"].to_pylist()) == {part.plan.catalog.version}
    assert len(set(table["__request_id"].to_pylist())) == len(users) + 1
    ids = table["__request_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda row: int(times[row]))
    for answers in ([whole], alone):
        n = len(users)
        rows = [row for row in order if (ids.count(ids[row]) == n) == (answers[0] is whole)]
        assert len(rows) == n
        for title in (t for t in whole if "__" in t):
            values = [v for answer in answers for v in answer[title]["values"]]
            statuses = [s for answer in answers for s in answer[title]["statuses"]]
            column = _as_json(table[title].take(pa.array(rows)))
            codes = table[f"{title}__status"].take(pa.array(rows)).to_pylist()
            assert [STATUSES[code] for code in codes] == statuses, title
            assert column == values, title


def test_keys_are_logged_as_sources_hold_them(repo: Path, redis_url: str, tmp_path: Path) -> None:
    """Not as a request wrote them: no vector of such a key was ever compared with its source."""
    settings = {"HEADWATER_FEATURE_LOG": str(tmp_path), "HEADWATER_FEATURE_LOG_SECONDS": SECOND}
    mac, second = b"\x00\xff!", 1704067200
    with serve(repo, redis_url, **settings) as server:
        for hour in (second, second * 1000):
            keys = {"mac": [base64.b64encode(mac).decode()], "hour": [hour], "order_id": ["a"]}
            assert server.features(["odd_keys:weight"], keys).status == 200
        table = logged(server, tmp_path / "features", 2).table
    assert table["mac"].to_pylist() == [mac] * 2
    assert table["hour"].to_pylist() == [second * 1_000_000] * 2


def test_requests_that_were_answered_together_are_logged_apart(
    repo: Path, redis_url: str, tmp_path: Path
) -> None:
    users, names = list(range(project.USERS)), ["i64", "f64", "flag", "seen_at"]
    settings = {"HEADWATER_FEATURE_LOG": str(tmp_path), "HEADWATER_FEATURE_LOG_SECONDS": SECOND}
    with serve(repo, redis_url, **settings) as server:
        server.fill(project.frames())

        def asked(user: int) -> dict[str, dict[str, list[Any]]]:
            features = [f"numbers:{name}" for name in names]
            return server.features(features, {"user_id": [user]}).columns()

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(asked, users))
        table = logged(server, tmp_path / "features", len(users)).table
    assert len(set(table["__request_id"].to_pylist())) == len(users)
    rows = pa.array([table["user_id"].to_pylist().index(user) for user in users])
    for name in names:
        title = next(t for t in table.column_names if t.endswith(name))
        assert _as_json(table[title].take(rows)) == [one[name]["values"][0] for one in answers]
        codes = table[f"{title}__status"].take(rows).to_pylist()
        assert [STATUSES[code] for code in codes] == [one[name]["statuses"][0] for one in answers]
    assert {"NULL_VALUE", "NOT_FOUND"} <= {one["i64"]["statuses"][0] for one in answers}


@pytest.mark.parametrize(
    "features",
    [
        [f"doubles:d{i}" for i in range(5)],
        [f"numbers:{name}" for name in ("i64", "f32", "flag", "i32", "seen_at")],
        ["numbers:f64", "doubles:d3"],
    ],
)
def test_requests_for_several_entities_are_logged_with_nulls_and_without(
    repo: Path, redis_url: str, tmp_path: Path, features: list[str]
) -> None:
    settings = {"HEADWATER_FEATURE_LOG": str(tmp_path), "HEADWATER_FEATURE_LOG_SECONDS": SECOND}
    with serve(repo, redis_url, **settings) as server:
        server.fill(project.frames())

        def asked(users: list[int]) -> dict[str, dict[str, list[Any]]]:
            return server.features(features, {"user_id": users}, full_feature_names=True).columns()

        users = list(range(project.USERS))
        all_users = asked(users)
        columns = [all_users[feature.replace(":", "__")]["statuses"] for feature in features]
        whole = [u for u in users if all(column[u] == "PRESENT" for column in columns)]
        assert 2 < len(whole) < len(users)
        answers = [(users, all_users), (whole, asked(whole)), (whole[::-1], asked(whole[::-1]))]
        table = logged(server, tmp_path / "features", len(users) + 2 * len(whole)).table
    by_request: dict[str, list[int]] = {}
    for row, request in enumerate(table["__request_id"].to_pylist()):
        by_request.setdefault(request, []).append(row)
    assert len(by_request) == 3
    for asked_users, answer in answers:
        (rows,) = [
            rows for rows in by_request.values()
            if table["user_id"].take(pa.array(rows)).to_pylist() == asked_users
        ]  # fmt: skip
        for feature in features:
            view, title = feature.partition(":")[0], feature.replace(":", "__")
            part = table.take(pa.array(rows))
            assert _as_json(part[title]) == answer[title]["values"]
            codes = part[f"{title}__status"].to_pylist()
            assert [STATUSES[code] for code in codes] == answer[title]["statuses"]
            times = part[f"{title}__timestamp"].to_pylist()
            assert [time or datetime(1970, 1, 1, tzinfo=UTC) for time in times] == [
                datetime.fromisoformat(text) for text in answer[title]["event_timestamps"]
            ]
            made_of = part[f"__provenance__{view}"].to_pylist()
            assert [one and one["event_timestamp"] for one in made_of] == times
            assert all(one is None or one["readable"] for one in made_of)


@pytest.mark.parametrize(("odd", "status"), [(2**63, 422), ("7", 200), (True, 422)])
def test_a_key_of_another_kind_costs_no_other_vector(
    repo: Path, redis_url: str, tmp_path: Path, odd: Any, status: int
) -> None:
    settings = {"HEADWATER_FEATURE_LOG": str(tmp_path), "HEADWATER_FEATURE_LOG_SECONDS": "3600"}
    features = [f"doubles:d{i}" for i in range(5)]
    with serve(repo, redis_url, **settings) as server:
        server.fill(project.frames())
        for users, expected in (([1, 2], 200), ([3, odd, 4], status), ([5, 6], 200)):
            assert server.features(features, {"user_id": users}).status == expected
    (part,) = FeatureLog(str(tmp_path / "features")).read()
    answered = [3, 7, 4] if status == 200 else []
    assert part.table["user_id"].to_pylist() == [1, 2, *answered, 5, 6]


def _as_json(column: pa.ChunkedArray) -> list[Any]:
    """As Feast's JSON has it: seconds, base64, maps as they are."""

    def one(value: Any, kind: pa.DataType) -> Any:
        if value is None:
            return None
        if pa.types.is_timestamp(kind):
            return int(value.timestamp() // 1)
        if pa.types.is_list(kind):
            return [one(v, kind.value_type) for v in value]
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, str) and value.startswith("{"):
            return json.loads(value)
        return value

    return [one(value, column.type) for value in column.to_pylist()]


def test_a_row_is_logged_with_the_version_that_it_was_made_of(running: Running, repo: Path) -> None:
    entities = {"user_id": [1, 0], "amount": [2.0, 4.0]}
    asked = ["doubles:d0", "by_lists:ratio"]
    answer = running.features(asked, entities, provenance=True)
    said = answer.json["provenance"]
    rows = said["feature_views"]["doubles"]
    assert set(rows) == {"event_timestamps"}  # pushed: no offset
    part = logged(running, repo / "log" / "features", 2)
    assert said["catalog"] == part.plan.catalog.version
    held = part.table.to_pydict()
    assert held["__provenance__doubles"][1] is None
    event = held["__provenance__doubles"][0]["event_timestamp"]
    assert [event, datetime(1970, 1, 1, tzinfo=UTC)] == [
        datetime.fromisoformat(text) for text in rows["event_timestamps"]
    ]
    assert held["doubles__d0__timestamp"] == [event, None]
    assert held["amount"] == [2.0, 4.0]
    ratio = answer.columns()["ratio"]["values"]
    assert held["by_lists__ratio"] == ratio
    # What names a request by its features alone can be logged in Arrow as well.
    stream = running.post(
        "/get-online-features",
        {"features": asked, "entities": entities, "provenance": True},
        {"Accept": "application/vnd.apache.arrow.stream"},
    )
    batch = pa.ipc.open_stream(stream.body).read_all()
    assert batch["__provenance__doubles"].to_pylist() == held["__provenance__doubles"]


def test_a_service_is_sampled_by_its_own_logging_config(running: Running, repo: Path) -> None:
    for _ in range(200):
        running.features("renamed", {"user_id": [1]})
    folder = repo / "data" / "renamed-log"
    until(lambda: folder.exists() and any(folder.glob("*.parquet")))
    part = next(FeatureLog(str(folder)).read())
    assert 40 < part.table.num_rows < 160
    assert {"other__d1", "other__d0", "numbers__i64"} < set(part.table.column_names)
    # Feast's own reader of the folder finds its columns.
    assert pq.read_table(folder).num_rows >= part.table.num_rows
    assert not (repo / "log" / "renamed").exists()


def test_what_cannot_be_logged_in_time_is_counted_and_answered_all_the_same(
    repo: Path, redis_url: str
) -> None:
    settings = {
        "HEADWATER_FEATURE_LOG": str(repo / "small"), "HEADWATER_FEATURE_LOG_QUEUE": "10",
        "HEADWATER_FEATURE_LOG_SECONDS": SECOND,
    }  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        found = server.features(["numbers:i64"], {"user_id": list(range(40))})
        assert len(found.columns()["i64"]["values"]) == 40
        assert outcomes(server)["dropped"] == 40
        server.features(["numbers:i64"], {"user_id": [1]})
        until(lambda: outcomes(server)["written"] == 1)
        # A folder that cannot be written loses vectors, and no answer.
        (repo / "small" / "everything").write_text("in the way")
        both = {"user_id": [1], "session_id": ["s1"]}
        assert server.features("everything", both, full_feature_names=True).status == 200
        until(lambda: outcomes(server)["failed"] == 1)
        assert "were not logged" in server.log.read_text()
        server.features(["numbers:i64"], {"user_id": [2]})
    # What was recorded is written when the service ends.
    (part,) = FeatureLog(str(repo / "small" / "features")).read()
    assert part.table["user_id"].to_pylist() == [1, 2]


def test_a_range_of_the_log_is_read(running: Running, repo: Path) -> None:
    log = FeatureLog(str(repo / "log" / "everything"))
    times = sorted(int(t) for part in log.read() for t in part.times())
    middle = times[len(times) // 2]
    early = sum(part.table.num_rows for part in log.read(until_us=middle))
    late = sum(part.table.num_rows for part in log.read(since_us=middle + 1))
    assert early + late == len(times)
    assert 0 < early < len(times)


# -- what is killed --------------------------------------------------------------------------------


def writer_of(running: Running) -> psutil.Process:
    """The service's process that makes files of segments, which starts with the first of them."""
    found: list[psutil.Process] = []

    def there() -> bool:
        children = psutil.Process(running.process.pid).children()
        found[:] = [p for p in children if "headwater.offline.log_writer" in p.cmdline()]
        return bool(found)

    until(there)
    return found[0]


def users(folder: Path) -> list[int]:
    """The users of all logged vectors, in order."""
    parts = FeatureLog(str(folder)).read() if folder.exists() else ()
    return sorted(u for part in parts for u in part.table["user_id"].to_pylist())


def test_what_a_killed_service_served_is_in_the_log_once(repo: Path, redis_url: str) -> None:
    folder = repo / "killed" / "features"
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "killed"),
                "HEADWATER_FEATURE_LOG_SECONDS": "600"}  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        server.features(["numbers:i64"], {"user_id": [1, 2]})
        server.features(["numbers:i64"], {"user_id": [3]})
        until(lambda: sum(s.stat().st_size for s in names(folder_of(str(folder)))) > 0)
        time.sleep(2 * TURN_SECONDS)
        server.process.kill()
        server.process.wait()
    assert users(folder) == []
    (segment,) = names(folder_of(str(folder)))
    assert first_us(segment) < time.time_ns() // 1000
    with segment.open("ab") as file:  # a kill in the midst of writing
        file.write(struct.pack("<IB", 1000, 2) + b"half of it")
    (done,) = left_over(folder_of(str(folder)))
    assert (done.written, done.failed) == (3, 0)
    assert users(folder) == [1, 2, 3]
    assert left_over(folder_of(str(folder))) == []


def test_a_writer_ends_what_its_killed_service_left(repo: Path, redis_url: str) -> None:
    folder = repo / "ended" / "features"
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "ended"),
                "HEADWATER_FEATURE_LOG_SECONDS": "3"}  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        server.features(["numbers:i64"], {"user_id": [1]})
        until(lambda: users(folder) == [1])
        server.features(["numbers:i64"], {"user_id": [2]})
        until(lambda: bool(names(folder_of(str(folder)))))
        time.sleep(TURN_SECONDS)
        server.process.kill()
        server.process.wait()
        until(lambda: users(folder) == [1, 2])


def test_vectors_are_logged_once_though_their_writer_is_killed(repo: Path, redis_url: str) -> None:
    folder = repo / "restarted" / "features"
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "restarted"),
                "HEADWATER_FEATURE_LOG_SECONDS": SECOND}  # fmt: skip
    with serve(repo, redis_url, **settings) as server:
        server.features(["numbers:i64"], {"user_id": [0]})
        until(lambda: outcomes(server)["written"] == 1)
        writer_of(server).suspend()
        server.features(["numbers:i64"], {"user_id": [1, 2]})
        until(lambda: bool(names(folder_of(str(folder)))))
        writer_of(server).kill()
        until(lambda: outcomes(server)["written"] == 3)
        assert "writer ended" in server.log.read_text()
    assert users(folder) == [0, 1, 2]


def test_the_disk_holds_no_more_than_it_may(repo: Path, redis_url: str) -> None:
    folder = repo / "bounded" / "features"
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "bounded"),
                "HEADWATER_FEATURE_LOG_SECONDS": SECOND,
                "HEADWATER_FEATURE_LOG_DISK_MB": "1"}  # fmt: skip
    asked = {"user_id": list(range(1000))}
    features = [f"doubles:{f}" for f in ("d0", "d1", "d2")]
    with serve(repo, redis_url, **settings) as server:
        server.features(features, {"user_id": [0]})
        until(lambda: outcomes(server)["written"] == 1)
        writer = writer_of(server)
        writer.suspend()
        sent = 0
        for _ in range(60):
            assert server.features(features, asked).status == 200
            sent += 1
            if outcomes(server).get("dropped"):
                break
            time.sleep(0.1)
        assert outcomes(server)["dropped"] == 1000
        writer.resume()
        until(lambda: outcomes(server)["written"] == 1 + 1000 * (sent - 1))
        assert not names(folder_of(str(folder)))
        server.features(features, {"user_id": [7]})
        until(lambda: outcomes(server)["written"] == 2 + 1000 * (sent - 1))
