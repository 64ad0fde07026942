"""What features cost, who uses them, and what can be dropped."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from headwater.errors import BadRequestError
from headwater.usage import DAY_SECONDS
from service.access import PAGES
from service.ui.pages import Entry, Pages
from service.usage import DAYS, UseOfFeatures

#: Days that the page offers; any other may be asked for.
CHOICES = (7, 30, 90)


def add(pages: Pages, use: UseOfFeatures) -> None:
    """Add the routes."""
    pages.navigation.append(Entry(PAGES + "/usage", "Cost and use"))

    @pages.ui.get("/usage")
    def usage(request: Request, days: float = DAYS) -> Response:
        """Every view by its size, and what nobody uses."""
        return pages.render(request, "usage.html", _context(use, days))

    @pages.ui.get("/usage/{view}")
    def usage_of_view(request: Request, view: str, days: float = DAYS) -> Response:
        """One view's features and who asked for them."""
        context = _context(use, days)
        row = next((row for row in context["views"] if row["feature_view"] == view), None)
        if row is None:
            raise BadRequestError(f"there is no feature view {view!r}", 404)
        return pages.render(request, "usage-view.html", {**context, "row": row})


def _context(use: UseOfFeatures, days: float) -> dict[str, Any]:
    report = use.report(days)
    since = report["counted_since"]
    return {
        **report,
        "choices": CHOICES,
        "bytes": sum(row["bytes"] or 0 for row in report["views"]),
        "refused": any(row["bytes"] is None for row in report["views"]),
        "requests": sum(row["requests"] for row in report["views"]),
        "certain_from": None if since is None else since + days * DAY_SECONDS,
    }
