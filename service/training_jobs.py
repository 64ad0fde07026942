"""The jobs behind the routes of training sets: each a process and a folder of its own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError
from headwater.offline.checks import check
from headwater.offline.frames import TIME_COLUMN, with_time
from headwater.offline.jobs import Spec
from headwater.offline.sources import normalised
from service import openapi
from service.access import Key

#: A job that was queued by another worker may take so long until its process says its number.
_STARTING_SECONDS = 60
#: Jobs of one worker that run at once; more wait for a later request.
_RUNNING = 2
_UNDER_WAY = {"queued", "running"}
_ASKS = {"service", "features", "as_of", "full_feature_names", "label_windows", "entities"}


class TrainingSets:
    """The jobs of one service, each in a folder under `root`; they outlive the service."""

    def __init__(self, repo: Path) -> None:
        self.repo, self.root = repo, repo / "data" / "training-sets"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, catalog: Catalog, spec: Spec, labels: pa.Table, owner: str) -> str:
        """Check, then begin, for the key of that name; returns the job's id. Raises
        BadRequestError for what cannot be."""
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
        (folder / "owner").write_text(owner)
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

    def check_access(self, name: str, key: Key | None) -> None:
        """A key sees its own jobs, one with "admin" all. Raises BadRequestError (404, so that
        nobody learns of another's) for a job that it may not see."""
        if key is None or "admin" in key.scopes:
            return
        owner = self.folder(name) / "owner"
        if not owner.exists() or owner.read_text() != key.name:
            raise BadRequestError(f"there is no training set {name!r}", 404)

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
        # A service before this one started it, or another worker, who may do so just now.
        if not pid:
            return time.time() - self.folder(name).stat().st_mtime < _STARTING_SECONDS
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def cancel(self, name: str) -> None:
        """Stop a job that runs; remove one that has ended, with what it made."""
        if self.status(name)["state"] in _UNDER_WAY:
            (self.folder(name) / "cancel").touch()
        else:
            shutil.rmtree(self.folder(name))


def asked_of(request: Request, data: bytes) -> tuple[Spec, pa.Table]:
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
