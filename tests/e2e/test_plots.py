"""Plots in a real browser: what was trained on beside what is offline and was served; ages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Locator, expect

from headwater.offline.feature_log import FeatureLog
from tests.browser import Visitor, visitor
from tests.processes import Programs
from tests.serving.server import Running, serve
from tests.waiting import until

SERVICE = "order_risk_v1"
CUSTOMERS = ("ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jo")
#: The objective of `customer_profile`, whose rows stop coming: it is kept first, and then missed.
OBJECTIVE_SECONDS = 12


class Shop:
    """The starter's project: served, logged, and pinned to the training set it was made with."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.repo = folder / "feature_repo"
        self.log = self.repo / "served"
        self.programs = Programs(
            self.repo, {"REDIS_URL": redis_url, "HEADWATER_FEATURE_LOG": str(self.log)}
        )
        self.programs.start("headwater.cli", "init", str(folder)).wait(60)
        self.programs.headwater("apply")
        self._train()
        definitions = self.repo / "features.py"
        profile = 'name="customer_profile",\n'
        service = f'name="{SERVICE}",\n'
        definitions.write_text(
            definitions.read_text()
            .replace(profile, profile + f'    tags={{"freshness_slo": "{OBJECTIVE_SECONDS}s"}},\n')
            .replace(
                service, service + '    tags={"baseline": "training.parquet.manifest.json"},\n'
            )
        )
        self.programs.headwater("apply")

    def _train(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        times = [now - timedelta(hours=3 * i) for i in range(200)]
        labels = self.repo / "labels.parquet"
        pq.write_table(
            pa.table({
                "customer_id": [CUSTOMERS[i % len(CUSTOMERS)] for i in range(200)],
                "amount": [20.0] * 200,
                "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            }), labels,
        )  # fmt: skip
        out = str(self.repo / "training.parquet")
        self.programs.headwater(
            "training-set", "--service", SERVICE, "--entities", str(labels), "--out", out
        )

    def load_profiles(self, running: Running) -> None:
        """Rows of now, the last ones that come."""
        n = len(CUSTOMERS)
        running.fill({
            "customer_profile": {
                "customer_id": list(CUSTOMERS), "country": ["DE"] * n, "tier": ["gold"] * n,
                "event_timestamp": [datetime.now(UTC).isoformat()] * n,
            }
        })  # fmt: skip

    def serve_and_compare(self, running: Running) -> None:
        for _ in range(30):
            asked = {"customer_id": list(CUSTOMERS), "amount": [30.0] * len(CUSTOMERS)}
            assert running.features(SERVICE, asked).status == 200
        log = FeatureLog(str(self.log / SERVICE))
        until(lambda: log.exists() and sum(p.table.num_rows for p in log.read()) >= 300)

        def sketched() -> bool:
            """Files count once they are a few seconds old."""
            made = json.loads(self.programs.headwater("drift", "--record", "--json"))["sketched"]
            return bool(made.get(f"served:{SERVICE}", 0) >= 300)

        until(sketched)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Running]:
    shop = Shop(tmp_path_factory.mktemp("plots") / "plotted", redis_url)
    settings = {
        "HEADWATER_FEATURE_LOG": str(shop.log), "HEADWATER_FEATURE_LOG_SECONDS": "0.3",
        "HEADWATER_DRIFT_SECONDS": "0",
    }  # fmt: skip
    with serve(shop.repo, redis_url, **settings) as server:
        shop.load_profiles(server)
        begun = time.monotonic()
        shop.serve_and_compare(server)
        # The history looks every ten seconds: twice at least after the objective was missed.
        until(lambda: time.monotonic() - begun > OBJECTIVE_SECONDS + 25)
        yield server


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[Visitor]:
    with visitor(running.url) as one:
        yield one


def shares(compared: Locator) -> list[tuple[float, float]]:
    """(baseline, now) of each bin, as the lengths of its two bars in percent of the longest."""
    bars = compared.locator("svg.pair")
    found = []
    for i in range(bars.count()):
        sizes = [
            float(rect.get_attribute("width") or 0) if rect.count() else 0.0
            for rect in (bars.nth(i).locator(".was"), bars.nth(i).locator(".now"))
        ]
        found.append((sizes[0], sizes[1]))
    return found


def test_a_distribution_shows_what_was_trained_on_what_is_offline_and_what_was_served(
    guest: Visitor,
) -> None:
    with guest.page("/ui/features/customer_orders/amount_mean_7d") as page:
        offline = page.get_by_role("region", name="amount, before the windows, offline")
        served = page.get_by_role("region", name=f"Served through {SERVICE}")
        expect(offline).to_contain_text("of the week before")
        expect(served).to_contain_text("training.parquet")
        expect(served).to_contain_text("300 values")
        for compared in (offline, served):
            found = shares(compared)
            assert len(found) >= 5, found
            for side in (0, 1):
                assert max(pair[side] for pair in found) > 10, found
            assert max(max(pair) for pair in found) == pytest.approx(100, abs=0.1)
        expect(served.locator("table.checks")).to_contain_text("ks")
        guest.looks_well(page, "plots-distribution")
    with guest.page("/ui/features/customer_profile/tier") as page:
        served = page.get_by_role("region", name=f"Served through {SERVICE}")
        # All have been given gold since; those of the training set were of three tiers.
        gold = served.get_by_role("row").filter(has_text="gold")
        expect(gold.get_by_role("cell").nth(1)).to_have_text("100 %")
        expect(served.get_by_role("row").filter(has_text="drifted").first).to_be_visible()
        guest.looks_well(page, "plots-categories")
    with guest.page("/ui/?only=drifted") as page:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="tier", exact=True))
        expect(row.locator(".state.bad")).to_be_visible()
        guest.looks_well(page, "plots-catalogue")


