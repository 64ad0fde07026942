"""Routes of watching: the project's metrics, the freshness of its views, what verify found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from headwater.catalog import Catalog
from headwater.errors import BadRequestError
from headwater.online import verified
from headwater.online.writer import OnlineWriter
from headwater.quality.freshness import freshness
from service.metrics import Metrics


def add(
    app: FastAPI,
    metrics: Metrics,
    catalog: Callable[[], Catalog],
    writer: Callable[[], OnlineWriter],
) -> None:
    """Add the routes; `catalog` and `writer` give those that are in use."""

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        """Prometheus text."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/v1/freshness", tags=["operation"])
    async def freshness_of_views() -> Response:
        """Per view: the newest event time of each stage, age, objective and state."""
        clocks = await asyncio.to_thread(lambda: writer().clocks())
        now = time.time()
        rows = [freshness(view, clocks, now) for view in catalog().views.values()]
        return Response(orjson.dumps(rows), media_type="application/json")

    @app.get("/api/v1/verifications", tags=["operation"])
    async def verifications() -> Response:
        """The last runs of `headwater verify`, the newest first: values compared and different."""
        rows = await asyncio.to_thread(
            lambda: verified.summaries(writer().client, catalog().project)
        )
        return Response(orjson.dumps(rows), media_type="application/json")

    @app.get("/api/v1/verifications/{name}", tags=["operation"])
    async def verification(name: str) -> Response:
        """One of them whole: by feature, with causes, examples, and skew where it was measured."""
        found = await asyncio.to_thread(
            lambda: verified.report(writer().client, catalog().project, name)
        )
        if found is None:
            raise BadRequestError(
                f"there is no verification {name!r} (any more); GET /api/v1/verifications lists "
                f"the last {verified.KEPT}", 404,
            )  # fmt: skip
        return Response(orjson.dumps(found), media_type="application/json")
