"""What `headwater monitoring` writes: the committed files, alerts and panels on real metrics."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from headwater.catalog import BatchSourcePlan, Catalog, StreamSourcePlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.monitoring.generate import differing, generate, write
from headwater.monitoring.options import Channel, Options
from headwater.monitoring.routing import CAUSES
from tests.known_metrics import known_metrics
from tests.panels import panels

ROOT = Path(__file__).parents[2]
STREAM = StreamSourcePlan("departures", ("departures",), "", "json", (), "at")
STREAMED = ViewPlan("flown", "window", (), (), stream="departures")
LOADED = ViewPlan("planes", "row", (), (), batch=BatchSourcePlan("p", "parquet", "p", "at"))
#: `process_*` and `up` come from the client and from Prometheus.
FOREIGN = re.compile(r"process_\w+|up")


def project(name: str, *, streams: bool = True, batch: bool = True) -> Catalog:
    views = [*([STREAMED] if streams else []), *([LOADED] if batch else [])]
    return Catalog(
        name, "", "", "",
        streams={"departures": STREAM} if streams else {},
        views={view.name: view for view in views},
    )  # fmt: skip


def rules(files: dict[str, str]) -> dict[str, Any]:
    (group,) = yaml.safe_load(files["rules.yml"])["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def committed_options() -> Options:
    """Those that `make monitoring` gives."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"headwater monitoring (.*)", makefile)
    words = iter(shlex.split(line))
    given = {word.removeprefix("--"): next(words) for word in words}
    return Options(
        services=(given.pop("service"),), workers=(given.pop("worker"),),
        alertmanagers=(given.pop("alertmanager"),), remote_write=given.pop("remote-write"),
        **given,
    )  # fmt: skip


def test_the_committed_files_are_what_make_monitoring_writes() -> None:
    name = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())["project"]
    files = generate(project(name), committed_options())
    assert differing(files, ROOT / "monitoring") == [], "run `make monitoring`"


def test_every_expression_parses_and_asks_for_metrics_that_exist() -> None:
    files = generate(project("any"), Options())
    asked = [rule["expr"] for rule in rules(files).values()]
    for name, text in files.items():
        if name.startswith("dashboards/"):
            found = panels(json.loads(text))
            assert found
            asked += [expr for _, expr in found]
    known = {sample for family in known_metrics() for sample in _samples(family)}
    for expr in asked:
        plain = expr.replace("$__rate_interval", "5m").replace("$view", ".*")
        promql_parser.parse(plain)
        for name in re.findall(r"\b(featurestore_\w+|process_\w+|up)\b", plain):
            assert name in known or FOREIGN.fullmatch(name), f"{name} is no metric: {expr}"


def _samples(family: Any) -> set[str]:
    """The names that a family's samples have, whether or not it has any yet."""
    more = {
        "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)
    }[family.type]  # fmt: skip
    return {family.name + suffix for suffix in more}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    made = set(rules(generate(project("any"), Options())))
    assert made == {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}


def test_a_project_gets_the_alerts_that_make_sense_for_it() -> None:
    batch = rules(generate(project("b", streams=False), Options()))
    assert "IngestDown" not in batch
    assert "MaterializationFailed" in batch
    assert batch["FeatureViewStale"]["labels"]["project"] == "b"
    streams = generate(project("s", batch=False), Options())
    assert "MaterializationFailed" not in rules(streams)
    assert "dashboards/ingest.json" in streams
    only = yaml.safe_load(generate(project("b", streams=False), Options())["prometheus.yml"])
    jobs = [job["job_name"] for job in only["scrape_configs"]]
    assert jobs == ["headwater-service", "alertmanager"]


def test_windows_and_waits_are_multiples_of_the_interval() -> None:
    slow = rules(generate(project("any"), Options(interval=60)))
    quick = rules(generate(project("any"), Options(interval=0.5)))
    assert slow["FeatureViewStale"]["for"] == "60s"
    assert quick["FeatureViewStale"]["for"] == "500ms"
    assert "[1200s]" in slow["SchemaViolation"]["expr"]
    assert "[10s]" in quick["SchemaViolation"]["expr"]


def test_notices_go_where_they_are_sent_and_a_cause_hides_its_effects() -> None:
    options = Options(
        page=(Channel.parse("telegram:-100123"), Channel.parse("webhook:http://hook/x")),
        ticket=(Channel.parse("email:team@example.org"),),
        smtp="mail:25",
    )
    config = yaml.safe_load(generate(project("any"), options)["alertmanager.yml"])
    page, ticket = config["receivers"]
    assert page["telegram_configs"][0]["chat_id"] == -100123
    assert page["webhook_configs"][0]["url"] == "http://hook/x"
    assert ticket["email_configs"][0]["to"] == "team@example.org"
    assert config["global"]["smtp_smarthost"] == "mail:25"
    known = set(rules(generate(project("any"), Options())))
    for cause, effects, _ in CAUSES:
        assert cause in known
        for name in effects.split("|"):
            assert any(re.fullmatch(name, one) for one in known), f"{name} is no alert"


@pytest.mark.parametrize("text", ["sms:1", "webhook", "email:", "telegram:@group"])
def test_a_channel_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(HeadwaterError, match="is no channel"):
        Channel.parse(text)


def test_every_board_of_every_project_has_an_address_of_its_own() -> None:
    long = "a_project_of_somebody_whose_names_are_long"
    uids = [
        json.loads(text)["uid"]
        for name in ("any", long, f"{long}_too", "of.another/alphabet")
        for path, text in generate(project(name), Options()).items()
        if path.startswith("dashboards/")
    ]  # fmt: skip
    assert len(uids) == len(set(uids)) == 16
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid) for uid in uids)


def test_a_dashboard_that_is_no_longer_made_is_removed(tmp_path: Path) -> None:
    write(generate(project("any"), Options()), tmp_path)
    fewer = generate(project("any", streams=False), Options())
    assert "dashboards/ingest.json" in differing(fewer, tmp_path)
    write(fewer, tmp_path)
    assert differing(fewer, tmp_path) == []
    assert not (tmp_path / "dashboards" / "ingest.json").exists()
