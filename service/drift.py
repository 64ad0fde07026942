"""What drifted, as the last comparison found it, and the job that compares, beside the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Response

from headwater.errors import BadRequestError, StoreUnavailableError
from headwater.online import drift_status
from headwater.online.writer import OnlineWriter

logger = logging.getLogger("headwater.service")
#: How often it is asked at most whether it is time to compare.
_LOOK_SECONDS = 30.0


def add(app: FastAPI, writer: Callable[[], OnlineWriter]) -> None:
    """Add the route; `writer` gives the one that is in use."""

    @app.get("/api/v1/drift", tags=["operation"])
    async def drift(of: str = "offline", feature_view: str = "", feature: str = "") -> Response:
        """The last comparison of features with what they were: of what is `offline`, of what was
        `served`, or of `predictions`, by model and version.

        Narrowed to a view or a feature of it; `made_at` is null before the first.
        """
        if of not in {"offline", "served", "predictions"}:
            raise BadRequestError(f'"of" is offline, served or predictions, not {of!r}')
        store = writer()
        found = await asyncio.to_thread(drift_status.report, store.client, store.project, of)
        found = found or {"of": of, "made_at": None, "compared": 0, "alarms": [], "views": []}
        return Response(
            orjson.dumps(_narrowed(found, feature_view, feature)), media_type="application/json"
        )


def _narrowed(report: dict[str, Any], view: str, feature: str) -> dict[str, Any]:
    def wanted(one: dict[str, Any]) -> bool:
        named = not view or one["feature_view"] == view
        return named and (not feature or one.get("feature", feature) == feature)

    views = [
        {**one, "features": [f for f in one["features"] if not feature or f["feature"] == feature]}
        for one in report["views"]
        if wanted({"feature_view": one["feature_view"]})
    ]
    return {**report, "alarms": [a for a in report["alarms"] if wanted(a)], "views": views}


async def keep_comparing(repo: Path, seconds: float, writer: Callable[[], OnlineWriter]) -> None:
    """Run `headwater drift --record` every so often, in a process of its own; of several services
    of a project one at a time does, also where none of them lives that long."""
    if not seconds:
        return
    while True:
        await asyncio.sleep(min(seconds, _LOOK_SECONDS))
        try:
            store = writer()
            if await asyncio.to_thread(
                drift_status.take_turn, store.client, store.project, seconds
            ):
                await _compare(repo)
        except (StoreUnavailableError, OSError) as error:
            logger.warning("features were not compared: %s", error)


async def _compare(repo: Path) -> None:
    line = [sys.executable, "-P", "-m", "headwater.cli", "drift", "--record", "--json"]
    process = await asyncio.create_subprocess_exec(
        *line, "--repo", str(repo), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        raise
    if process.returncode:
        logger.warning("features were not compared: %s", said.decode(errors="replace").strip())
