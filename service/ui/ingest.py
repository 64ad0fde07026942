"""Ingest as it goes: partitions, alerts, jobs, and what was not applied."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from service.access import PAGES
from service.ingest_report import IngestReport
from service.ui.pages import Entry, Pages

#: Dead letters that are shown of each topic.
SHOWN = 50


def add(pages: Pages, ingest: IngestReport) -> None:
    """Add the route."""
    pages.navigation.append(Entry(PAGES + "/ingest", "Ingest"))

    @pages.ui.get("/ingest")
    def ingest_page(request: Request) -> Response:
        """Lag, rates and rejects of every partition; dead letters, jobs and active alerts."""
        report = ingest.report(SHOWN)
        parts = report["partitions"]
        rejected: dict[str, int] = {}
        for part in parts:
            for kind, count in part["rejected"].items():
                rejected[kind] = rejected.get(kind, 0) + count
        context: dict[str, Any] = {
            **report,
            "letters": sorted(report["dead_letters"], key=lambda letter: letter["time"])[::-1],
            "lag_records": sum(part["lag_records"] for part in parts),
            "lag_seconds": max((part["lag_seconds"] for part in parts), default=0.0),
            "rate": sum(part["events_per_second"] for part in parts),
            "rejected": rejected,
            "gone": [p for p in parts if not p["running"] and not p["stopped"]],
            "streams": pages.catalog.streams,
        }
        # A browser asks again every few seconds, and takes only what moves.
        part = request.headers.get("hx-target") == "live"
        answer = pages.render(request, "ingest-live.html" if part else "ingest.html", context)
        answer.headers["Vary"] = "HX-Target"
        return answer
