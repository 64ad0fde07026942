"""The jobs behind the routes of training sets: each a process and a folder of its own.

DuckDB, Delta and pandas come with the first labels: whoever only looks does not wait for them.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError
from headwater.offline.checks import check, key_types, stored_views
from headwater.offline.spec import TIME_COLUMN, Spec, Status
from headwater.online.usage import Counts, User
from headwater.usage import with_views
from service import openapi
from service.access import ANONYMOUS, Key

#: A job that was queued by another worker may take so long until its process says its number.
_STARTING_SECONDS = 60
#: Jobs of one worker that run at once; more wait for a later request.
_RUNNING = 2
#: The file of a job's labels.
LABELS = "labels.parquet"
_UNDER_WAY = {"queued", "running"}
_ASKS = {"service", "features", "as_of", "full_feature_names", "label_windows", "sample"}


class TrainingSets:
    """The jobs of one service, each in a folder under `root`; they outlive the service."""

    def __init__(self, repo: Path) -> None:
        self.repo, self.root = repo, repo / "data" / "training-sets"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, catalog: Catalog, asked: Asked, owner: str) -> str:
        """Check, then begin, for the key of that name; returns the job's id. Raises
        BadRequestError for what cannot be."""
        spec, labels = asked.spec, asked.labels
        if labels is None:
            file = self._file(asked.file)
            labels = read_table(file.read_bytes(), file.suffix == ".csv", spec, catalog)
        labels = _checked(catalog, spec, labels)
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[name]
        if len(self._processes) >= _RUNNING:
            raise BadRequestError(f"{_RUNNING} training sets are being made; try again later", 429)
        name = uuid.uuid4().hex[:12]
        folder = self.root / name
        folder.mkdir(parents=True)
        pq.write_table(labels, folder / LABELS)
        spec = msgspec.structs.replace(
            spec, entities=str(folder / LABELS), out=str(folder / "set.parquet")
        )
        (folder / "owner").write_text(owner)
        (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        (folder / "status.json").write_bytes(orjson.dumps({"id": name, "state": "queued"}))
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-P", "-m", "headwater.offline.jobs", str(folder), str(self.repo)],
            stdin=subprocess.DEVNULL,
        )
        return name

    def again(self, name: str) -> Asked:
        """What a job was asked for, with all of its labels where it looks at a sample of them."""
        spec = msgspec.structs.replace(self.spec(name), sample=0)
        return Asked(spec, pq.read_table(self.folder(name) / LABELS))

    def _file(self, name: str) -> Path:
        """A file of the project's data folder, outside of the jobs'. Raises BadRequestError."""
        data = self.root.parent.resolve()
        file = (data / name).resolve()
        if not file.is_relative_to(data) or file.is_relative_to(self.root.resolve()):
            raise BadRequestError(f"labels lie in the project's data folder; {name!r} does not")
        if not file.is_file() or file.suffix not in {".parquet", ".csv"}:
            raise BadRequestError(f"there is no Parquet or CSV file {name!r} in the data folder")
        return file

    def files(self) -> list[str]:
        """Files that may hold labels: those that lie in the data folder itself."""
        found = (path for path in self.root.parent.glob("*") if path.is_file())
        return sorted(path.name for path in found if path.suffix in {".parquet", ".csv"})

    def all(self, key: Key | None) -> list[dict[str, Any]]:
        """The jobs that a key may see, the newest first: status, what was asked for, whose."""
        found = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            with contextlib.suppress(BadRequestError, OSError):  # another's, or deleted meanwhile
                self.check_access(folder.name, key)
                found.append(self.described(folder.name))
        return sorted(found, key=lambda job: -float(job["started"]))

    def described(self, name: str) -> dict[str, Any]:
        """A job's status, and what was asked for, by whom, when (Unix seconds)."""
        folder, spec = self.folder(name), self.spec(name)
        return {
            **Status(name).as_json(), **self.status(name),
            "service": spec.service, "features": list(spec.features), "as_of": spec.as_of,
            "sample": spec.sample, "owner": (folder / "owner").read_text(),
            "started": (folder / "spec.json").stat().st_mtime,
        }  # fmt: skip

    def use(self, catalog: Catalog, name: str) -> dict[User, Counts]:
        """The use of features that a job is; none where it is a look at a sample."""
        spec, folder = self.spec(name), self.folder(name)
        if spec.sample:
            return {}
        wanted = spec.request(catalog).features
        read = [f"{r.view}:{feature}" for r, names in stored_views(catalog, wanted)
                for feature in names]  # fmt: skip
        made = [f"{r.view}:{feature}" for r in wanted if r.view in catalog.on_demand
                for feature in r.features or catalog.on_demand[r.view].feature_names]  # fmt: skip
        owner = (folder / "owner").read_text() or ANONYMOUS
        counts = Counts(1, pq.read_metadata(folder / LABELS).num_rows, time.time())
        users = (User(f, spec.service, owner, "training") for f in with_views([*read, *made]))
        return dict.fromkeys(users, counts)

    def spec(self, name: str) -> Spec:
        """What a job is to make."""
        return msgspec.json.decode((self.folder(name) / "spec.json").read_bytes(), type=Spec)

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


