"""What `headwater verify` found: its last runs, and one of them feature by feature."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from headwater.errors import BadRequestError
from headwater.online import verified
from service.access import PAGES
from service.ui.pages import Entry, Pages


def add(pages: Pages) -> None:
    """Add the page's route."""
    pages.navigation.append(Entry(PAGES + "/verify", "Verified"))

    @pages.ui.get("/verify")
    def verifications(request: Request, run: str = "") -> Response:
        """The last runs, and the newest of them, or the one with the id `run`, whole."""
        runs = verified.reports(pages.service.writer.client, pages.catalog.project)
        shown = next((one for one in runs if run in {"", one["id"]}), None)
        if run and shown is None:
            raise BadRequestError(
                f"there is no run {run!r} (any more); the last {verified.KEPT} are kept", 404
            )
        context = {"runs": runs, "shown": shown and _shown(shown)}
        return pages.render(request, "verified.html", context)


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    """A run as the page shows it: what differs first, and by view."""
    skew = {(one["view"], one["feature"]): one for one in run["skew"]}
    features = sorted(run["features"], key=lambda f: not f["different"])
    rows = [{**f, "skew": skew.get((f["view"], f["feature"]))} for f in features]
    examples = [{**example, **_named(f)} for f in features for example in f["examples"]]
    return {**run, "rows": rows, "examples": examples, "has_skew": bool(skew)}


def _named(feature: dict[str, Any]) -> dict[str, str]:
    return {"view": feature["view"], "feature": feature["feature"]}
