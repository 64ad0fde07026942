"""The catalogue, views, features and looking up, in a real browser, of the starter's project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import Visitor, visitor
from tests.processes import Programs
from tests.serving import many, project
from tests.serving.server import Running, serve
from tests.waiting import until


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "shop"
    Programs(folder, {}).start("headwater.cli", "init", str(folder)).wait(60)
    Programs(folder / "feature_repo", {"REDIS_URL": redis_url}).headwater("apply")
    return folder / "feature_repo"


@pytest.fixture(scope="module")
def running(shop: Path, redis_url: str) -> Iterator[Running]:
    with serve(shop, redis_url) as server:
        for name in ("ada", "nobody"):
            asked = {"customer_id": [name], "amount": [5.0]}
            assert server.features("order_risk_v1", asked).status == 200
        yield server


@pytest.fixture(scope="module")
def guest(running: Running) -> Iterator[Visitor]:
    with visitor(running.url) as one:
        yield one


#: Whether a canvas has a line in the accent's colour (#00695f), and not its grid alone.
LINE = """canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [red, green, blue, opaque] = pixels.slice(i, i + 4);
    found += red < 10 && Math.abs(green - 105) < 10 && Math.abs(blue - 95) < 10 && opaque > 128;
  }
  return found > 10;
}"""


def drawn(plot: Locator) -> bool:
    """Whether a chart shows its data."""
    return plot.count() == 1 and bool(plot.locator("canvas").evaluate(LINE))


def test_features_are_found_as_one_types(guest: Visitor) -> None:
    with guest.page("/ui/") as page:
        rows = page.get_by_role("row").filter(has=page.get_by_role("rowheader"))
        expect(page.locator("#said")).to_contain_text("7 features")
        guest.looks_well(page, "catalogue")
        page.get_by_role("searchbox").fill("amount mean")
        expect(page.locator("#said")).to_contain_text("2 of 7 features")
        expect(rows.filter(has_text="amount_mean_7d")).to_contain_text("order_risk_v1")
        expect(page).to_have_url(re.compile(r"q=amount(%20|\+)mean"))
        page.get_by_role("searchbox").fill("no such thing")
        expect(page.locator("#found")).to_contain_text("Nothing matches.")
        guest.looks_well(page, "catalogue-none")
        page.get_by_role("searchbox").fill("")
        page.get_by_role("radio", name="In no service").check()
        expect(page.locator("#said")).to_contain_text("0 of 7 features")
        page.get_by_role("radio", name="Stale").check()
        expect(page).to_have_url(re.compile("only=stale"))
        # Faster than answers come: the last one counts, and the console says nothing of the others.
        for text in ("t", "ti", "tie", "tier"):
            page.get_by_role("radio", name="All").check()
            page.get_by_role("searchbox").fill(text)
            page.get_by_role("radio", name="In no service").check()
        page.get_by_role("radio", name="All").check()
        expect(page.locator("#said")).to_contain_text("1 of 7 features")
        expect(page).to_have_url(re.compile(r"q=tier&only=$"))


def test_the_catalogue_is_used_by_keyboard_and_without_scripts(
    guest: Visitor, running: Running
) -> None:
    with guest.page("/ui/") as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("searchbox")).to_be_focused()
    plain = running.get("/ui/?q=amount+mean").body.decode()
    assert "2 of 7 features" in plain
    assert "amount_mean_7d" in plain


def test_a_view_shows_what_it_is_where_it_comes_from_and_how_fresh_it_is(guest: Visitor) -> None:
    with guest.page("/ui/") as page:
        page.get_by_role("link", name="customer_orders").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("customer_orders")
        expect(page.get_by_role("main")).to_contain_text("features.py:")
        windows = page.get_by_role("img", name="Windows up to now")
        expect(windows).to_have_attribute(
            "aria-label",
            "Windows up to now: the last 1h, in steps of 1m; the last 7d, in steps of 1h",
        )
        lineage = page.get_by_role("region", name="Lineage")
        for box in ("orders", "customer_orders", "order_size", "order_risk_v1"):
            expect(lineage.locator("text").get_by_text(box, exact=True)).to_be_visible()
        assert drawn(page.locator("figure", has_text="Age of the newest event"))
        guest.looks_well(page, "view")
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("status").last).to_have_text(re.compile("Copied|Selected"))
        lineage.get_by_role("link", name="order_size").click()
        expect(page.get_by_role("main")).to_contain_text("computed at request")
        expect(page.locator("#its-code")).to_contain_text("def order_size")
        guest.looks_well(page, "view-on-demand")


def test_a_feature_shows_its_definition_and_why_it_was_null(
    guest: Visitor, running: Running
) -> None:
    def counted() -> Locator:
        page.reload()
        return page.get_by_role("row", name="null in the data")

    with guest.page("/ui/features/customer_orders/amount_mean_7d") as page:
        expect(page.locator(".definition")).to_have_text("mean(amount) over the last 7d")
        expect(page.get_by_role("main")).to_contain_text("its start moves on in steps of 1h")
        expect(counted()).to_contain_text("1")
        for _ in range(40):
            running.features("order_risk_v1", {"customer_id": ["nobody"], "amount": [5.0]})
        # The chart takes what the process counted when it looks again.
        plot = page.locator("figure", has_text="Share of null values")
        until(lambda: counted().count() and drawn(plot))
        guest.looks_well(page, "feature")
        curl = page.locator("#curl").inner_text()
        assert "customer_orders:amount_mean_7d" in curl


def test_one_entity_is_looked_up_with_the_reason_of_every_value(
    guest: Visitor, running: Running
) -> None:
    with guest.page("/ui/lookup") as page:
        expect(page.get_by_role("main")).to_contain_text("Nothing is looked up yet")
        guest.looks_well(page, "lookup-empty")
        page.get_by_label("Feature service or view").select_option("order_risk_v1")
        page.get_by_role("button", name="Choose").click()
        page.get_by_label("customer_id").fill("ada")
        page.get_by_label("amount").fill("five")
        page.get_by_role("button", name="Look up").click()
        expect(page.get_by_role("main")).to_contain_text("'five' is no double; 1.0 would be one")
        page.get_by_label("amount").fill("5.0")
        page.get_by_role("button", name="Look up").click()
        answers = page.locator("table.answers")
        windowed = answers.get_by_role("row").filter(has_text="orders_7d")
        expect(windowed).to_contain_text(re.compile(r"\d+ of \d+ tiles, since 20.*\(7d\)"))
        expect(answers.get_by_role("row").filter(has_text="tier")).to_contain_text("newest row")
        expect(page.get_by_role("img", name="tiles from")).to_be_visible()
        expect(page.get_by_role("main")).to_contain_text("History")
        guest.looks_well(page, "lookup")
        online = windowed.get_by_role("cell").first.inner_text()
        page.get_by_role("link", name="Read the log").click()
        again = page.locator(".recomputed dd").nth(1)
        expect(again).to_contain_text(f"{online} from {online} events", timeout=60_000)
        guest.looks_well(page, "lookup-events")
    with guest.page(
        "/ui/lookup?of=service:order_risk_v1&entity.customer_id=x&entity.amount=1"
    ) as p:
        expect(p.get_by_role("main")).to_contain_text("no row of this entity")
        expect(p.get_by_role("main")).to_contain_text("its windows are empty")
    # Of a view only what is asked for is explained, and what that is computed from.
    asked_for = "of=view:order_size&entity.customer_id=ada&entity.amount=5"
    behind = running.get(f"/ui/lookup/events?{asked_for}")
    assert behind.status == 200
    assert '<dt>amount_mean_7d</dt><dd><span class="faint">an input' in behind.body.decode()
    assert "orders_7d" not in behind.body.decode()
    served = running.get("/metrics").body.decode()
    assert 'route="/ui/lookup/events"' in served
    asked = sum(
        int(float(line.rsplit(" ", 1)[1])) for line in served.splitlines()
        if line.startswith('featurestore_online_values_total{feature="tier"')
    )  # fmt: skip
    assert asked <= 50, "looking was counted as serving"


def test_an_error_is_a_page_that_helps(guest: Visitor, running: Running) -> None:
    with guest.page("/ui/views/custmer_orders") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")
        guest.looks_well(page, "error")
        page.get_by_role("link", name="Search the catalogue").click()
        expect(page.get_by_role("searchbox")).to_be_visible()
    for path, status in (("/ui/nothing", 404), ("/ui/static/nothing.js", 404),
                         ("/ui/features/customer_orders/x", 404), ("/ui/?start=x", 422),
                         ("/ui/lookup?of=view:x", 404)):  # fmt: skip
        answer = running.get(path)
        assert answer.status == status, path
        assert "<h1>" in answer.body.decode(), path
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'"), path


@contextmanager
def signed_in(running: Running, page: Page, key: str) -> Iterator[None]:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    yield
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def beside(guest: Visitor, running: Running) -> Visitor:
    """The same browser at another service."""
    assert guest.context.browser is not None
    return Visitor(guest.context.browser, running.url)


def test_whoever_has_a_key_signs_in_with_it(guest: Visitor, shop: Path, redis_url: str) -> None:
    digest = {name: sha256(name.encode()).hexdigest() for name in ("alice", "pusher")}
    keys = f"alice:read:{digest['alice']},pusher:write:{digest['pusher']}"
    with (
        serve(shop, redis_url, HEADWATER_API_KEYS=keys) as running,
        (stranger := beside(guest, running)).page("/ui/?q=tier") as page,
    ):
        expect(page).to_have_url(re.compile(r"/ui/sign-in\?next=/ui/%3Fq%3Dtier"))
        stranger.looks_well(page, "sign-in")
        page.get_by_label("API key").fill("guess")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("This key is not known")
        with signed_in(running, page, "alice"):
            expect(page.locator("#said")).to_contain_text("1 of 7 features")
            (cookie,) = stranger.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
                True, "Strict", "/ui",
            )  # fmt: skip
            stranger.looks_well(page, "signed-in")
        with signed_in(running, page, "pusher"):
            expect(page.get_by_role("heading", level=1)).to_have_text(
                "The key pusher may not do this"
            )
        assert running.get("/ui/", {"Authorization": "Bearer alice"}).status == 200
        assert running.get("/ui/", {"Authorization": "Bearer guess"}).status == 200  # the sign-in
        assert running.get("/ui/static/headwater.css").status == 200
        forged = {"Origin": "http://elsewhere.example"}
        assert running.post("/ui/sign-in", b"key=alice", forged).status == 403


def test_a_thousand_features_are_searched_and_gone_through(
    guest: Visitor, tmp_path: Path, redis_url: str
) -> None:
    repo = many.make(tmp_path / "many", project.ours(redis_url))
    with (
        serve(repo, redis_url) as running,
        beside(guest, running).page("/ui/") as page,
    ):
        links = page.locator("tbody tr:not(.group) th a")
        expect(page.locator("#said")).to_contain_text("1,000 features")
        expect(links).to_have_count(100)
        page.get_by_role("link", name="Show more").click()
        expect(links).to_have_count(200)
        page.get_by_role("searchbox").fill("team-3@")
        expect(page.locator("#said")).to_contain_text("140 of 1,000 features")
        page.get_by_role("searchbox").fill("feature_42_7")
        expect(links).to_have_text(["feature_42_7"])
        page.get_by_role("searchbox").fill("")
        page.get_by_role("radio", name="In no service").check()
        expect(page.locator("#said")).to_contain_text("500 of 1,000 features")
        assert len(running.get("/ui/").body) < 200_000
