"""Predictions and outcomes that clients send: answered at once, written by a thread, lost ones
counted; and how good models were."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError
from headwater.offline import predictions
from headwater.offline.predictions import DAY_US, Record
from headwater.settings import Settings
from headwater.times import micros
from service import openapi
from service.metrics import Metrics

logger = logging.getLogger("headwater.service")
#: How often the thread looks whether it is time to write.
WAKE_SECONDS = 0.05
#: Records of one commit.
RECORDS = 50_000


class PredictionLog:
    """Holds records until they are written; only the event loop adds."""

    def __init__(self, settings: Settings, metrics: Metrics, path: Callable[[], str]) -> None:
        self._settings, self._metrics, self._path = settings, metrics, path
        self._waiting: deque[Record] = deque()
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, records: list[Record]) -> int:
        """Take records for as long as there is room; how many were taken."""
        room = max(0, self._settings.feature_log_queue - len(self._waiting))
        taken = records[:room]
        if len(taken) < len(records):
            self._metrics.predictions.labels("dropped").inc(len(records) - len(taken))
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.extend(taken)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
            self._thread.start()
        return len(taken)

    def close(self) -> None:
        """Write what waits, and end. Blocks until then."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(WAKE_SECONDS):
            waited = time.monotonic() - self._since
            full = len(self._waiting) > self._settings.feature_log_queue // 2
            if self._waiting and (full or waited >= self._settings.feature_log_seconds):
                self._write()
        while self._waiting:
            self._write()

    def _write(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(RECORDS, len(self._waiting)))]
        self._since = time.monotonic()
        try:
            predictions.write(self._path(), some)
        except HeadwaterError as error:
            logger.warning("%d predictions were not logged: %s", len(some), error)
            self._metrics.predictions.labels("failed").inc(len(some))
        else:
            self._metrics.predictions.labels("written").inc(len(some))


def add(
    app: FastAPI, log: PredictionLog, catalog: Callable[[], Catalog],
    raw_body: Callable[[Request], Awaitable[bytes]],
) -> None:  # fmt: skip
    """Add the routes; `catalog` gives the one that is in use."""

    @app.post(
        "/api/v1/predictions", tags=["models"], status_code=202, openapi_extra=openapi.PREDICTIONS
    )
    async def log_predictions(request: Request) -> Response:
        """Log predictions, and outcomes by the ids of theirs; 202 at once, written soon after.

        `prediction_ids` has the id of each prediction, in order; what the queue had no room for is
        counted in `dropped`, the last ones.
        """
        try:
            body = orjson.loads(await raw_body(request))
        except orjson.JSONDecodeError as error:
            raise BadRequestError(f"the body is no JSON: {error}", 400) from error
        now = time.time_ns() // 1000
        records = predictions.records_of(body, now, lambda: uuid.uuid4().hex)
        taken = log.add(records)
        answer = {
            "accepted": taken, "dropped": len(records) - taken,
            "prediction_ids": [r.prediction_id for r in records if r.kind == "prediction"],
        }  # fmt: skip
        return Response(orjson.dumps(answer), 202, media_type="application/json")

    @app.get("/api/v1/models/{model}/quality", tags=["models"])
    async def model_quality(model: str, request: Request) -> Response:
        """How good a model was, by version and day of its predictions, where outcomes are known.

        The last 30 days, or `from` and `to` (ISO 8601).
        """
        asked = request.query_params
        try:
            until = micros(asked["to"]) if "to" in asked else time.time_ns() // 1000 + 1
            since = micros(asked["from"]) if "from" in asked else until - 30 * DAY_US
        except ValueError as error:
            raise BadRequestError(f'"from" and "to" are ISO 8601: {error}') from error
        path = predictions.path_of(catalog())
        days: list[dict[str, Any]] = await asyncio.to_thread(
            predictions.quality, path, since, until, model
        )
        answer = orjson.dumps({"model": model, "days": days})
        return Response(answer, media_type="application/json")