def _checked(catalog: Catalog, spec: Spec, labels: pa.Table) -> pa.Table:
    """The labels with their times in UTC. Raises BadRequestError for what cannot be joined."""
    from headwater.offline.frames import with_time
    from headwater.offline.sources import normalised

    try:
        labels = with_time(normalised(labels), TIME_COLUMN)
        request = spec.request(catalog)
        more = [window.name for window in request.label_windows]
        check(catalog, request.features, labels, TIME_COLUMN, spec.full_feature_names, more)
    except KeyError as error:
        raise BadRequestError(f"the entities lack {error}") from error
    except HeadwaterError as error:
        raise BadRequestError(str(error)) from error
    return labels


class Asked(NamedTuple):
    """What a training set is asked for. `labels` are what came with the request; else `file` names
    some in the project's `data` folder."""

    spec: Spec
    labels: pa.Table | None
    file: str = ""


def asked_of(request: Request, data: bytes, catalog: Catalog) -> Asked:
    """What a request's body and query ask for. Raises BadRequestError for what makes no sense."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind in {openapi.PARQUET, openapi.CSV}:
        asked: dict[str, Any] = dict(request.query_params)
        for name in ("features", "label_windows"):
            asked[name] = request.query_params.getlist(name)
        asked["full_feature_names"] = asked.get("full_feature_names") == "true"
        asked["sample"] = _number(asked.get("sample", ""))
        spec = spec_of(asked)
        return Asked(spec, read_table(data, kind == openapi.CSV, spec, catalog))
    try:
        asked = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is no JSON: {error}", 400) from error
    if not isinstance(asked, dict):
        raise BadRequestError("the body must be a JSON object", 400)
    entities, file = asked.pop("entities", None), asked.pop("labels", None)
    if isinstance(file, str) and file and entities is None:
        return Asked(spec_of(asked), None, file)
    if not isinstance(entities, dict) or not entities:
        raise BadRequestError(
            '"entities" must be an object of columns: {"key": [...], ...}; or "labels" the name of '
            "a file in the project's data folder"
        )
    try:
        return Asked(spec_of(asked), pa.table(entities))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadRequestError(f"the entities are no columns of one length: {error}") from error


def read_table(data: bytes, as_csv: bool, spec: Spec, catalog: Catalog) -> pa.Table:
    """The labels of a Parquet or a CSV file. Raises BadRequestError where they cannot be read."""
    try:
        if as_csv:
            from headwater.offline.frames import read_csv

            return read_csv(data, key_types(catalog, spec.request(catalog).features))
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise BadRequestError(f"the labels are no Parquet file: {error}", 400) from error
    except HeadwaterError as error:
        raise BadRequestError(str(error)) from error


def spec_of(asked: dict[str, Any]) -> Spec:
    """Raises BadRequestError for what makes no sense."""
    unknown = sorted(asked.keys() - _ASKS)
    if unknown:
        raise BadRequestError(f"{unknown} cannot be asked for; known: {sorted(_ASKS)}")
    given = {key: value for key, value in asked.items() if value}
    try:
        return msgspec.convert({"entities": "", "out": "", **given}, Spec)
    except msgspec.ValidationError as error:
        raise BadRequestError(str(error)) from error


def _number(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        raise BadRequestError(f'"sample" is a number of labels, not {text!r}')
    return int(text or 0)
