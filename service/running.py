"""What requests share: the catalogue in use, the stores, the metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Request

from headwater import catalog_cache
from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.online.cluster_link import ClusterLink, open_link
from headwater.online.connect import connect
from headwater.online.link import Link
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter, clock_key
from headwater.settings import Settings
from service import writes
from service.access import Access, check_exposure
from service.crew import Place
from service.feature_log import FeatureLogs
from service.metrics import Metrics
from service.pushes import Pushes
from service.requests import Planner
from service.slots import Slots
from service.vectors import Vectors, parse

logger = logging.getLogger("headwater.service")

_STAYS = "the catalogue stays as it was: %s"
#: Rows of a view, and what writes and reads it.
Framed = tuple[writes.Frame, ViewReader]


class Service:
    """One service; everything but `start` may be used before it listens."""

    def __init__(self, repo: Path, settings: Settings, place: Place | None = None) -> None:
        self.repo, self.settings = repo, settings
        #: Why the service cannot run, where that shows only when it starts.
        self.refused: HeadwaterError | None = None
        folder, number = (place.folder, place.number) if place else (None, 0)
        self.metrics = Metrics(Slots(folder, number))
        self.metrics.starts.labels(str(number)).inc()
        self.fingerprint, catalog = self._load()
        self.url = settings.redis_url or catalog.redis_url
        self.logs = FeatureLogs(settings, self.metrics, self.url)
        self.vectors = Vectors(settings, self.metrics, self.logs)
        self.planner: Planner = self.vectors.use(catalog)
        self.metrics.declare(catalog)
        self.access = Access.parse(settings.api_keys)
        check_exposure(settings, self.access)
        self._writer: OnlineWriter | None = None
        self.pushes = Pushes(lambda: self.writer, settings.max_queued_pushes, folder, number)
        self._held_data = False
        self._looking = asyncio.Lock()

    def _load(self) -> tuple[str, Catalog]:
        return catalog_cache.fingerprint(self.repo), catalog_cache.load(self.repo)

    def start(self) -> None:
        """Connect; inside the event loop."""
        self.vectors.link = open_link(self.url, self.settings.redis_timeout_seconds)

    @property
    def link(self) -> Link | ClusterLink:
        if self.vectors.link is None:
            raise StoreUnavailableError("the service has not started yet; try again shortly")
        return self.vectors.link

    @property
    def writer(self) -> OnlineWriter:
        if self._writer is None:
            client = connect(self.url, self.settings.redis_timeout_seconds)
            self._writer = OnlineWriter(client, self.planner.catalog.project)
        return self._writer

    async def check_ready(self) -> None:
        """Raises StoreUnavailableError where Redis does not read, does not write, or lost its data.

        Lost: it held the project's clocks since this service started, and holds none now.
        """
        await self.link.get(b"PING")
        project = self.planner.catalog.project
        held = await self.link.get(b"EXISTS", clock_key(project).encode())
        if self._held_data and not held:
            raise StoreUnavailableError(
                "Redis has lost the project's data; materialize, and let `headwater ingest` rebuild"
            )
        self._held_data = bool(held)
        await self.link.get(b"SET", f"headwater:{project}:ready".encode(), b"1", b"PX", b"1000")

    async def watch(self) -> None:
        """Take a new registry into use within a second or two of its writing."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.look_again()
            except (HeadwaterError, OSError) as error:
                logger.warning(_STAYS, error)

    async def look_again(self) -> None:
        """Take a registry that has changed into use. Raises HeadwaterError where it cannot be read.

        One at a time: who asks meanwhile waits for the catalogue that is being made.
        """
        async with self._looking:
            # In a thread: it reads files, or asks the registry's database.
            now = await asyncio.to_thread(catalog_cache.fingerprint, self.repo)
            if now != self.fingerprint:
                await self.reload()

    async def reload(self) -> None:
        """Take the definitions as they are now into use."""
        self.fingerprint, catalog = await asyncio.to_thread(self._load)
        self.planner = self.vectors.use(catalog)
        self.metrics.declare(catalog)
        logger.info("catalogue %s is in use", self.planner.catalog.version)

    async def raw_body(self, request: Request) -> bytes:
        """The body, read no further than it may be long. Raises BadRequestError (413)."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.settings.max_body_bytes:
                raise BadRequestError(
                    f"the body is larger than {self.settings.max_body_bytes} bytes", 413
                )
            parts.append(part)
        return b"".join(parts)

    async def body(self, request: Request) -> dict[str, Any]:
        return parse(await self.raw_body(request))

    async def push(self, body: dict[str, Any], wait: str = "online") -> dict[str, Any]:
        """Rows for every view of a push source; the receipt. Raises BadRequestError."""
        frames = await self._frames(body, self._pushed)
        return await self.pushes.push(frames, str(body.get("to", "online")), wait)

    async def write(self, body: dict[str, Any]) -> None:
        """Rows for one view, servable when this returns. Raises BadRequestError."""
        await self.pushes.push(await self._frames(body, self._written), "online", "online")

    async def _frames(
        self, body: dict[str, Any], read: Callable[[dict[str, Any]], list[Framed]]
    ) -> list[Framed]:
        """The rows of a body by the catalogue in use.

        Where that does not know what the body writes to, and the body wants no cached registry (as
        Feast's remote client does), by the catalogue of now.
        """
        try:
            return read(body)
        except BadRequestError as refusal:
            if body.get("allow_registry_cache") is not False:
                raise
            try:
                await self.look_again()
            except (HeadwaterError, OSError) as error:
                logger.warning(_STAYS, error)
                raise refusal from None
            return read(body)

    def _pushed(self, body: dict[str, Any]) -> list[Framed]:
        name = body.get("push_source_name")
        catalog, readers = self.planner.catalog, self.planner.readers
        if not isinstance(name, str) or name not in catalog.push_sources:
            message = f"Unable to find push source '{name}'."
            raise BadRequestError(message, 422, "PushSourceNotFoundException")
        return [
            (writes.frame(view, body.get("df")), readers[view.name])
            for view in catalog.views_of_push(name)
        ]

    def _written(self, body: dict[str, Any]) -> list[Framed]:
        name = body.get("feature_view_name")
        if isinstance(name, str) and name in self.planner.catalog.on_demand:
            raise BadRequestError(
                f"on-demand feature view {name!r} is computed when it is asked for; "
                "write to the views that it is made of"
            )
        reader = self.planner.readers.get(name) if isinstance(name, str) else None
        if reader is None:
            message = f"Feature view {name} does not exist"
            raise BadRequestError(message, 404, "FeatureViewNotFoundException")
        return [(writes.frame(reader.view, body.get("df")), reader)]

    def materialize(self, asked: writes.Materialize) -> None:
        """Load the batch sources of views; blocks."""
        from headwater.offline.materialize import materialize  # DuckDB, pandas: not at the start

        materialize(self.planner.catalog, self.writer, asked.names, asked.since_us, asked.until_us)
