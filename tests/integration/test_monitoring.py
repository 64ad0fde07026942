"""Prometheus, Alertmanager, VictoriaMetrics and vmalert beside a project: pages by real faults.

All alerts are fired so by `make soak` (tests/soak/test_alerts.py), which takes twice as long.
"""

from __future__ import annotations

import json
import signal
import subprocess

from tests.panels import panels
from tests.waiting import until
from tests.watching import DRIVERS, Watched, ride, watched

__all__ = ["watched"]


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

    until(lambda: not empty(), 60)
    assert watched.notices.log == []


def test_what_comes_in_is_null_late_or_of_another_schema(watched: Watched) -> None:
    names = ("FeatureNullRatioHigh", "NullRatioJump", "SchemaViolation", "LateEvents")

    def strange(driver: int) -> bytes:
        if driver % 4 == 0:
            return b'{"driver_id": "x"}'
        return ride(driver, 9.5, 7 * 3600) if driver % 4 == 1 else ride(driver, None)

    with watched.fires(*names):
        watched.load.event = strange
    watched.load.event = ride
    watched.resolved(*names)


def test_a_store_that_refuses_what_is_read_makes_requests_fail(watched: Watched) -> None:
    burns = watched.fires("OnlineErrorBudgetBurn")
    with burns as told, watched.load.more(["home:zone"], DRIVERS):
        watched.client.acl_setuser("default", commands=["-mget"], enabled=True)
        told("OnlineErrorBudgetBurn")
    watched.client.acl_setuser("default", commands=["+mget"], enabled=True)
    watched.resolved("OnlineErrorBudgetBurn")


def test_a_silent_source_is_one_page_for_all_of_its_views(watched: Watched) -> None:
    with watched.fires("SourceSilent", explains=("FeatureViewStale",)):
        watched.load.event = None
    watched.load.event = ride
    watched.resolved("SourceSilent")


def test_a_worker_that_answers_and_takes_nothing_in_is_one_page(watched: Watched) -> None:
    with watched.fires("IngestStalled", explains=("FeatureViewStale",)):
        watched.pace(udf="hang")
    watched.pace(udf="0")
    watched.resolved("IngestStalled")


def test_workers_that_hang_are_one_page(watched: Watched) -> None:
    with watched.fires("IngestDown", explains=("FeatureViewStale",)):
        for worker in watched.workers:
            worker.send_signal(signal.SIGSTOP)
    for worker in watched.workers:
        worker.send_signal(signal.SIGCONT)
    watched.resolved("IngestDown")


def test_a_store_that_is_down_is_one_page(watched: Watched) -> None:
    with watched.fires("FeatureStoreDown", explains=("FeatureViewStale",)):
        watched.redis.kill()
    watched.redis.start()
    watched.resolved("FeatureStoreDown")


def test_a_service_that_is_down_is_one_page(watched: Watched) -> None:
    with watched.fires("FeatureServiceDown"):
        watched.service.terminate()
        watched.service.wait(30)
    watched.service = watched.programs.serve()
    watched.resolved("FeatureServiceDown")


def test_then_all_is_quiet(watched: Watched) -> None:
    watched.settled()
    assert {name for status, name, severity in watched.notices.log if severity == "page"} == {
        "OnlineErrorBudgetBurn", "SourceSilent", "IngestStalled", "IngestDown", "FeatureStoreDown",
        "FeatureServiceDown",
    }  # fmt: skip
