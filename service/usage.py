"""The route of cost and use, and the telling of what was counted to Redis, once a minute."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Response

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, StoreUnavailableError
from headwater.online import usage as held
from headwater.online.sizes import Size, sizes
from headwater.online.usage import Counts, User
from headwater.online.writer import OnlineWriter
from headwater.usage import usage_report
from service.uses import Uses

logger = logging.getLogger("headwater.service")
#: Time between two tellings.
TELL_SECONDS = 60.0
#: Sizes are asked for again after so long.
_SIZES_SECONDS = 60.0
#: Days without a request after which something counts as unused.
DAYS = 30.0
_MOST_DAYS = 36_500


class UseOfFeatures:
    """What one service knows of the use of the project's features."""

    def __init__(
        self, uses: Uses, catalog: Callable[[], Catalog], writer: Callable[[], OnlineWriter]
    ) -> None:
        self._uses, self._catalog, self._writer = uses, catalog, writer
        self._sizes: tuple[str, float, dict[str, Size]] = ("", 0.0, {})
        #: What was taken from the counts, and Redis has not taken yet.
        self._pending: dict[User, Counts] = {}
        self._telling = threading.Lock()

    def report(self, days: float) -> dict[str, Any]:
        """As `usage_report`. Raises StoreUnavailableError, and BadRequestError for the days."""
        if not 0 < days <= _MOST_DAYS:
            raise BadRequestError(f'"days" must be greater than 0 and at most {_MOST_DAYS:,}')
        catalog, now = self._catalog(), time.time()
        with self._telling:  # else what is on its way would be missing, or there twice
            used = held.read(self._writer())
            counts = dict(used.counts)
            for more in (self._uses.untold(), self._pending):
                _add(counts, more)
        found = used._replace(counts=counts, since=used.since or (now if counts else 0.0))
        return usage_report(catalog, found, self._sized(catalog), now, days)

    def _sized(self, catalog: Catalog) -> dict[str, Size]:
        version, until, found = self._sizes
        if version != catalog.version or time.monotonic() > until:
            found = sizes(self._writer(), catalog.views.values())
            self._sizes = (catalog.version, time.monotonic() + _SIZES_SECONDS, found)
        return found

    def tell(self) -> None:
        """Add to Redis what this worker has counted; what it does not take is told later."""
        with self._telling:
            _add(self._pending, self._uses.take())
            try:
                held.add(self._writer(), self._pending)
            except StoreUnavailableError as error:
                logger.warning("who uses which features is told later: %s", error)
            else:
                self._pending = {}

    def note(self, counts: Mapping[User, Counts]) -> None:
        """Count what is too rare to wait: other processes show it at once."""
        with self._telling:
            _add(self._pending, counts)
        self.tell()

    async def keep_telling(self) -> None:
        while True:
            await asyncio.to_thread(self.tell)
            await asyncio.sleep(TELL_SECONDS)


def _add(counts: dict[User, Counts], more: Mapping[User, Counts]) -> None:
    for user, of in more.items():
        counts[user] = counts.get(user, Counts()).plus(of)


def add(app: FastAPI, use: UseOfFeatures) -> None:
    """Add the route."""

    @app.get("/api/v1/usage", tags=["operation"])
    async def usage(days: float = DAYS) -> Response:
        """Per view and feature: bytes, requests, callers, last use; and what can be dropped since
        no service names it and nobody asked for it for so many days."""
        report = await asyncio.to_thread(use.report, days)
        return Response(orjson.dumps(report), media_type="application/json")
