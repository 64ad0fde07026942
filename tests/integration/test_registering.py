"""From an idea to a served feature: init, test, plan, apply; and what is refused, where and why."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from headwater import catalog_cache, cli
from headwater.errors import HeadwaterError
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.testing import Project
from tests.processes import Programs
from tests.waiting import until


def run(*words: str) -> str:
    """A command in this process, where Feast is imported once; raises what it raises."""
    done = CliRunner().invoke(cli.app, words)
    if isinstance(done.exception, HeadwaterError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "shop"
    assert "headwater up" in run("init", str(folder))
    return folder


@pytest.fixture
def repo(made: Path, tmp_path: Path) -> Path:
    """A copy of the new project, to change."""
    return Path(shutil.copytree(made / "feature_repo", tmp_path / "feature_repo"))


def edit(repo: Path, old: str, new: str) -> None:
    file = repo / "features.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def line_of(repo: Path, text: str) -> int:
    lines = (repo / "features.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_new_project_comes_up(repo: Path, tmp_path: Path) -> None:
    """It was never applied: `up` does that itself."""
    log = tmp_path / "up.log"
    command = [Path(sys.executable).parent / "headwater", "up", "--repo", str(repo)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            until(lambda: "Service at" in log.read_text() or process.poll() is not None, 300)
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()


def test_a_new_project_is_planned_applied_served_and_guarded(
    repo: Path, redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    rows = json.loads(run("plan", "--repo", str(repo), "--json"))
    assert {(r["change"], r["kind"], r["name"]) for r in rows} == {
        ("add", "entity", "customer"),
        ("add", "Kafka source", "orders"),
        ("add", "feature view", "customer_orders"),
        ("add", "feature view", "customer_profile"),
        ("add", "on-demand feature view", "order_size"),
        ("add", "feature service", "order_risk_v1"),
    }
    assert next(r for r in rows if r["name"] == "customer_orders")["backfill_events"] == 2000

    said = Programs(repo, {"REDIS_URL": redis_url}).headwater("apply")
    assert "customer_orders: servable after" in said
    assert "customer_profile: 10 entities loaded; servable after" in said
    assert served(repo, redis_client, "customer_profile", "tier") in {"basic", "silver", "gold"}
    assert served(repo, redis_client, "customer_orders", "orders_7d") > 0
    assert run("plan", "--repo", str(repo)) == "Nothing changes.\n"

    edit(repo, "time_window=timedelta(hours=1)", "time_window=timedelta(hours=2)")
    words = run("plan", "--repo", str(repo))
    assert "orders_1h  breaks feature services order_risk_v1" in words
    comment = run("plan", "--repo", str(repo), "--markdown")
    assert "**1 of 1 change breaks what is served.**" in comment
    assert "| change | `customer_orders:orders_1h` | breaking" in comment
    before = catalog_cache.fingerprint(repo)
    with pytest.raises(HeadwaterError, match=r"^refused, .*orders_1h.*order_risk_v1.*--force`$"):
        run("apply", "--repo", str(repo))
    assert catalog_cache.fingerprint(repo) == before
    assert "servable after" in run("apply", "--repo", str(repo), "--force")


def served(repo: Path, client: redis.Redis, view: str, feature: str) -> Any:
    catalog = catalog_cache.load(repo)
    reader = ViewReader(catalog.project, catalog.views[view])
    data = OnlineWriter(client, catalog.project).read(reader.keys([["ada"]], 1))
    return reader.values(data, [feature], time.time_ns() // 1000).values[0][0]


WRONG = [
    ('tags={"max_null_ratio": "0.5"}', 'tags={"max_null_ratio": "half"}',
     'description="Mean order', "is 'half'; it is a number"),
    ('tags={"freshness_slo": "1d"}', 'tags={"freshness_slo": "daily"}',
     "customer_orders = Stream", "is 'daily'; it is a duration such as"),
    ('tags={"freshness_slo": "1d"}', 'tags={"freshness_slo": "1d", "past_freshness": "drop"}',
     "customer_orders = Stream", "is 'drop'; it is one of serve, null, default, refuse"),
    ('name="order_risk_v1",', 'name="order_risk_v1", tags={"baseline": "models/no.json"},',
     "order_risk_v1 = Feature", "names no baseline: "),
    ('name="order_risk_v1"', 'name="order risk"', "order_risk_v1 = Feature", "cannot be part of"),
    ('function="sum", column="amount"', 'function="sum", column="amuont"',
     "customer_orders = Stream", "it aggregates 'amuont', which the source 'orders' does not have"),
    ('function="sum"', 'function="total"', "customer_orders = Stream", "no aggregation 'total'"),
    ("dtype=Float64, description=\"Spent", "dtype=Flaot64, description=\"Spent", "Flaot64",
     "name 'Flaot64' is not defined"),
    ('Field(name="tier"', 'Field(naem="tier"', 'naem="tier"', "naem"),
    ("dtype=Int64, description=\"Orders of the last hour\"", 'dtype="int"', 'dtype="int"',
     "Use a type of feast.types"),
    ("dtype=Int64, description=\"Orders of the last hour\"", "dtype=String", "dtype=String",
     "it is declared as STRING, and count of STRING gives INT64. Correct its dtype."),
    ('{"freshness_slo": "1d"}', '{"freshness_slo": 5}', "customer_orders = Stream",
     "Tags are text"),
    ("string, customer_id string", "string, client_id string", "customer_orders = Stream",
     "messages of orders have no 'customer_id', which is a key of its entities. Their fields: am"),
    ('timestamp_field="ordered_at",\n    message', 'timestamp_field="at",\n    message',
     "orders = Kafka", "its messages have no 'at', which is its timestamp_field. Fields: am"),
    ('timestamp_field="updated_at"', 'timestamp_field="at"', "customers = File",
     "has no column 'at', which is its timestamp_field. Its columns: country, "),
    ('Field(name="tier"', 'Field(name="level"', 'name="level"', "has no such column. Its columns"),
    ('Field(name="tier"', 'Field(name="country"', 'name="country", dtype=String, description="Coun',
     "its schema has it twice. Give one of them another name."),
    ('name="customer_profile"', 'name="customer_orders"', "customer_profile = Feature",
     "feature view 'customer_orders' is defined twice, at "),
    ('order = Req', 'other = Entity(name="customer", join_keys=["id"])\norder = Req',
     'join_keys=["id"]', "entity 'customer' is defined twice, at "),
    ('order = Req', 'bare = StreamFeatureView(name="bare", entities=[customer], source=orders, '
     'timestamp_field="ordered_at", aggregations=[Aggregation(function="sum", column="amount", '
     'time_window=timedelta(hours=1))])\norder = Req', "bare = Stream",
     'Give it schema=[Field(name="sum_amount_3600s", dtype=...)]'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG)
def test_what_is_wrong_is_said_with_file_line_and_remedy(
    repo: Path, old: str, new: str, line: str, said: str
) -> None:
    edit(repo, old, new)
    number = line_of(repo, line)
    with pytest.raises(HeadwaterError) as error:
        run("plan", "--repo", str(repo))
    message = str(error.value)
    assert said in message
    assert "\n" not in message
    place = re.search(r"features\.py:(\d+): ", message)
    assert place and abs(int(place[1]) - number) <= 3, message


def test_advice_does_not_stop_a_plan(repo: Path) -> None:
    edit(repo, '{"freshness_slo": "1d"}', '{"freshnes_slo": "1d"}')
    edit(repo, 'description="Who orders",', "")
    edit(repo, 'path="data/customers.parquet"', 'path="data/custmers.parquet"')
    done = CliRunner().invoke(cli.app, ["plan", "--repo", str(repo)])
    assert done.exit_code == 0
    assert re.search(r"features.py:\d+: feature view 'customer_orders': .*'freshness_slo' may be",
                     done.stderr)  # fmt: skip
    assert "entity 'customer': it has no description" in done.stderr
    assert re.search(r"'customer_profile': there is no file .*/custmers.parquet\. Put it there",
                     done.stderr)  # fmt: skip


def test_a_new_projects_own_test_passes(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made / "tests")],
        cwd=made, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_values_on_sample_events_at_chosen_times(made: Path) -> None:
    words = ["--repo", str(made / "feature_repo"), "--view", "customer_orders"]
    words += ["--events", str(made / "tests" / "orders.jsonl")]
    shown = json.loads(run(
        "test", *words, "--at", "2026-01-01T10:10:00Z", "--at", "2026-01-09T00:00:00Z",
        "--entity", "customer_id=ada", "--json"))  # fmt: skip
    assert [(r["customer_id"], r["orders_7d"], r["amount_sum_7d"]) for r in shown] == [
        ("ada", 1, 10.0), ("ada", 0, None),
    ]  # fmt: skip
    table = run("test", *words)
    assert "2026-01-01T10:25:00+00:00" in table, "the last event's time, without --at"
    assert {"ada", "bob", "amount_sum_7d", "5.5"} <= set(re.findall(r"[\w.]+", table))

    project = Project(made / "feature_repo")
    rows = project.values(
        "customer_profile",
        [{"customer_id": "zoe", "tier": t, "updated_at": f"2026-01-0{d}"} for d, t in
         ((1, "basic"), (3, "gold"))],
        ["2026-01-02", "2026-01-03"],
    )  # fmt: skip
    assert [row["tier"] for row in rows] == ["basic", "gold"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"amuont": 1.0}, r"event 2 has \['amuont'\].*it has \['amount', 'customer_id'"),
        ({"customer_id": "a"}, r"event 2 lacks \['ordered_at'\]"),
        ({"amount": "much", "ordered_at": 1}, "event 2: amount is a DOUBLE, not 'much'"),
        ({"ordered_at": "soon"}, "event 2: ordered_at is a UNIX_TIMESTAMP, not 'soon'"),
    ],
)
def test_sample_events_that_do_not_fit_are_refused(
    made: Path, event: dict[str, Any], said: str
) -> None:
    good = {"customer_id": "a", "ordered_at": "2026-01-01"}
    with pytest.raises(HeadwaterError, match=said):
        _project(made).values("customer_orders", [good, event])


def _project(made: Path, held: dict[Path, Project] = {}) -> Project:  # noqa: B006 (a cache)
    if made not in held:
        held[made] = Project(made / "feature_repo")
    return held[made]


def test_init_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(HeadwaterError, match="is not empty; give a new folder"):
        run("init", str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("folder", "project"),
    [("my shop-2", "my_shop_2"), ("Größe", "gr__e"), ("yes", "yes"), ("null", "null")],
)
def test_a_project_is_named_after_its_folder(tmp_path: Path, folder: str, project: str) -> None:
    run("init", str(tmp_path / folder))
    config = catalog_cache.configuration(tmp_path / folder / "feature_repo").read_text()
    assert yaml.safe_load(config)["project"] == project
    with pytest.raises(HeadwaterError, match="begins with no letter"):
        run("init", str(tmp_path / "1st"))


ROOT = Path(__file__).parents[2]


def test_the_workflow_for_pull_requests_comments_and_fails_on_what_breaks(
    made: Path, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "registering.md").read_text()
    found = re.search(r"```yaml\n(name: headwater\n.*?)```", text, re.DOTALL)
    assert found
    (job,) = yaml.safe_load(found[1])["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert steps.pop(0) == "pip install headwater pytest"
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.search(r"@[0-9a-f]{40}$", action) for action in actions), actions
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], cwd=made, check=True)
    here, base = tmp_path / "workspace", tmp_path / "workspace" / ".base"
    for folder in (here, base):
        subprocess.run(["git", "clone", "-q", str(made), str(folder)], check=True)
    edit(here / "feature_repo", "timedelta(hours=1)", "timedelta(hours=2)")
    # What the definitions' own test says of an hour still holds of two.
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    # GitHub's own program needs GitHub: what it is called with is looked at in its place.
    (bin_ / "gh").write_text('#!/bin/sh\necho "$@" > comment; cat "$5" >> comment\n')
    (bin_ / "gh").chmod(0o755)
    env = {
        **os.environ, "PR": "7", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "PATH": f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = [
        subprocess.run(["bash", "-eo", "pipefail", "-c", step], cwd=here, env=env,
                       capture_output=True, text=True, check=False)
        for step in steps
    ]  # fmt: skip
    assert [one.returncode for one in done] == [0, 0, 0, 1], [one.stderr[-500:] for one in done]
    asked, *comment = (here / "comment").read_text().splitlines()
    assert asked == "pr comment 7 --body-file plan.md --edit-last --create-if-none"
    assert comment == (tmp_path / "summary").read_text().splitlines()
    assert "**1 of 1 change breaks what is served.**" in "\n".join(comment)
    assert "breaks feature services order_risk_v1" in done[-1].stdout
