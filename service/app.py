"""The FastAPI application: Feast's feature-server routes, readiness, training sets, pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from headwater import __version__
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.offline.predictions import path_of
from headwater.quality.budgets import budgets
from headwater.settings import Settings
from service import (
    drift,
    feature_views,
    ingest_report,
    monitoring,
    openapi,
    predictions,
    protocol,
    training_sets,
    ui,
    usage,
    writes,
)
from service.crew import Place
from service.gate import Gate
from service.observed import Observed
from service.predictions import PredictionLog
from service.replies import Reply, failed, refused
from service.running import Service
from service.training_jobs import TrainingSets
from service.ui.history import History

#: At its end the service waits so long for queued pushes.
DRAIN_SECONDS = 5.0


def create_app(repo: Path, settings: Settings, place: Place | None = None) -> FastAPI:
    """The application for one Feast repository. Raises HeadwaterError without a registry."""
    service = Service(repo, settings, place)
    observed = Observed(lambda: service.writer, service.vectors.clocks, settings.drift_seconds)
    observed.promise(service.planner.catalog)
    service.metrics.registry.register(observed)
    history = History(service.metrics, observed)
    predicted = PredictionLog(settings, service.metrics, lambda: path_of(service.planner.catalog))
    every = settings.drift_seconds if place is None or place.number == 0 else 0.0
    use = usage.UseOfFeatures(
        service.metrics.uses, lambda: service.planner.catalog, lambda: service.writer
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        if any(budgets(view) for view in service.planner.catalog.views.values()):
            # Nothing is served before it is known what is past its objective.
            await asyncio.to_thread(observed.look, service.planner.catalog)
        tasks = [
            asyncio.create_task(service.watch()),
            asyncio.create_task(service.pushes.run()),
            asyncio.create_task(observed.keep_looking(lambda: service.planner.catalog)),
            asyncio.create_task(history.keep_taking(lambda: service.planner.catalog)),
            asyncio.create_task(drift.keep_comparing(repo, every, lambda: service.writer)),
            asyncio.create_task(use.keep_telling()),
        ]
        # It listens only after this: the first time ever on a machine the loops are compiled here,
        # some 15 s for which a request would otherwise stand still, and all others with it.
        await asyncio.to_thread(service.vectors.warm)
        rpc = None
        try:
            rpc = _rpc(service)
            if rpc:
                await rpc.start()
        except HeadwaterError as error:
            # Raised here, it would be shown with its stack; the server looks and stops.
            service.refused, rpc = error, None
        yield
        if rpc:
            await rpc.stop()
        await service.pushes.drain(DRAIN_SECONDS)
        for task in tasks:
            task.cancel()
        await service.link.close()
        await asyncio.to_thread(use.tell)
        await asyncio.to_thread(service.logs.close)
        await asyncio.to_thread(predicted.close)

    app = FastAPI(
        title="Headwater",
        version=__version__,
        description="Feature vectors from the online store, and how fresh and how null they are.",
        lifespan=lifespan,
        responses=openapi.RESPONSES,
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
    monitoring.add(app, service.metrics, lambda: service.planner.catalog, lambda: service.writer)
    drift.add(app, lambda: service.writer)
    predictions.add(app, predicted, lambda: service.planner.catalog, service.raw_body)
    feature_views.add(app, repo, lambda: service.planner.catalog, service.reload, service.raw_body)
    jobs = TrainingSets(repo)
    training_sets.add(
        app, jobs, lambda: service.planner.catalog, settings.max_body_bytes, service.access,
        use.note,
    )  # fmt: skip
    usage.add(app, use)
    ingest = ingest_report.IngestReport(
        lambda: service.planner.catalog, lambda: service.writer, settings.alertmanager_url
    )
    ingest_report.add(app, ingest)
    ui.add(app, service, observed, history, use, ingest, jobs)
    return app


def _rpc(service: Service) -> Any:
    """The gRPC server where the settings ask for one; importing gRPC costs time and memory."""
    if not service.settings.grpc_port:
        return None
    try:
        from service.rpc.server import RpcServer
    except ModuleNotFoundError as error:
        raise HeadwaterError(
            f"HEADWATER_GRPC_PORT needs {error.name}: pip install 'headwater[grpc]'"
        ) from error
    return RpcServer(service, shared_port=service.settings.workers > 1)


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
        service.metrics.store_errors.labels("redis", "request", "unavailable").inc()
        return _response(failed(str(error), 503, 1))

    @app.exception_handler(HeadwaterError)
    async def mistaken(_: Request, error: HeadwaterError) -> Response:
        return _response(failed(str(error), 422))


def _add_features(app: FastAPI, service: Service) -> None:
    @app.post("/get-online-features", openapi_extra=openapi.VECTORS, tags=["features"])
    async def get_online_features(request: Request) -> Response:
        """Feature vectors of some entities, columnar, each value with its status and event time.

        `Accept: application/vnd.apache.arrow.stream` asks for an Arrow stream in place of JSON;
        `X-Request-Deadline-Ms` says how long the caller waits.
        """
        loop, caller = asyncio.get_running_loop(), service.access.caller(request.headers.raw)
        wishes = protocol.wishes_of(request.headers.raw, loop, caller)
        return _response(await service.vectors.answer(await service.raw_body(request), wishes))


def _add_writes(app: FastAPI, service: Service) -> None:
    @app.post("/push", openapi_extra=openapi.PUSH, tags=["writes"])
    async def push(request: Request, wait: str = "online") -> Response:
        """Write rows to every view that a push source feeds, online, offline or both.

        The answer is a receipt: 200 when the rows are servable, or with `wait=none` at once, 202.
        """
        receipt = await service.push(await service.body(request), wait)
        return _json(receipt, 202 if wait == "none" else 200)

    @app.get("/api/v1/pushes/{receipt}", tags=["writes"])
    async def push_state(receipt: str) -> Response:
        """What became of a push to this process: queued, written or failed."""
        state = service.pushes.state(receipt)
        if state is None:
            raise BadRequestError(f"there is no receipt {receipt!r} here (any more)", 404)
        return _json(state)

    @app.post("/write-to-online-store", openapi_extra=openapi.ROWS, tags=["writes"])
    async def write_to_online_store(request: Request) -> Response:
        """Write rows to one view; the newest row of an entity wins."""
        await service.write(await service.body(request))
        return _json(None)

    async def load(request: Request) -> Response:
        asked = writes.materialize_of(await service.body(request))
        await asyncio.to_thread(service.materialize, asked)
        return _json(None)

    @app.post("/materialize", openapi_extra=openapi.MATERIALIZE, tags=["writes"])
    async def materialize_all(request: Request) -> Response:
        """Load the latest row of each entity, within times where they are given."""
        return await load(request)

    @app.post("/materialize-incremental", openapi_extra=openapi.MATERIALIZE, tags=["writes"])
    async def materialize_incremental(request: Request) -> Response:
        """As /materialize: rows that Redis already holds, or newer ones, stay."""
        return await load(request)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"], response_class=Response)
    async def health() -> Response:
        """The process is alive."""
        return Response(status_code=200)

    @app.get("/ready", tags=["operation"])
    async def ready() -> Response:
        """Redis reads and writes and has not lost its data; 503 meanwhile."""
        await service.check_ready()
        return _json({"ready": True, "catalog": service.planner.catalog.version})
