"""What people watch and start, in a real browser: cost and use, ingest, training sets."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from headwater.local import LocalKafka
from tests.browser import Visitor, visitor
from tests.processes import Programs
from tests.waiting import until
from tests.watched import project
from tests.watched.project import USERS

US = pa.timestamp("us", tz="UTC")


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, kafka: LocalKafka
) -> Iterator[Programs]:
    programs = project.make(
        tmp_path_factory.mktemp("pages") / "shop", redis_url, kafka.bootstrap, name="pages"
    )
    server = programs.serve()
    for _ in range(3):
        asked = {"feature_service": "risk", "entities": {"user_id": [1, 2]}}
        assert programs.post("/get-online-features", asked)[0] == 200
    yield programs
    server.terminate()
    server.wait(60)


@pytest.fixture(scope="module")
def guest(shop: Programs) -> Iterator[Visitor]:
    with visitor(shop.url) as one:
        yield one


def test_cost_and_use_say_who_asks_and_what_can_go(guest: Visitor) -> None:
    with guest.page("/ui/usage") as page:
        dropped = page.locator("#dropped")
        expect(dropped.get_by_role("link", name="forgotten")).to_be_visible()
        expect(dropped.get_by_role("link", name="profiles:city")).to_be_visible()
        expect(dropped).to_contain_text("Not certain yet")
        page.get_by_label("90 days").check()
        expect(dropped).to_contain_text("within 90 days")
        assert page.url.endswith("days=90")
        guest.looks_well(page, "usage")
        page.get_by_role("region", name="Views").get_by_role("link", name="spending").click()
        asks = page.get_by_role("region", name="Who asks for it")
        expect(asks).to_contain_text("risk")
        expect(asks).to_contain_text("anonymous")
        expect(page.locator(".figures div").filter(has_text="Keys")).to_contain_text(str(USERS))
        guest.looks_well(page, "usage-view")


def test_ingest_shows_letters_and_takes_in_what_happens_meanwhile(
    guest: Visitor, shop: Programs
) -> None:
    with guest.page("/ui/ingest") as page:
        letters = page.get_by_role("region", name="Dead letters")
        expect(letters.get_by_role("row")).to_have_count(4)
        expect(letters).to_contain_text('{"user_id": "x"}')
        expect(letters).to_contain_text("late")
        loads = page.get_by_role("region", name="Jobs").get_by_role("row").filter(
            has_text="profiles"
        )  # fmt: skip
        before = int(loads.get_by_role("cell").nth(4).inner_text())
        shop.headwater("materialize", "--view", "profiles")
        # The page asks again by itself.
        expect(loads.get_by_role("cell").nth(4)).to_have_text(str(before + 1), timeout=20_000)
        guest.looks_well(page, "ingest")


def test_a_training_set_is_looked_at_then_made_and_fetched(guest: Visitor, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    now = datetime.now(UTC)
    lines = [f"{u},{(now - timedelta(minutes=u % 40)).isoformat()}" for u in range(USERS)]
    labels.write_text("user_id,event_timestamp\n" + "\n".join(lines))
    with guest.page("/ui/training-sets") as page:
        page.get_by_role("link", name="New training set").click()
        page.get_by_label("Feature service").select_option("risk")
        expect(page.locator("#needs")).to_contain_text("user_id")
        page.get_by_role("button", name="Look at a sample").click()
        expect(page.get_by_role("alert")).to_contain_text("There are no labels")
        expect(page.get_by_label("Feature service")).to_have_value("risk")
        guest.looks_well(page, "training-new")
        page.get_by_label("A CSV or Parquet file").set_input_files(labels)
        page.get_by_role("button", name="Look at a sample").click()
        whole = page.get_by_role("button", name="Make the whole")
        expect(whole).to_be_visible(timeout=60_000)
        expect(page.locator(".warning").filter(has_text="'age' is null in")).to_be_visible()
        guest.looks_well(page, "training-sample")
        looked_at = page.url
        whole.click()
        page.wait_for_url(lambda url: url != looked_at)
        expect(page.get_by_text("Rows", exact=True)).to_be_visible(timeout=60_000)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download Parquet").click()
        table = pq.read_table(download.value.path())
        assert table.num_rows == USERS
        assert {"clicks_1h", "spent_1h", "age"} <= set(table.column_names)
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("region", name="Training sets").get_by_role("row")).to_have_count(2)
        guest.looks_well(page, "training-sets")


def test_a_training_set_that_runs_shows_how_far_it_is_and_is_cancelled(
    guest: Visitor, shop: Programs
) -> None:
    n = 300_000
    many = {"user_id": [i % USERS for i in range(n)],
            "event_timestamp": pa.array([datetime.now(UTC)] * n, US)}  # fmt: skip
    pq.write_table(pa.table(many), shop.repo / "data" / "many.parquet")
    with guest.page("/ui/training-sets/new") as page:
        page.get_by_text("Single features").click()
        page.get_by_label("clicks_1h").check()
        page.get_by_label("Or a file in the project").select_option("many.parquet")
        page.get_by_role("button", name="Make the whole at once").click()
        page.wait_for_url("**/training-sets/*")
        pid = _process_of(shop, page)
        os.kill(pid, signal.SIGSTOP)  # so that it is under way for as long as it takes to look
        try:
            expect(page.get_by_role("progressbar")).to_be_visible()
            expect(page.get_by_text(f"of {n:,} rows").or_(page.get_by_text("rows"))).to_be_visible()
            guest.looks_well(page, "training-running")
            page.get_by_role("button", name="Cancel").click()
        finally:
            os.kill(pid, signal.SIGCONT)
        expect(page.get_by_text("It is cancelled")).to_be_visible(timeout=60_000)


def _process_of(shop: Programs, page: Page) -> int:
    """The process of the job that the page shows, once it has said its number."""
    status = shop.repo / "data" / "training-sets" / page.url.rsplit("/", 1)[1] / "status.json"
    until(lambda: "pid" in json.loads(status.read_text()), 120, "the job does not begin")
    return int(json.loads(status.read_text())["pid"])
