"""What is known of ingest and of jobs: partitions, dead letters, jobs, alerts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from fastapi import FastAPI, Response

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, StoreUnavailableError
from headwater.online import dead_letters, ingest_status, job_status
from headwater.online.writer import OnlineWriter
from service.alerts import active

_MOST = dead_letters.KEPT


class IngestReport:
    """Reads Redis, and the Alertmanager that the settings name ("": none)."""

    def __init__(
        self, catalog: Callable[[], Catalog], writer: Callable[[], OnlineWriter], alertmanager: str
    ) -> None:
        self._catalog, self._writer, self._alertmanager = catalog, writer, alertmanager

    def report(self, letters: int = _MOST) -> dict[str, Any]:
        """Raises StoreUnavailableError where Redis does not answer.

        `alerts` is None where no Alertmanager is named; `alerts_error` says why there are none.
        """
        catalog, writer = self._catalog(), self._writer()
        topics = sorted({t for stream in catalog.streams.values() for t in stream.topics})
        found = dead_letters.read(writer, topics, letters)
        alerts, error = self._alerts()
        return {
            "topics": topics,
            "partitions": ingest_status.partitions(catalog, writer, time.time()),
            "dead_letters": [msgspec.structs.asdict(letter) for letter in found],
            "jobs": [
                {"job": job, "subject": subject, **msgspec.structs.asdict(status)}
                for (job, subject), status in sorted(job_status.read(writer).items())
            ],
            "alerts": alerts,
            "alerts_error": error,
        }

    def _alerts(self) -> tuple[list[dict[str, Any]] | None, str]:
        if not self._alertmanager:
            return None, ""
        try:
            return [alert._asdict() for alert in active(self._alertmanager)], ""
        except StoreUnavailableError as error:
            return [], str(error)


def add(app: FastAPI, ingest: IngestReport) -> None:
    """Add the route."""

    @app.get("/api/v1/ingest", tags=["operation"])
    async def ingest_report(dead_letters: int = _MOST) -> Response:
        """Partitions as workers see them, the last dead letters of each topic, how jobs went, and
        active alerts."""
        if not 0 < dead_letters <= _MOST:
            raise BadRequestError(f'"dead_letters" must be 1 to {_MOST}')
        report = await asyncio.to_thread(ingest.report, dead_letters)
        return Response(orjson.dumps(report), media_type="application/json")
