"""Prometheus, Alertmanager, VictoriaMetrics and vmalert beside a project: pages by real faults.

All alerts are fired so by `make soak` (tests/soak/test_alerts.py), which takes twice as long.
"""

from __future__ import annotations

import json
import signal
import subprocess
from functools import partial

from tests.panels import panels
from tests.waiting import until
from tests.watching import DRIVERS, Watched, ride, watched

__all__ = ["watched"]

#: Seconds between two scrapes: on a machine that runs other tests too, one may be late by a second.
INTERVAL = 2


def test_the_servers_own_checkers_find_nothing(watched: Watched) -> None:
    out = watched.out
    for command in (
        ["promtool", "check", "config", f"{out}/prometheus.yml"],
        ["promtool", "check", "rules", f"{out}/rules.yml"],
        ["amtool", "check-config", f"{out}/alertmanager.yml"],
        ["vmalert", "-dryRun", f"-rule={out}/rules.yml"],
        ["vmagent", "-dryRun", f"-promscrape.config={out}/vmagent.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    text = watched.programs.get("/metrics")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 3}, done.stderr  # 3: matters of style


def test_a_quiet_run_tells_nobody_and_every_panel_has_data(watched: Watched) -> None:
    boards = sorted((watched.out / "dashboards").glob("*.json"))
    asked = [
        (path.stem, title, expr.replace("$__rate_interval", "10s").replace("$view", ".*"))
        for path in boards for title, expr in panels(json.loads(path.read_text()))
    ]  # fmt: skip
    assert len(boards) == 4

    def empty() -> list[tuple[str, str, str]]:
        return [
            (server, board, title)
            for server in (watched.prometheus, watched.victoria)
            for board, title, expr in asked if not watched.query(server, expr)
        ]  # fmt: skip

    until(lambda: not empty(), 120)
    assert watched.notices.log == []


def test_what_comes_in_is_null_late_or_of_another_schema(watched: Watched) -> None:
    names = ("FeatureNullRatioHigh", "NullRatioJump", "SchemaViolation", "LateEvents")

    def strange(driver: int) -> bytes:
        if driver % 4 == 0:
            return b'{"driver_id": "x"}'
        return ride(driver, 9.5, 7 * 3600) if driver % 4 == 1 else ride(driver, None)

    with watched.fires(*names, repair=partial(setattr, watched.load, "event", ride)):
        watched.load.event = strange
    watched.settled()


def test_a_store_that_refuses_what_is_read_makes_requests_fail(watched: Watched) -> None:
    may = partial(watched.client.acl_setuser, "default", enabled=True)
    with (
        watched.fires("OnlineErrorBudgetBurn", repair=partial(may, commands=["+mget"])) as told,
        watched.load.more(["home:zone"], DRIVERS),
    ):
        may(commands=["-mget"])
        told("OnlineErrorBudgetBurn")
    watched.settled()


def test_a_silent_source_is_one_page_for_all_of_its_views(watched: Watched) -> None:
    repair = partial(setattr, watched.load, "event", ride)
    with watched.fires("SourceSilent", explains=("FeatureViewStale",), repair=repair):
        watched.load.event = None
    watched.settled()


def test_a_worker_that_answers_and_takes_nothing_in_is_one_page(watched: Watched) -> None:
    repair = partial(watched.pace, udf="0")
    with watched.fires("IngestStalled", explains=("FeatureViewStale",), repair=repair):
        watched.pace(udf="hang")
    watched.settled()


def test_workers_that_hang_are_one_page(watched: Watched) -> None:
    def signalled(number: signal.Signals) -> None:
        for worker in watched.workers:
            worker.send_signal(number)

    repair = partial(signalled, signal.SIGCONT)
    with watched.fires("IngestDown", explains=("FeatureViewStale",), repair=repair):
        signalled(signal.SIGSTOP)
    watched.settled()


def test_a_store_that_is_down_is_one_page(watched: Watched) -> None:
    repair = watched.redis.start
    with watched.fires("FeatureStoreDown", explains=("FeatureViewStale",), repair=repair):
        watched.redis.kill()
    watched.settled()


def test_a_service_that_is_down_is_one_page(watched: Watched) -> None:
    def repair() -> None:
        watched.service = watched.programs.serve()

    with watched.fires("FeatureServiceDown", repair=repair):
        watched.service.terminate()
        watched.service.wait(30)
    watched.settled()


def test_each_fault_was_one_page(watched: Watched) -> None:
    assert {name for status, name, severity in watched.notices.log if severity == "page"} == {
        "OnlineErrorBudgetBurn", "SourceSilent", "IngestStalled", "IngestDown", "FeatureStoreDown",
        "FeatureServiceDown",
    }  # fmt: skip
