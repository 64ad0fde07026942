"""Cost, use, ingest, jobs and alerts over HTTP, from a shop that real programs run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from headwater import catalog_cache
from headwater.codec import key_prefix
from headwater.demo import leftovers
from headwater.errors import HeadwaterError
from headwater.local import LocalKafka
from headwater.local.process import free_ports
from headwater.online import usage
from headwater.online.sizes import sizes
from headwater.online.usage import Counts, User
from headwater.online.writer import OnlineWriter
from headwater.usage import usage_report
from tests.processes import Programs
from tests.waiting import answers, until
from tests.watched import project
from tests.watched.project import USERS, as_key


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real one, without anybody to tell."""
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "config.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus-alertmanager", f"--config.file={folder}/config.yml",
             f"--storage.path={folder}", f"--web.listen-address=127.0.0.1:{port}",
             "--cluster.listen-address="],
            stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(url + "/-/ready"), 120, "Alertmanager does not answer")
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, kafka: LocalKafka, alertmanager: str
) -> Programs:
    return project.make(
        tmp_path_factory.mktemp("watched") / "shop", redis_url, kafka.bootstrap,
        HEADWATER_API_KEYS=project.api_keys(), HEADWATER_WORKERS="2",
        HEADWATER_ALERTMANAGER_URL=alertmanager,
    )  # fmt: skip


def ask(shop: Programs, caller: str, entities: dict[str, Any], **wanted: Any) -> None:
    """On a connection of its own, so that either worker may answer."""
    answer = httpx.post(f"{shop.url}/get-online-features", headers=as_key(caller),
                        json={**wanted, "entities": entities}, timeout=30)  # fmt: skip
    assert answer.status_code == 200, answer.text


