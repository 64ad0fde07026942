"""Several workers: one scrape shows what all have done, dead ones too; who dies is replaced."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from headwater.local.process import free_ports
from tests.serving import project
from tests.serving.server import Running, serve
from tests.waiting import until

WORKERS = 3
FEATURES = ["doubles:d0", "doubles:d1", "numbers:i32"]


@pytest.fixture(scope="module")
def running(repo: Path, redis_url: str) -> Iterator[Running]:
    with serve(repo, redis_url, HEADWATER_WORKERS=str(WORKERS)) as server:
        server.fill(project.frames())
        until(lambda: len(workers(server)) == WORKERS)
        yield server


def workers(server: Running) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(server.process.pid).children()
    return found


def lives(process: psutil.Process) -> bool:
    """An orphan that has ended may be left unburied."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Load:
    """Requests from several threads, each on many connections; knows what was answered."""

    def __init__(self, server: Running) -> None:
        self._host = server.url.split("//")[1]
        self.answered = self.entities = self.broken = self.broken_entities = 0
        self._lock = threading.Lock()

    def run(self, threads: int, requests: int) -> None:
        at_work = [threading.Thread(target=self._send, args=(i, requests)) for i in range(threads)]
        for thread in at_work:
            thread.start()
        for thread in at_work:
            thread.join()

    def _send(self, seed: int, requests: int) -> None:
        chance = random.Random(seed)
        for _ in range(requests // 10):
            connection = http.client.HTTPConnection(self._host, timeout=30)
            for _ in range(10):
                n = chance.choice([1, 1, 3, 20])
                users = [chance.randrange(project.USERS) for _ in range(n)]
                body = json.dumps({"features": FEATURES, "entities": {"user_id": users}})
                try:
                    connection.request("POST", "/get-online-features", body)
                    answer = connection.getresponse()
                    told = answer.read()
                    assert answer.status == 200, told
                except (http.client.HTTPException, OSError):
                    with self._lock:
                        self.broken += 1
                        self.broken_entities += n
                    connection.close()
                    continue
                with self._lock:
                    self.answered += 1
                    self.entities += n
            connection.close()


def scrape(server: Running) -> dict[str, float]:
    text = server.get("/metrics").body.decode()
    return {
        name: float(number)
        for name, number in re.findall(r"^(featurestore_\S+) (\S+)$", text, re.MULTILINE)
    }


REQUESTS = (
    'featurestore_request_duration_seconds_count{method="POST",route="/get-online-features",'
    'status="2xx"}'
)
ENTITIES = "featurestore_online_entities_per_request_sum"
VALUES = 'featurestore_online_values_total{feature="d1",feature_view="doubles"}'
AGES = 'featurestore_served_value_age_seconds_count{feature_view="doubles"}'
ABSENT = 'featurestore_online_nulls_total{feature="d1",feature_view="doubles",reason="absent"}'


def test_every_worker_shows_the_exact_sum_of_all(running: Running) -> None:
    before = scrape(running)
    load = Load(running)
    load.run(6, 200)
    assert load.broken == 0
    for _ in range(12):
        after = scrape(running)
        assert after[REQUESTS] - before.get(REQUESTS, 0) == load.answered == 1200
        assert after[ENTITIES] - before[ENTITIES] == load.entities
        assert after[VALUES] - before[VALUES] == load.entities
        present = after[AGES] - before.get(AGES, 0)
        assert present + after[ABSENT] - before[ABSENT] == load.entities
    assert all(sum(one.cpu_times()[:2]) > 0.05 for one in workers(running))


def test_a_killed_worker_is_replaced_and_what_it_counted_stays(running: Running) -> None:
    before = scrape(running)
    starts = sum(n for name, n in before.items() if name.startswith("featurestore_worker_starts"))
    load = Load(running)
    at_work = threading.Thread(target=load.run, args=(6, 200))
    at_work.start()
    for _ in range(3):
        done = load.answered
        until(lambda done=done: load.answered > done + 50 or not at_work.is_alive())  # type: ignore[misc]
        victim = workers(running)[0]
        victim.kill()
        until(lambda victim=victim: victim not in workers(running))  # type: ignore[misc]
        until(lambda: len(workers(running)) == WORKERS)
    at_work.join()
    for _ in range(6):
        after = scrape(running)
        seen = after[REQUESTS] - before[REQUESTS]
        assert load.answered <= seen <= load.answered + load.broken
        values = after[VALUES] - before[VALUES]
        assert load.entities <= values <= load.entities + load.broken_entities
    until(
        lambda: (
            sum(n for k, n in scrape(running).items() if k.startswith("featurestore_worker_starts"))
            == starts + 3
        )
    )
    assert "another takes its place" in running.log.read_text()


def test_a_worker_killed_between_two_requests_takes_no_count_with_it(running: Running) -> None:
    before = scrape(running)
    answered = entities = 0
    for _ in range(WORKERS + 1):
        load = Load(running)
        load.run(4, 60)
        assert load.broken == 0
        answered, entities = answered + load.answered, entities + load.entities
        # At once: what was answered had been counted, and waits for nothing.
        victim = workers(running)[0]
        victim.kill()
        until(lambda victim=victim: victim not in workers(running))  # type: ignore[misc]
        until(lambda: len(workers(running)) == WORKERS)
        for _ in range(WORKERS):
            after = scrape(running)
            assert after[REQUESTS] - before[REQUESTS] == answered
            assert after[ENTITIES] - before[ENTITIES] == entities
            assert after[VALUES] - before[VALUES] == entities
            present = after[AGES] - before[AGES]
            assert present + after[ABSENT] - before[ABSENT] == entities
    assert answered == 4 * 60 * (WORKERS + 1)


def test_a_receipt_is_known_to_every_worker(running: Running) -> None:
    frame = {"user_id": [1], "i32": [1], "i64": [2], "f32": [0.5], "f64": [0.25], "flag": [True],
             "seen_at": [None], "event_timestamp": ["2024-01-01"]}  # fmt: skip
    body = {"push_source_name": "numbers_push", "df": frame}
    for path in ("/push", "/push?wait=none"):
        receipt = running.post(path, body).json["receipt"]
        found = [running.get(f"/api/v1/pushes/{receipt}") for _ in range(12)]
        assert {answer.status for answer in found} == {200}
        until(lambda r=receipt: running.get(f"/api/v1/pushes/{r}").json["state"] == "written")  # type: ignore[misc]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_service(repo: Path, redis_url: str, number: int) -> None:
    with serve(repo, redis_url, HEADWATER_WORKERS="2") as server:
        until(lambda: server.get("/ready").status == 200)
        left = workers(server)
        assert len(left) == 2
        os.kill(server.process.pid, number)
        assert server.process.wait(30) == (-number if number == signal.SIGKILL else 0)
        until(lambda: not any(lives(worker) for worker in left))


def test_what_no_worker_can_do_ends_the_service_with_one_line(
    repo: Path, redis_url: str, tmp_path: Path
) -> None:
    def run(repo: Path, **more: str) -> Any:
        env = {**os.environ, "REDIS_URL": redis_url, "HEADWATER_WORKERS": "2", **more}
        command = [sys.executable, "-P", "-m", "service", "--repo", str(repo)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    (tmp_path / "feature_store.yaml").write_text("project: x\nregistry: registry.db\n")
    (port,) = free_ports(1)
    nothing = run(tmp_path, HEADWATER_PORT=str(port))
    assert nothing.returncode == 1
    assert "no registry yet" in nothing.stderr
    with serve(repo, redis_url, HEADWATER_WORKERS="2") as server:
        taken = run(repo, HEADWATER_PORT=server.url.rsplit(":", 1)[1])
        assert taken.returncode == 1
        assert "cannot listen on" in taken.stderr
    assert "Traceback" not in nothing.stderr + taken.stderr
    assert run(repo, HEADWATER_WORKERS="0", HEADWATER_PORT=str(port)).returncode == 1
