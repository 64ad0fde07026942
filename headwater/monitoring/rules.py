"""Rule files for Prometheus and vmalert, which read the same. Pure."""

from __future__ import annotations

from typing import Any

from headwater.catalog import Catalog
from headwater.monitoring.alerts import Alert, alerts
from headwater.monitoring.options import Options


def rules(catalog: Catalog, options: Options) -> dict[str, Any]:
    """The alerts that make sense for a project, as a rule file's content."""
    held = _holds(catalog)
    return {
        "groups": [
            {
                "name": "headwater",
                "interval": options.time(1),
                "rules": [
                    _rule(alert, catalog, options)
                    for alert in alerts(options)
                    if alert.needs in held
                ],
            }
        ]
    }


def _holds(catalog: Catalog) -> set[str]:
    """What a project has of that which alerts need."""
    batch = any(v.batch and not v.stream for v in catalog.views.values())
    return {"", *(["stream"] if catalog.streams else []), *(["batch"] if batch else [])}


def _rule(alert: Alert, catalog: Catalog, options: Options) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **({"for": options.time(alert.waits)} if alert.waits else {}),
        "labels": {"severity": alert.severity, "project": catalog.project},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{options.runbooks}/{alert.name}.md",
        },
    }
