"""The FastAPI application: Feast's feature-server routes, readiness, freshness and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import redis.asyncio
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headwater import __version__, catalog_cache
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.offline.materialize import materialize
from headwater.online.writer import OnlineWriter, connect
from headwater.quality.freshness import freshness as freshness_of
from headwater.settings import Settings
from service import training_sets, vectors, wire, writes
from service.metrics import Metrics
from service.requests import Planner, check_entities

logger = logging.getLogger("headwater.service")
#: What Feast's clients read of an error: its own class, named in JSON inside a JSON string.
_FEAST_ERRORS = {404: ("feast.errors", "FeatureViewNotFoundException"),
                 422: ("feast.errors", "PushSourceNotFoundException")}  # fmt: skip


class Service:
    """What requests share: the catalogue in use, the stores, the metrics."""

    def __init__(self, repo: Path, settings: Settings) -> None:
        self.repo, self.settings = repo, settings
        self.metrics = Metrics()
        self.reload()
        self.url = settings.redis_url or self.planner.catalog.redis_url
        self.client = redis.asyncio.Redis.from_url(
            self.url,
            socket_timeout=settings.redis_timeout_seconds,
            socket_connect_timeout=settings.redis_timeout_seconds,
        )
        self._writer: OnlineWriter | None = None

    def reload(self) -> None:
        self.fingerprint = catalog_cache.fingerprint(self.repo)
        self.planner = Planner(catalog_cache.load(self.repo))
        self.metrics.declare(self.planner.catalog)

    @property
    def writer(self) -> OnlineWriter:
        if self._writer is None:
            client = connect(self.url, self.settings.redis_timeout_seconds)
            self._writer = OnlineWriter(client, self.planner.catalog.project)
        return self._writer

    async def watch(self) -> None:
        """Take a new registry into use within a second or two of its writing."""
        while True:
            await asyncio.sleep(1.0)
            try:
                if catalog_cache.fingerprint(self.repo) != self.fingerprint:
                    await asyncio.to_thread(self.reload)
                    logger.info("catalogue %s is in use", self.planner.catalog.version)
            except (HeadwaterError, OSError) as error:
                logger.warning("the catalogue stays as it was: %s", error)

    async def body(self, request: Request) -> dict[str, Any]:
        if int(request.headers.get("content-length") or 0) > self.settings.max_body_bytes:
            raise BadRequestError(
                f"the body is larger than {self.settings.max_body_bytes} bytes", 413
            )
        try:
            data = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            raise BadRequestError(f"the body is no JSON: {error}", 400) from error
        if not isinstance(data, dict):
            raise BadRequestError("the body must be a JSON object", 400)
        return data


def create_app(repo: Path, settings: Settings) -> FastAPI:
    """The application for one Feast repository. Raises HeadwaterError without a registry."""
    service = Service(repo, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.watch())
        yield
        task.cancel()
        await service.client.aclose()

    app = FastAPI(
        title="Headwater",
        version=__version__,
        description="Feature vectors from the online store, and how fresh and how null they are.",
        lifespan=lifespan,
    )
    app.state.service = service
    _add_errors(app, service)
    _add_features(app, service)
    _add_writes(app, service)
    _add_health(app, service)
    training_sets.add(app, repo, lambda: service.planner.catalog, settings.max_body_bytes)
    return app


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(BadRequestError)
    async def bad_request(_: Request, error: BadRequestError) -> Response:
        return _json({"detail": str(error)}, error.status)

    @app.exception_handler(StoreUnavailableError)
    async def unavailable(_: Request, error: StoreUnavailableError) -> Response:
        service.metrics.store_errors.labels("redis", "request").inc()
        response = _json({"detail": str(error)}, 503)
        response.headers["Retry-After"] = "1"
        return response

    @app.middleware("http")
    async def measure(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "unknown")
        status = f"{response.status_code // 100}xx"
        service.metrics.seconds.labels(route, request.method, status).observe(
            time.perf_counter() - start
        )
        return response


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
        """Feature vectors of some entities, columnar, each value with its status and event time."""
        body = await service.body(request)
        features, name = body.get("features"), body.get("feature_service")
        if features is not None and not (
            isinstance(features, list) and all(isinstance(f, str) for f in features)
        ):
            raise BadRequestError('"features" must be a list of "view:feature" texts')
        if name is not None and not isinstance(name, str):
            raise BadRequestError('"feature_service" must be a name')
        planner = service.planner
        plan = planner.plan(name, features, bool(body.get("full_feature_names")))
        entities: Any = body.get("entities")
        n = check_entities(plan, entities, service.settings.max_entities)
        found = await vectors.fetch(service.client, plan, entities, n)
        service.metrics.served(found.reads, n)
        return _json(wire.answer(planner.catalog, plan, entities, found))


def _add_writes(app: FastAPI, service: Service) -> None:
    async def write(view: str, frame: Any) -> None:
        reader = service.planner.readers.get(view)
        if reader is None:
            raise BadRequestError(f"there is no feature view {view!r}", 404)
        keys, rows, newest = writes.pack_frame(reader, frame)
        await asyncio.to_thread(service.writer.write_rows, keys, rows)
        if rows:
            await asyncio.to_thread(service.writer.raise_clocks, {("online", view): newest})

    @app.post("/push", openapi_extra=_FRAME, tags=["writes"])
    async def push(request: Request) -> Response:
        """Write rows to every view that a push source feeds."""
        body = await service.body(request)
        name = body.get("push_source_name")
        source = service.planner.catalog.push_sources.get(str(name))
        if source is None:
            return _feast_error(422, f"Unable to find push source '{name}'.")
        to = body.get("to", "online")
        if to != "online":
            raise BadRequestError(f'pushes go to "online" so far, not to {to!r}')
        for view in service.planner.catalog.views_of_push(source.name):
            await write(view.name, body.get("df"))
        return Response(status_code=200)

    @app.post("/write-to-online-store", openapi_extra=_FRAME, tags=["writes"])
    async def write_to_online_store(request: Request) -> Response:
        """Write rows to one view; the newest row of an entity wins."""
        body = await service.body(request)
        await write(str(body.get("feature_view_name")), body.get("df"))
        return _json(None)

    async def load(body: dict[str, Any]) -> Response:
        names = body.get("feature_views")
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


def _feast_error(status: int, message: str) -> Response:
    module, name = _FEAST_ERRORS[status]
    detail = {"module": module, "class": name, "message": message}
    return _json(orjson.dumps(detail).decode(), status)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> Response:
        """The process is alive."""
        return Response(status_code=200)

    @app.get("/ready", tags=["operation"])
    async def ready() -> Response:
        """The stores answer; 503 meanwhile."""
        try:
            await service.client.ping()
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailableError(
                f"Redis does not answer ({type(error).__name__})"
            ) from error
        return _json({"ready": True, "catalog": service.planner.catalog.version})

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Prometheus text."""
        with contextlib.suppress(StoreUnavailableError):
            service.metrics.show_clocks(await asyncio.to_thread(lambda: service.writer.clocks()))
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/v1/freshness", tags=["operation"])
    async def freshness() -> Response:
        """Per view: the newest event time of each stage, its age, and the objective."""
        clocks = await asyncio.to_thread(lambda: service.writer.clocks())
        now = time.time()
        views = service.planner.catalog.views.values()
        return _json([freshness_of(view, clocks, now) for view in views])