#: Of a chart's columns of pixels those that are shaded: how many of all, and the first.
SHADED = """canvas => {
  const named = getComputedStyle(document.documentElement).getPropertyValue('--bad-soft').trim();
  const probe = document.createElement('canvas').getContext('2d');
  probe.fillStyle = named; probe.fillRect(0, 0, 1, 1);
  const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
  const { width, height } = canvas;
  const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  const columns = new Set();
  for (let at = 0; at < data.length; at += 4)
    if (data[at] === red && data[at + 1] === green && data[at + 2] === blue && data[at + 3] === 255)
      columns.add((at / 4) % width);
  return [columns.size / width, Math.min(...columns) / width];
}"""


def test_freshness_over_time_is_shaded_where_the_objective_was_missed(guest: Visitor) -> None:
    with guest.page("/ui/views/customer_profile") as page:
        expect(page.locator(".kicker .state")).to_have_class("state bad")
        plot = page.locator("figure", has_text="shaded where it was over the objective")
        share, first = plot.locator("canvas").evaluate(SHADED)
        # From the start on the age grew; it was fine at first.
        assert 0.1 < share < 0.9
        assert first > 0.2
        guest.looks_well(page, "plots-stale")
    with guest.page("/ui/views/customer_orders") as page:
        plot = page.locator("figure", has_text="shaded where it was over the objective")
        assert plot.locator("canvas").evaluate(SHADED)[0] == 0


def test_what_is_copied_names_entities_that_are_held(guest: Visitor, running: Running) -> None:
    with guest.page("/ui/features/customer_orders/orders_7d") as page:
        curl = page.locator("#curl").inner_text()
        assert any(f'"{name}"' in curl for name in CUSTOMERS), curl
    with guest.page(f"/ui/lookup?of=service:{SERVICE}") as page:
        assert page.get_by_label("customer_id").input_value() in CUSTOMERS
        page.get_by_label("amount").fill("20")
        page.get_by_role("button", name="Look up").click()
        tier = page.locator("table.answers").get_by_role("row").filter(has_text="tier")
        expect(tier).to_contain_text("gold")
