"""Training sets over HTTP: `POST` starts a job in a process of its own, `GET` follows it."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError
from headwater.offline.checks import check
from headwater.offline.frames import TIME_COLUMN, with_time
from headwater.offline.jobs import Spec
from headwater.offline.sources import normalised
from service import openapi

#: Jobs that run at once; more wait for a later request.
_RUNNING = 2
_UNDER_WAY = {"queued", "running"}
_ASKS = {"service", "features", "as_of", "full_feature_names", "label_windows", "entities"}


class TrainingSets:
    """The jobs of one service, each in a folder under `root`; they outlive the service."""

    def __init__(self, repo: Path) -> None:
        self.repo, self.root = repo, repo / "data" / "training-sets"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, catalog: Catalog, spec: Spec, labels: pa.Table) -> str:
        """Check, then begin; returns the job's id. Raises BadRequestError for what cannot be."""
        try:
            labels = with_time(normalised(labels), TIME_COLUMN)
            request = spec.request(catalog)
            more = [window.name for window in request.label_windows]
            check(catalog, request.features, labels, TIME_COLUMN, spec.full_feature_names, more)
        except KeyError as error:
            raise BadRequestError(f"the entities lack {error}") from error
        except HeadwaterError as error:
            raise BadRequestError(str(error)) from error
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[name]
        if len(self._processes) >= _RUNNING:
            raise BadRequestError(f"{_RUNNING} training sets are being made; try again later", 429)
        name = uuid.uuid4().hex[:12]
        folder = self.root / name
        folder.mkdir(parents=True)
        pq.write_table(labels, folder / "labels.parquet")
        spec = msgspec.structs.replace(
            spec, entities=str(folder / "labels.parquet"), out=str(folder / "set.parquet")
        )
        (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        (folder / "status.json").write_bytes(orjson.dumps({"id": name, "state": "queued"}))
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-P", "-m", "headwater.offline.jobs", str(folder), str(self.repo)],
            stdin=subprocess.DEVNULL,
        )
        return name

    def folder(self, name: str) -> Path:
        """Raises BadRequestError (404) for a job that does not exist."""
        folder = self.root / name
        if not name.isalnum() or not folder.is_dir():
            raise BadRequestError(f"there is no training set {name!r}", 404)
        return folder

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = orjson.loads((self.folder(name) / "status.json").read_bytes())
        if status["state"] in _UNDER_WAY and not self._lives(name, status.get("pid", 0)):
            # It may have ended between the two looks.
            status = orjson.loads((self.folder(name) / "status.json").read_bytes())
            if status["state"] in _UNDER_WAY:
                status |= {"state": "failed", "error": "its process has ended; start it again"}
        status.pop("pid", None)
        return status

    def _lives(self, name: str, pid: int) -> bool:
        if name in self._processes:
            return self._processes[name].poll() is None
        # A service before this one started it.
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return pid > 0

    def cancel(self, name: str) -> None:
        """Stop a job that runs; remove one that has ended, with what it made."""
        if self.status(name)["state"] in _UNDER_WAY:
            (self.folder(name) / "cancel").touch()
        else:
            shutil.rmtree(self.folder(name))


def add(app: FastAPI, repo: Path, catalog: Callable[[], Catalog], max_body_bytes: int) -> None:
    """Add the routes; `catalog` gives the catalogue that is in use."""
    jobs = TrainingSets(repo)

    @app.post(
        "/api/v1/training-sets",
        openapi_extra=openapi.TRAINING_SET,
        tags=["training"],
        status_code=202,
    )
    async def start_training_set(request: Request) -> Response:
        """Start a training set; entities as columns, or as a Parquet body with the rest in the
        query. Answers with the job's id at once."""
        data = await _body(request, max_body_bytes)
        spec, labels = await asyncio.to_thread(_asked, request, data)
        name = await asyncio.to_thread(jobs.start, catalog(), spec, labels)
        place = f"/api/v1/training-sets/{name}"
        body = orjson.dumps({"id": name, "state": "queued", "status": place})
        headers = {"Location": place}
        return Response(body, 202, headers, "application/json")

    @app.get("/api/v1/training-sets/{name}", tags=["training"])
    async def training_set_status(name: str) -> Response:
        """State (queued, running, done, failed, cancelled), rows done and in all, estimate."""
        return Response(orjson.dumps(jobs.status(name)), media_type="application/json")

    @app.get("/api/v1/training-sets/{name}/result", tags=["training"])
    async def training_set_result(name: str) -> Response:
        """The training set as Parquet; 409 while it is being made."""
        _done(jobs, name)
        return FileResponse(jobs.folder(name) / "set.parquet", media_type=openapi.PARQUET)

    @app.get("/api/v1/training-sets/{name}/manifest", tags=["training"])
    async def training_set_manifest(name: str) -> Response:
        """What it was made of: versions, counts, profile, hashes."""
        _done(jobs, name)
        path = jobs.folder(name) / "set.parquet.manifest.json"
        return Response(path.read_bytes(), media_type="application/json")

    @app.delete("/api/v1/training-sets/{name}", tags=["training"])
    async def cancel_training_set(name: str) -> Response:
        """Cancel a job that runs; delete one that has ended."""
        await asyncio.to_thread(jobs.cancel, name)
        return Response(status_code=204)


def _done(jobs: TrainingSets, name: str) -> None:
    state = jobs.status(name)["state"]
    if state != "done":
        raise BadRequestError(f"training set {name!r} is {state}, not done", 409)


async def _body(request: Request, limit: int) -> bytes:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise BadRequestError(f"the body is larger than {limit} bytes", 413)
    return data


def _asked(request: Request, data: bytes) -> tuple[Spec, pa.Table]:
    """The spec and the labels of a request. Raises BadRequestError for what makes no sense."""
    if request.headers.get("content-type", "").startswith(openapi.PARQUET):
        asked: dict[str, Any] = dict(request.query_params)
        for name in ("features", "label_windows"):
            asked[name] = request.query_params.getlist(name)
        asked["full_feature_names"] = asked.get("full_feature_names") == "true"
        try:
            return _spec(asked), pq.read_table(io.BytesIO(data))
        except pa.ArrowInvalid as error:
            raise BadRequestError(f"the body is no Parquet file: {error}", 400) from error
    try:
        asked = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is no JSON: {error}", 400) from error
    entities = asked.get("entities") if isinstance(asked, dict) else None
    if not isinstance(entities, dict) or not entities:
        raise BadRequestError('"entities" must be an object of columns: {"key": [...], ...}')
    try:
        return _spec(asked), pa.table(entities)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadRequestError(f"the entities are no columns of one length: {error}") from error


def _spec(asked: dict[str, Any]) -> Spec:
    unknown = sorted(asked.keys() - _ASKS)
    if unknown:
        raise BadRequestError(f"{unknown} cannot be asked for; known: {sorted(_ASKS)}")
    given = {key: value for key, value in asked.items() if key != "entities" and value}
    try:
        return msgspec.convert({"entities": "", "out": "", **given}, Spec)
    except msgspec.ValidationError as error:
        raise BadRequestError(str(error)) from error
