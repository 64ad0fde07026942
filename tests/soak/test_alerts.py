"""Every alert by its real fault, each told to a webhook and resolved after the repair.

What is in `make test` of it comes first, on the same project.
"""

from __future__ import annotations

import resource

import yaml

from tests.integration.test_monitoring import (
    test_a_quiet_run_tells_nobody_and_every_panel_has_data,
    test_a_service_that_is_down_is_one_page,
    test_a_silent_source_is_one_page_for_all_of_its_views,
    test_a_store_that_is_down_is_one_page,
    test_a_store_that_refuses_what_is_read_makes_requests_fail,
    test_a_worker_that_answers_and_takes_nothing_in_is_one_page,
    test_what_comes_in_is_null_late_or_of_another_schema,
    test_workers_that_hang_are_one_page,
)
from tests.watching import CLUB, DRIVERS, GONE, TOLLS, Watched, watched

__all__ = [
    "test_a_quiet_run_tells_nobody_and_every_panel_has_data",
    "test_a_service_that_is_down_is_one_page",
    "test_a_silent_source_is_one_page_for_all_of_its_views",
    "test_a_store_that_is_down_is_one_page",
    "test_a_store_that_refuses_what_is_read_makes_requests_fail",
    "test_a_worker_that_answers_and_takes_nothing_in_is_one_page",
    "test_what_comes_in_is_null_late_or_of_another_schema",
    "test_workers_that_hang_are_one_page",
    "watched",
]
#: Seconds between two scrapes.
INTERVAL = 1
#: Workers and service read changed definitions, which may take a small machine longer than the
#: twelve seconds that are three minutes at this interval.
READING = ("IngestStalled", "FeatureViewStale", "SourceSilent", "IngestDown")


def test_slow_code_and_a_full_disk(watched: Watched) -> None:
    """An on-demand view takes long, and no file of the log can be written."""
    with watched.fires("OnlineLatencyBudgetBurn", "OfflineLogBehind") as told:
        for worker in watched.workers:
            most = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (100, most[1]))
        watched.pace(service="0.12")
        with watched.load.more(["next_zone:next_zone"], DRIVERS):
            told("OnlineLatencyBudgetBurn")
        watched.pace(service="0")
    for worker in watched.workers:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, most)
    watched.resolved("OnlineLatencyBudgetBurn", "OfflineLogBehind")


def test_what_is_loaded(watched: Watched) -> None:
    names = ("MaterializationFailed", "FeatureViewNeverLoaded", "OnlineOfflineMismatch")
    with watched.fires(*names, may=READING):
        # Where nobody loads it, it is not what is served.
        watched.write("car", "plate", watched.cars, plus=1)
        (watched.folder / "data" / "club.parquet").write_text("no Parquet")
        watched.define(more=CLUB)
        watched.programs.headwater("apply")
    watched.write("car", "plate", watched.cars)
    watched.write("club", "number", watched.cars)
    assert watched.programs.post("/materialize", {"feature_views": ["club"]})[0] == 200
    # What differed stays to be told for as long as four minutes are at this interval.
    watched.resolved("MaterializationFailed", "FeatureViewNeverLoaded", *READING)


def test_what_is_asked_a_redis_that_is_too_small_and_processes_that_end(watched: Watched) -> None:
    names = (
        "FeatureServedStale", "FeatureLogDropping", "StoreEvictsKeys", "StoreMemoryHigh",
        "InstanceDown", "VerifyJobOverdue",
    )  # fmt: skip
    with watched.fires(*names) as told, watched.load.more(["home:zone"], GONE):
        watched.verifier.kill()
        watched.workers[1].terminate()
        watched.load.ask(["home:zone"], DRIVERS * 300)  # more than the feature log has room for
        # What has no end of its own is never thrown away by this policy.
        watched.client.config_set("maxmemory-policy", "volatile-random")
        for i in range(3000):
            watched.client.set(f"junk-{i}", b"." * 10_000, ex=600)
        used = watched.client.info("memory")["used_memory"]
        watched.client.config_set("maxmemory", used - 3_000_000)
        told(*names)
    watched.client.config_set("maxmemory", 0)
    watched.verifier.wait(30)
    watched.workers[1].wait(30)
    watched.verifier, watched.workers[1] = watched.verify(), watched.second.ingest()
    watched.resolved(*names)


def test_a_slow_udf_makes_ingest_lag_until_views_are_stale(watched: Watched) -> None:
    with watched.fires("FeatureViewStale", "IngestLagSeconds"):
        watched.pace(udf="0.15")
    watched.pace(udf="0")
    watched.resolved("FeatureViewStale", "IngestLagSeconds")


def test_data_that_are_not_what_they_were(watched: Watched) -> None:
    # Not from the start: to compare all the time takes much of a small machine.
    watched.programs.env["HEADWATER_DRIFT_SECONDS"] = "4"
    watched.service.terminate()
    watched.service.wait(30)
    watched.service = watched.programs.serve()
    watched.resolved("FeatureServiceDown")
    with watched.fires("SourcePartial", may=("FeatureServiceDown",)):
        pass  # the hour of which only a tenth has come
    watched.tolls(range(-1, 0), TOLLS)  # what is sent once more is taken once more
    watched.resolved("SourcePartial")
    with watched.fires("FeatureDrift"):
        watched.tolls(range(1), 30 * TOLLS, usual=11.5)
    watched.define(max_drift="100", more=CLUB)
    watched.programs.headwater("apply")
    watched.resolved("FeatureDrift", *READING)
    sketches = watched.folder / "data" / "log" / "_sketches"
    with watched.fires("DriftJobOverdue", may=READING):
        sketches.rename(sketches.with_name("aside"))
        sketches.write_text("no folder")
    sketches.unlink()
    sketches.with_name("aside").rename(sketches)
    watched.resolved("DriftJobOverdue")


def test_every_alert_was_fired_and_then_all_is_quiet(watched: Watched) -> None:
    watched.settled()
    (group,) = yaml.safe_load((watched.out / "rules.yml").read_text())["groups"]
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in group["rules"]}
    fired = {(name, level) for status, name, level in watched.notices.log if status == "firing"}
    assert fired == set(severity.items())
    assert watched.notices.of_vmalert == set(severity)
