"""What Grafana's dashboards ask."""

from __future__ import annotations

from typing import Any


def panels(board: Any) -> list[tuple[str, str]]:
    """(title, expression) of every query of a dashboard."""
    return [
        (panel["title"], target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