def report(shop: Programs, path: str) -> Any:
    answer = httpx.get(shop.url + path, headers=as_key("ann"), timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def writer(shop: Programs, redis_url: str) -> Iterator[OnlineWriter]:
    with redis.Redis.from_url(redis_url) as client:
        yield OnlineWriter(client, "watched")


def test_use_is_counted_by_service_and_caller_over_all_workers_and_outlives_them(
    shop: Programs, writer: OnlineWriter
) -> None:
    server = shop.serve()
    for _ in range(20):
        ask(shop, "ann", {"user_id": [1, 2]}, feature_service="risk")
    for _ in range(3):
        ask(shop, "bob", {"user_id": [1], "total": [2.0]}, features=["share:total_share"])
    ask(shop, "bob", {"user_id": [1]}, features=["profiles:city"])
    found = report(shop, "/api/v1/usage")
    views = {row["feature_view"]: row for row in found["views"]}
    features = {f"{name}:{f['feature']}": f for name, row in views.items() for f in row["features"]}

    def users(feature: str) -> set[tuple[str, str, int, int]]:
        return {
            (u["service"], u["caller"], u["requests"], u["entities"])
            for u in features[feature]["users"]
        }

    assert users("profiles:age") == {("risk", "ann", 20, 40)}
    # What an on-demand view reads is used by whoever asks for it.
    assert users("spending:spent_1h") == {("risk", "ann", 20, 40), ("", "bob", 3, 3)}
    assert users("share:total_share") == {("", "bob", 3, 3)}
    assert users("profiles:city") == {("", "bob", 1, 1)}
    assert views["profiles"]["requests"] == 21
    assert features["spending:spent_1h"]["services"] == ["offers", "risk"]
    assert views["forgotten"]["last"] is None
    server.terminate()
    assert server.wait(60) == 0
    # Both workers have told Redis, each its own.
    told = usage.read(writer)
    printed = json.loads(shop.headwater("usage", "--json"))["views"]
    assert next(r for r in printed if r["feature_view"] == "profiles")["requests"] == 21
    assert "In no service, unused for 30 days: forgotten" in shop.headwater("usage")
    assert told.counts[User("profiles:age", "risk", "ann")][:2] == (20, 40)
    server = shop.serve()
    ask(shop, "ann", {"user_id": [1, 2]}, feature_service="risk")
    again = report(shop, "/api/v1/usage")
    row = next(r for r in again["views"] if r["feature_view"] == "profiles")
    assert row["requests"] == 22
    assert again["counted_since"] == told.since
    server.terminate()
    server.wait(60)


def test_what_nobody_names_or_asks_for_can_be_dropped(shop: Programs) -> None:
    catalog = catalog_cache.load(shop.repo)
    now, day = 1_800_000_000.0, 86_400.0
    counts = {
        User("profiles:city", "", "bob"): Counts(9, 9, now - 31 * day),
        User("forgotten:*", "", "bob"): Counts(1, 1, now - 5 * day),
    }

    def droppable(days: float) -> set[tuple[str, str | None]]:
        made = usage_report(catalog, usage.Usage(counts, now - 40 * day), {}, now, days)
        return {(d["feature_view"], d["feature"]) for d in made["droppable"]}

    # No service names the city; of `forgotten` it is only known that some of it was asked for.
    assert droppable(4) == {("profiles", "city"), ("forgotten", None)}
    assert droppable(30) == {("profiles", "city")}
    assert droppable(32) == set()
    assert usage_report(catalog, usage.Usage(counts, now - 40 * day), {}, now, 32)["certain"]
    assert not usage_report(catalog, usage.Usage(counts, now - 3 * day), {}, now, 32)["certain"]


def test_up_refuses_a_log_of_another_kafka_and_moves_it_aside(
    shop: Programs, tmp_path: Path
) -> None:
    # What it has cached of the definitions names the old place.
    shutil.copytree(shop.repo, tmp_path / "shop", ignore=shutil.ignore_patterns(".catalog-*"))
    catalog = catalog_cache.load(tmp_path / "shop")
    end = 3 * USERS + 3
    with pytest.raises(HeadwaterError, match=f"{project.TOPIC}-0 up to offset {end}.*--fresh"):
        leftovers.refuse_foreign_logs(catalog, "Kafka: a new one")
    moved = leftovers.set_aside(tmp_path / "shop", datetime(2026, 5, 4, tzinfo=UTC))
    assert [path.name for path in moved] == ["clicks"]
    aside = tmp_path / "shop" / "data" / "before-20260504-000000" / "data" / "log" / "clicks"
    assert (aside / "_delta_log").is_dir()
    leftovers.refuse_foreign_logs(catalog, "Kafka: a new one")


def test_sizes_are_redis_s_own_and_a_sample_comes_near_them(
    shop: Programs, writer: OnlineWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = catalog_cache.load(shop.repo).views
    # Beside the shop's keys many others, so that the views are a part of what is drawn.
    writer.client.mset({f"other:{i}": "x" for i in range(1000)})
    try:
        counted = sizes(writer, views.values())
        true = {
            name: [
                writer.client.memory_usage(key)
                for key in writer.client.scan_iter(match=key_prefix("watched", view) + b"*")
            ]
            for name, view in views.items()
        }
        monkeypatch.setattr("headwater.online.sizes.COUNTED", 10)
        drawn = sizes(writer, views.values())
    finally:
        writer.client.delete(*(f"other:{i}" for i in range(1000)))
    for name, weights in true.items():
        assert counted[name].keys == len(weights) == USERS
        assert counted[name].keys_error == 0
        # A sample may miss a rare size, and then knows no error: hence the fiftieth.
        slack = 0.02 * sum(weights)
        assert abs(counted[name].bytes - sum(weights)) <= 5 * counted[name].bytes_error + slack
        # Five standard errors: one draw in two million is further off.
        assert abs(drawn[name].keys - USERS) <= 5 * drawn[name].keys_error
        assert abs(drawn[name].bytes - sum(weights)) <= 6 * drawn[name].bytes_error + slack
    assert counted["spending"].tiles > 0
    assert counted["profiles"].tiles == 0


def test_where_redis_does_not_tell_sizes_the_rest_is_still_shown(
    shop: Programs, writer: OnlineWriter, redis_url: str
) -> None:
    any_client: Any = writer.client
    any_client.acl_setuser("watched", enabled=True, passwords=["+secret"], keys=["*"],
                           categories=["+@all"], commands=["-memory"])  # fmt: skip
    try:
        address = redis_url.replace("redis://", "redis://watched:secret@")
        client = redis.Redis.from_url(address)
        found = sizes(OnlineWriter(client, "watched"), catalog_cache.load(shop.repo).views.values())
        client.close()
        shop.env["REDIS_URL"] = address
        server = shop.serve()
        try:
            page = httpx.get(shop.url + "/ui/usage", headers=as_key("root")).text
            row = report(shop, "/api/v1/usage")["views"][0]
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shop.env["REDIS_URL"] = redis_url
        any_client.acl_deluser("watched")
    assert found["spending"].bytes is None
    assert found["spending"].keys == USERS
    assert found["spending"].tiles > 0
    assert row["bytes"] is None
    assert "does not let this service ask what a key takes" in page


def test_ingest_shows_partitions_letters_with_their_bytes_jobs_and_alerts(
    shop: Programs, alertmanager: str
) -> None:
    posted = httpx.post(f"{alertmanager}/api/v2/alerts", json=[{
        "labels": {"alertname": "IngestLag", "severity": "critical", "topic": project.TOPIC},
        "annotations": {"summary": "far behind", "runbook_url": "docs/runbooks/IngestLag.md"},
    }])  # fmt: skip
    assert posted.status_code == 200
    shop.headwater("compact")
    server = shop.serve()
    try:
        until(lambda: bool(report(shop, "/api/v1/ingest")["alerts"]), 120, "no alert comes")
        found = report(shop, "/api/v1/ingest")
    finally:
        server.terminate()
        server.wait(60)
    mine = next(p for p in found["partitions"] if p["partition"] == 0)
    assert (mine["topic"], mine["lag_records"], mine["stopped"]) == (project.TOPIC, 0, True)
    assert mine["applied"] == 3 * USERS
    assert mine["rejected"] == {"late": 1, "invalid": 2}
    letters = {letter["offset"]: letter for letter in found["dead_letters"]}
    assert sorted(letters) == [3 * USERS, 3 * USERS + 1, 3 * USERS + 2]
    assert letters[3 * USERS]["kind"] == "late"
    assert letters[3 * USERS + 1]["value"] == '{"user_id": "x"}'
    assert letters[3 * USERS + 2]["value"].startswith("base64:/wA")
    assert letters[3 * USERS + 2]["bytes"] == len(b"\xff\x00 <b>broken</b>")
    jobs = {(job["job"], job["subject"]): job for job in found["jobs"]}
    assert jobs["materialize", "profiles"]["ok"] == 1
    assert jobs["compact", "clicks"]["ok"] == 1
    (alert,) = found["alerts"]
    assert (alert["name"], alert["severity"], alert["summary"]) == (
        "IngestLag", "critical", "far behind",
    )  # fmt: skip
    assert alert["runbook"] == "docs/runbooks/IngestLag.md"


def test_an_alertmanager_that_is_away_is_said_and_hides_nothing_else(
    shop: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    url = f"http://u:secret@127.0.0.1:{port}"
    monkeypatch.setitem(shop.env, "HEADWATER_ALERTMANAGER_URL", url)
    server = shop.serve()
    try:
        found = report(shop, "/api/v1/ingest")
    finally:
        server.terminate()
        server.wait(60)
    assert found["alerts"] == []
    assert "HEADWATER_ALERTMANAGER_URL" in found["alerts_error"]
    assert "secret" not in json.dumps(found)
    assert found["dead_letters"]


def test_pages_start_training_sets_for_whoever_asks_and_for_no_other_site(shop: Programs) -> None:
    csv = "user_id,event_timestamp\n" + "\n".join(f"{u},2026-01-01T00:00:00Z" for u in range(4))
    form = {"service": "risk", "look": "whole"}
    page = "/ui/training-sets"
    files = {"labels": ("labels.csv", csv.encode(), "text/csv")}
    server = shop.serve()
    try:
        with httpx.Client(base_url=shop.url, timeout=30) as client:
            elsewhere = {**as_key("ann"), "sec-fetch-site": "cross-site"}
            assert client.post(page, data=form, files=files, headers=elsewhere).status_code == 403
            assert client.post(page, data=form, files=files).status_code == 303  # to the sign-in
            assert report(shop, "/api/v1/training-sets") == []
            wrong = client.post(page, data={**form, "service": "risc"}, files=files,
                                headers=as_key("ann"))  # fmt: skip
            assert wrong.status_code == 422
            assert "did you mean &#39;risk&#39;" in wrong.text
            begun = client.post(page, data=form, files=files, headers=as_key("ann"))
            assert begun.status_code == 303
            (job,) = report(shop, "/api/v1/training-sets")
            assert begun.headers["location"] == f"/ui/training-sets/{job['id']}"
            assert (job["owner"], job["service"], job["sample"]) == ("ann", "risk", 0)
            mine = client.get(f"{page}/{job['id']}", headers=as_key("ann"))
            assert mine.status_code == 200
            for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/result")):
                theirs = client.request(method, f"{page}/{job['id']}{path}", headers=as_key("bob"))
                assert theirs.status_code == 404, path
        used = report(shop, "/api/v1/usage")
        row = next(r for r in used["views"] if r["feature_view"] == "profiles")
        asked = [u for u in row["users"] if u["purpose"] == "training"]
        assert [(u["service"], u["caller"], u["entities"]) for u in asked] == [("risk", "ann", 4)]
    finally:
        server.terminate()
        server.wait(60)
