"""The FastAPI application: Feast's feature-server routes, readiness, freshness and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from headwater import __version__, catalog_cache
from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.offline.materialize import materialize
from headwater.online.cluster_link import ClusterLink, open_link
from headwater.online.columns import warm
from headwater.online.connect import connect
from headwater.online.link import Link
from headwater.online.writer import OnlineWriter, clock_key
from headwater.quality.freshness import freshness as freshness_of
from headwater.settings import Settings
from service import protocol, training_sets, writes
from service.access import Access, check_exposure
from service.feature_log import FeatureLogs
from service.gate import Gate
from service.metrics import Metrics
from service.pushes import Pushes
from service.replies import Reply, failed, refused
from service.requests import Planner
from service.vectors import Vectors, parse

logger = logging.getLogger("headwater.service")
#: At its end the service waits so long for queued pushes.
DRAIN_SECONDS = 5.0


class Service:
    """What requests share: the catalogue in use, the stores, the metrics."""

    def __init__(self, repo: Path, settings: Settings) -> None:
        self.repo, self.settings = repo, settings
        self.metrics = Metrics()
        self.fingerprint, catalog = self._load()
        self.url = settings.redis_url or catalog.redis_url
        self.logs = FeatureLogs(settings, self.metrics, self.url)
        self.vectors = Vectors(settings, self.metrics, self.logs)
        self.planner = self.vectors.use(catalog)
        self.metrics.declare(catalog)
        self.access = Access.parse(settings.api_keys)
        check_exposure(settings, self.access)
        self._writer: OnlineWriter | None = None
        self.pushes = Pushes(lambda: self.writer, settings.max_queued_pushes)
        self._held_data = False

    planner: Planner

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
                if catalog_cache.fingerprint(self.repo) != self.fingerprint:
                    self.fingerprint, catalog = await asyncio.to_thread(self._load)
                    self.planner = self.vectors.use(catalog)
                    self.metrics.declare(catalog)
                    logger.info("catalogue %s is in use", self.planner.catalog.version)
            except (HeadwaterError, OSError) as error:
                logger.warning("the catalogue stays as it was: %s", error)

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


def create_app(repo: Path, settings: Settings) -> FastAPI:
    """The application for one Feast repository. Raises HeadwaterError without a registry."""
    service = Service(repo, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        tasks = [
            asyncio.create_task(service.watch()),
            asyncio.create_task(service.pushes.run()),
            # Compiled loops are loaded (the first time ever: compiled) while requests already come.
            asyncio.create_task(asyncio.to_thread(warm)),
        ]
        yield
        await service.pushes.drain(DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        await service.link.close()
        await asyncio.to_thread(service.logs.close)

    app = FastAPI(
        title="Headwater",
        version=__version__,
        description="Feature vectors from the online store, and how fresh and how null they are.",
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(
        Gate,
        access=service.access,
        metrics=service.metrics,
        limit=settings.max_concurrent_requests,
    )
    _add_errors(app, service)
    _add_features(app, service)
    _add_writes(app, service)
    _add_health(app, service)
    training_sets.add(app, repo, lambda: service.planner.catalog, settings.max_body_bytes)
    return app


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers()}
    return Response(reply.body, reply.status, headers, reply.media_type)


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(BadRequestError)
    async def bad_request(_: Request, error: BadRequestError) -> Response:
        return _response(refused(error))

    @app.exception_handler(StoreUnavailableError)
    async def unavailable(_: Request, error: StoreUnavailableError) -> Response:
        service.metrics.store_errors.labels("redis", "request").inc()
        return _response(failed(str(error), 503, 1))

    @app.exception_handler(HeadwaterError)
    async def mistaken(_: Request, error: HeadwaterError) -> Response:
        return _response(failed(str(error), 422))


_EXAMPLE = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["entities"],
                    "properties": {
                        "entities": {
                            "type": "object",
                            "additionalProperties": {"type": "array", "items": {}},
                        },
                        "features": {"type": "array", "items": {"type": "string"}},
                        "feature_service": {"type": "string"},
                        "full_feature_names": {"type": "boolean"},
                        "provenance": {"type": "boolean"},
                    },
                },
                "example": {"feature_service": "airport_board", "entities": {"origin": ["JFK"]}},
            }
        }
    }
}
_FRAME = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "push_source_name": {"type": "string"},
                        "feature_view_name": {"type": "string"},
                        "df": {"type": "object", "additionalProperties": {"type": "array"}},
                    },
                }
            }
        }
    }
}


def _add_features(app: FastAPI, service: Service) -> None:
    @app.post("/get-online-features", openapi_extra=_EXAMPLE, tags=["features"])
    async def get_online_features(request: Request) -> Response:
        """Feature vectors of some entities, columnar, each value with its status and event time.

        `Accept: application/vnd.apache.arrow.stream` asks for an Arrow stream in place of JSON;
        `X-Request-Deadline-Ms` says how long the caller waits.
        """
        wishes = protocol.wishes_of(request.headers.raw, asyncio.get_running_loop())
        return _response(await service.vectors.answer(await service.raw_body(request), wishes))


def _add_writes(app: FastAPI, service: Service) -> None:
    @app.post("/push", openapi_extra=_FRAME, tags=["writes"])
    async def push(request: Request, wait: str = "online") -> Response:
        """Write rows to every view that a push source feeds, online, offline or both.

        The answer is a receipt: 200 when the rows are servable, or with `wait=none` at once, 202.
        """
        body = await service.body(request)
        name = body.get("push_source_name")
        catalog = service.planner.catalog
        if not isinstance(name, str) or name not in catalog.push_sources:
            message = f"Unable to find push source '{name}'."
            raise BadRequestError(message, 422, "PushSourceNotFoundException")
        readers = service.planner.readers
        frames = [
            (writes.frame(view, body.get("df")), readers[view.name])
            for view in catalog.views_of_push(name)
        ]
        receipt = await service.pushes.push(frames, str(body.get("to", "online")), wait)
        return _json(receipt, 202 if wait == "none" else 200)

    @app.get("/api/v1/pushes/{receipt}", tags=["writes"])
    async def push_state(receipt: str) -> Response:
        """What became of a push to this process: queued, written or failed."""
        state = service.pushes.state(receipt)
        if state is None:
            raise BadRequestError(f"there is no receipt {receipt!r} here (any more)", 404)
        return _json(state)

    @app.post("/write-to-online-store", openapi_extra=_FRAME, tags=["writes"])
    async def write_to_online_store(request: Request) -> Response:
        """Write rows to one view; the newest row of an entity wins."""
        body = await service.body(request)
        name = body.get("feature_view_name")
        reader = service.planner.readers.get(name) if isinstance(name, str) else None
        if reader is None:
            message = f"there is no feature view {name!r}"
            raise BadRequestError(message, 404, "FeatureViewNotFoundException")
        frame = writes.frame(reader.view, body.get("df"))
        await service.pushes.push([(frame, reader)], "online", "online")
        return _json(None)

    async def load(body: dict[str, Any]) -> Response:
        names = body.get("feature_views")
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise BadRequestError('"feature_views" must be a list of names')
        await asyncio.to_thread(materialize, service.planner.catalog, service.writer, names)
        return _json(None)

    @app.post("/materialize", tags=["writes"])
    async def materialize_all(request: Request) -> Response:
        """Load the latest row of each entity from the batch sources."""
        return await load(await service.body(request))

    @app.post("/materialize-incremental", tags=["writes"])
    async def materialize_incremental(request: Request) -> Response:
        """As /materialize: rows that Redis already holds, or newer ones, stay."""
        return await load(await service.body(request))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> Response:
        """The process is alive."""
        return Response(status_code=200)

    @app.get("/ready", tags=["operation"])
    async def ready() -> Response:
        """Redis reads and writes and has not lost its data; 503 meanwhile."""
        await service.check_ready()
        return _json({"ready": True, "catalog": service.planner.catalog.version})

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Prometheus text."""
        with contextlib.suppress(StoreUnavailableError):
            service.metrics.show_clocks(await asyncio.to_thread(lambda: service.writer.clocks()))
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/v1/freshness", tags=["operation"])
    async def freshness() -> Response:
        """Per view: the newest event time of each stage, its age, and the objective."""
        clocks = await asyncio.to_thread(lambda: service.writer.clocks())
        now = time.time()
        views = service.planner.catalog.views.values()
        return _json([freshness_of(view, clocks, now) for view in views])
