"""compose.yaml names only what there is: commands, settings, ports, and the catalogue's project."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from headwater import cli
from headwater.local.apache import KAFKA_VERSION
from headwater.settings import Settings
from tests.known_metrics import known_metrics

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "headwater"}


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_our_services_exists(name: str) -> None:
    known = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert OURS[name]["command"][0] in known


@pytest.mark.parametrize("name", OURS)
def test_every_setting_of_our_services_is_one_and_makes_sense(name: str) -> None:
    environment = {key: _watched(str(v)) for key, v in OURS[name]["environment"].items()}
    assert set(environment) <= {f.metadata["variable"] for f in fields(Settings)}
    settings = Settings.from_env(environment)
    assert settings.host == "0.0.0.0"  # noqa: S104 - else no other container reaches it
    assert settings.redis_url.split("/")[2].split(":")[0] in SERVICES
    assert settings.kafka_bootstrap_servers.split(":")[0] in SERVICES
    assert settings.alertmanager_url.split("/")[2].split(":")[0] in SERVICES


def _watched(value: str) -> str:
    """As docker compose puts in what is set where COMPOSE_PROFILES is."""
    return re.sub(r"\$\{COMPOSE_PROFILES:\+(.*?)\}", r"\1", value)


def test_what_is_served_is_logged_where_verify_looks_for_it() -> None:
    command = SERVICES["verify"]["command"]
    assert command[:2] == ["verify", "--every"]
    assert float(command[2]) > 0
    logs = [
        SERVICES[name]["environment"]["HEADWATER_FEATURE_LOG"] for name in ("service", "verify")
    ]
    shared = [place.split(":")[1] for place in SERVICES["verify"]["volumes"]]
    assert logs[0] == logs[1]
    assert any(logs[0].startswith(f"{place}/") for place in shared)


def test_what_verify_finds_is_scraped() -> None:
    """It has no port: the service shows it, which every scrape configuration names."""
    for name in ("prometheus.yml", "vmagent.yml"):
        (job,) = [
            job
            for job in yaml.safe_load((ROOT / "monitoring" / name).read_text())["scrape_configs"]
            if any("service" in at["names"] for at in job.get("dns_sd_configs", ()))
        ]
        assert job["dns_sd_configs"][0]["port"] == Settings().port
    assert "featurestore_online_offline_mismatch" in {metric.name for metric in known_metrics()}


def test_published_and_probed_ports_are_those_that_our_settings_default_to() -> None:
    defaults = Settings()
    ports = [f"127.0.0.1:{port}:{port}" for port in (defaults.port, defaults.browser_port)]
    assert SERVICES["service"]["ports"] == ports
    assert f":{defaults.port}/ready" in SERVICES["service"]["healthcheck"]["test"][-1]
    assert f":{defaults.metrics_port}/metrics" in SERVICES["ingest"]["healthcheck"]["test"][-1]
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed
    ports = [defaults.port, defaults.browser_port, defaults.metrics_port]
    assert exposed[1].split() == [str(port) for port in ports]


def test_what_a_service_waits_for_is_there_and_can_come_true() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "no", f"{other} would never be done"


def test_every_named_volume_and_config_is_declared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            place = volume.split(":")[0]
            if place.startswith("./"):
                assert (ROOT / place).is_dir()
            elif not place.startswith("/"):
                assert place in COMPOSE["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]


def test_only_the_registry_differs_from_the_catalogues_own_feature_store_yaml() -> None:
    own = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    composed = yaml.safe_load(COMPOSE["configs"]["feature_store"]["content"])
    assert composed["registry"]["path"].startswith("postgresql+psycopg://")
    for config in (own, composed):
        del config["registry"]
        del config["online_store"]["connection_string"]  # REDIS_URL wins
    assert composed == own


def test_the_registrys_address_is_that_of_the_postgres_service() -> None:
    registry = yaml.safe_load(COMPOSE["configs"]["feature_store"]["content"])["registry"]
    postgres = SERVICES["postgres"]["environment"]
    login = f"{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}"
    assert registry["path"].endswith(f"//{login}@postgres:5432/{postgres['POSTGRES_DB']}")


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    pom = (ROOT / "headwater" / "local" / "pom.xml").read_text()
    assert f"<version>{KAFKA_VERSION}</version>" in pom


def test_the_image_holds_every_package_and_the_catalogue() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = (ROOT / ".dockerignore").read_text().split()
    for folder in ("headwater", "service", "ingest", "feature_repo"):
        assert f"COPY {folder} {folder}" in dockerfile
        assert f"!{folder}" in allowed
