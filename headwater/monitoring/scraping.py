"""Scrape configurations for Prometheus and for vmagent, which reads the same jobs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.catalog import Catalog
from headwater.monitoring.alerts import INGEST, SERVICE
from headwater.monitoring.options import Options


def prometheus(catalog: Catalog, options: Options) -> dict[str, Any]:
    """Prometheus: scrapes, evaluates the rules, tells Alertmanager."""
    config: dict[str, Any] = {
        "global": {
            "scrape_interval": options.time(1),
            "scrape_timeout": options.time(1 if options.interval <= 10 else 2 / 3),
            "evaluation_interval": options.time(1),
            "external_labels": {"project": catalog.project},
        },
        "rule_files": [options.rules],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": list(options.alertmanagers)}]}]
        },
        "scrape_configs": _jobs(catalog, options),
    }
    if options.remote_write:
        config["remote_write"] = [{"url": options.remote_write}]
    return config


def vmagent(catalog: Catalog, options: Options) -> dict[str, Any]:
    """vmagent, or VictoriaMetrics itself (-promscrape.config): scrapes for long storage."""
    return {
        "global": {
            "scrape_interval": options.time(1),
            "external_labels": {"project": catalog.project},
        },
        "scrape_configs": _jobs(catalog, options),
    }


def _jobs(catalog: Catalog, options: Options) -> list[dict[str, Any]]:
    service: dict[str, Any] = {"job_name": SERVICE, **_targets(options.services)}
    if options.key_file:
        service["authorization"] = {"type": "Bearer", "credentials_file": options.key_file}
    found = [service]
    if catalog.streams:
        found.append({"job_name": INGEST, **_targets(options.workers)})
    # Who tells the people; and a job that is always there says that there was somebody to look.
    return [*found, {"job_name": "alertmanager", **_targets(options.alertmanagers)}]


def _targets(addresses: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    fixed = [a for a in addresses if not a.startswith("dns:")]
    if fixed:
        found["static_configs"] = [{"targets": fixed}]
    for name, _, port in (a[4:].rpartition(":") for a in addresses if a.startswith("dns:")):
        one = {"names": [name], "type": "A", "port": int(port), "refresh_interval": "15s"}
        found.setdefault("dns_sd_configs", []).append(one)
    return found
