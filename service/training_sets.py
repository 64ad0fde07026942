"""Training sets over HTTP: `POST` starts a job in a process of its own, `GET` follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from headwater.catalog import Catalog
from headwater.errors import BadRequestError
from headwater.online.usage import Counts, User
from service import openapi
from service.access import TRAINING_SETS, Access
from service.training_jobs import TrainingSets, asked_of


def add(
    app: FastAPI, jobs: TrainingSets, catalog: Callable[[], Catalog],
    max_body_bytes: int, access: Access,
    note: Callable[[Mapping[User, Counts]], None],
) -> None:  # fmt: skip
    """Add the routes; `catalog` gives the catalogue in use, `note` is told who uses what."""

    def seen(request: Request, name: str) -> TrainingSets:
        """The jobs, where the request's key may see this one. Raises BadRequestError (404)."""
        jobs.check_access(name, access.key_of(request.scope["headers"]))
        return jobs

    @app.post(
        TRAINING_SETS,
        openapi_extra=openapi.TRAINING_SET,
        tags=["training"],
        status_code=202,
    )
    async def start_training_set(request: Request) -> Response:
        """Start a training set; entities as columns, or as a Parquet body with the rest in the
        query. Answers with the job's id at once."""
        data = await _body(request, max_body_bytes)
        key = access.key_of(request.scope["headers"])
        owner = "" if key is None else key.name

        def start() -> str:
            asked = asked_of(request, data, catalog())
            name = jobs.start(catalog(), asked, owner)
            note(jobs.use(catalog(), name))
            return name

        name = await asyncio.to_thread(start)
        place = f"{TRAINING_SETS}/{name}"
        body = orjson.dumps({"id": name, "state": "queued", "status": place})
        headers = {"Location": place}
        return Response(body, 202, headers, "application/json")

    @app.get(TRAINING_SETS, tags=["training"])
    async def training_sets(request: Request) -> Response:
        """The key's training sets, the newest first; an admin's key sees all."""
        key = access.key_of(request.scope["headers"])
        found = await asyncio.to_thread(lambda: jobs.all(key))
        return Response(orjson.dumps(found), media_type="application/json")

    @app.get(TRAINING_SETS + "/{name}", tags=["training"])
    async def training_set_status(name: str, request: Request) -> Response:
        """State (queued, running, done, failed, cancelled), rows done and in all, estimate."""
        status = await asyncio.to_thread(lambda: seen(request, name).status(name))
        return Response(orjson.dumps(status), media_type="application/json")

    @app.get(TRAINING_SETS + "/{name}/result", tags=["training"])
    async def training_set_result(name: str, request: Request) -> Response:
        """The training set as Parquet; 409 while it is being made."""
        path = await asyncio.to_thread(lambda: done_file(seen(request, name), name))
        return FileResponse(path, media_type=openapi.PARQUET)

    @app.get(TRAINING_SETS + "/{name}/manifest", tags=["training"])
    async def training_set_manifest(name: str, request: Request) -> Response:
        """What it was made of: versions, counts, profile, hashes."""
        path = await asyncio.to_thread(lambda: done_file(seen(request, name), name))
        manifest = path.with_name(f"{path.name}.manifest.json")
        return Response(manifest.read_bytes(), media_type="application/json")

    @app.delete(TRAINING_SETS + "/{name}", tags=["training"], status_code=204)
    async def cancel_training_set(name: str, request: Request) -> Response:
        """Cancel a job that runs; delete one that has ended."""
        await asyncio.to_thread(lambda: seen(request, name).cancel(name))
        return Response(status_code=204)


def done_file(jobs: TrainingSets, name: str) -> Path:
    """The file of a set that is done. Raises BadRequestError (404, 409) for another."""
    state = jobs.status(name)["state"]
    if state != "done":
        raise BadRequestError(f"training set {name!r} is {state}, not done", 409)
    return jobs.folder(name) / "set.parquet"


async def _body(request: Request, limit: int) -> bytes:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise BadRequestError(f"the body is larger than {limit} bytes", 413)
    return data
