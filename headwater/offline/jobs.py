"""A training set as a job: it has an id and progress, can be stopped and resumed, and leaves a
Parquet file (or a folder of them) with a manifest that can make the same bytes again.

Columns wait on disk, mapped into memory, until all are there; a job that was stopped goes on with
the columns that it has. Run as a program it works on the job in a folder, for the service.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.gather import column_threads
from headwater.offline.checks import stored_views
from headwater.offline.frames import read_labels, spaced
from headwater.offline.label_values import label_columns
from headwater.offline.leaks import null_warnings
from headwater.offline.manifest import Manifest, make_manifest, sources, stamp, versions_of
from headwater.offline.point_in_time import Past
from headwater.offline.scan import open_view
from headwater.offline.spec import TIME_COLUMN, Spec, Status
from headwater.offline.training_set import (
    assemble,
    labels_of,
    prepare,
    view_columns,
)  # fmt: skip
from headwater.quality.profiles import ColumnProfile

#: Rows that are put together and written at once.
_CHUNK = 1 << 18


class CancelledError(HeadwaterError):
    """The job was stopped; started again, it goes on with what it has."""


Listener = Callable[[Status], None]


class Job:
    """One training set; `listen` is told of progress and raises CancelledError to stop it."""

    def __init__(
        self, catalog: Catalog, spec: Spec, memory: int = 0, listen: Listener | None = None,
        versions: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.catalog, self.spec = catalog, spec
        self.request = spec.request(catalog)
        self.out = Path(spec.out)
        self.folder = self.out.with_name(f".{self.out.name}.job")
        self._listen, self._start = listen, time.monotonic()
        wanted = [r.view for r, _ in stored_views(catalog, self.request.features)]
        wanted += [w.view for w in self.request.label_windows]
        self._views = sorted(set(wanted))
        held = self._held()
        self.status = Status(held.get("id") or uuid.uuid4().hex[:12])
        # The sources are pinned at the job's first start, so that a resumed one sees the same.
        pinned = held.get("versions")
        self.versions: dict[str, int] = versions or pinned or versions_of(catalog, self._views)
        self._past = Past(spec.as_of, self.versions, memory, self._progress, self._warn)

    def run(self) -> Manifest:
        """Do the work. Raises HeadwaterError, or CancelledError where `listen` says so."""
        labels = read_labels(self.spec.entities)
        sample = self.spec.sample or labels.num_rows
        self.status.total = self._total(min(labels.num_rows, sample))
        self._tell("checking")
        labels = prepare(self.catalog, self.request, labels, TIME_COLUMN, self._past)
        labels = spaced(labels, sample)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep()
        before = sources(self.catalog, self._views, self.versions)
        columns = self._columns(labels)
        files, profiles = self._write(labels, columns)
        held = {name: profile.result() for name, profile in profiles.items()}
        asked, full = self.request.features, self.request.full_feature_names
        for warning in null_warnings(self.catalog, asked, full, held):
            self._warn(warning)
        manifest = make_manifest(
            self.catalog, self.spec, self.status, before, self._views, files, profiles,
            round(time.monotonic() - self._start, 3),
        )  # fmt: skip
        manifest.write(self.out)
        shutil.rmtree(self.folder)
        self.status.state = "done"
        self._tell("done")
        return manifest

    def _total(self, labels: int) -> int:
        """Rows that will be read and written: windows are read once, rows for keys and values."""
        rows = labels
        for name in self._views:
            view = self.catalog.views[name]
            if view.batch and view.batch.format == "query":
                continue  # how many rows it has is known when it has run
            once = 1 if view.kind == "window" else 2
            rows += once * open_view(self.catalog, view, self.versions).rows()
        return rows

    # -- columns on disk -----------------------------------------------------------------------

    def _columns(self, labels: pa.Table) -> dict[tuple[str, str], pa.ChunkedArray]:
        keyed = labels_of(labels, TIME_COLUMN)
        columns = {}
        for reference, names in stored_views(self.catalog, self.request.features):
            alias = reference.name_to_use
            self._tell(alias)
            missing = [n for n in names if not self._path(alias, n).exists()]
            if missing:
                for name, array in view_columns(
                    self.catalog, self.request, reference, missing, keyed, self._past
                ):
                    self._spill(alias, name, array)
            columns.update({(alias, name): self._mapped(alias, name) for name in names})
        for window in self.request.label_windows:
            self._tell(window.name)
            if not self._path("", window.name).exists():
                found = label_columns(self.catalog, [window], keyed, self._past)
                self._spill("", window.name, found[0][1])
            columns["", window.name] = self._mapped("", window.name)
        return columns

    def _path(self, alias: str, name: str) -> Path:
        digest = hashlib.blake2b(f"{alias}\0{name}".encode(), digest_size=12).hexdigest()
        return self.folder / f"{digest}.arrow"

    def _spill(self, alias: str, name: str, array: pa.Array) -> None:
        table = pa.table({name: array})
        path = self._path(alias, name)
        temporary = path.with_suffix(".new")
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table, max_chunksize=_CHUNK)
        temporary.replace(path)

    def _mapped(self, alias: str, name: str) -> pa.ChunkedArray:
        with pa.memory_map(str(self._path(alias, name))) as source:
            return pa.ipc.open_file(source).read_all().column(0)

    # -- output --------------------------------------------------------------------------------

    def _write(
        self, labels: pa.Table, columns: dict[tuple[str, str], pa.ChunkedArray]
    ) -> tuple[list[Path], dict[str, ColumnProfile]]:
        self._tell("writing")
        profiles: dict[str, ColumnProfile] = {}
        target = self.folder / "out"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        writer: pq.ParquetWriter | None = None
        names: list[str] = []
        threads = column_threads()
        for at, table in self._chunks(labels, columns):
            if writer is None or (self.spec.rows_per_file and at % self.spec.rows_per_file == 0):
                if writer is not None:
                    writer.close()
                names.append(f"part-{len(names):05}.parquet")
                writer = _writer(target / names[-1], table.schema)
            # Both release the interpreter's lock for most of their time.
            writing = threads.submit(writer.write_table, table)
            some = [profiles.setdefault(name, ColumnProfile(sketched=True))
                    for name in table.column_names]  # fmt: skip
            list(threads.map(_add, some, table.columns))
            writing.result()
            self._progress(table.num_rows)
        assert writer is not None  # noqa: S101 (there is at least one chunk, be it empty)
        writer.close()
        return self._publish(target, names), profiles

    def _chunks(
        self, labels: pa.Table, columns: dict[tuple[str, str], pa.ChunkedArray]
    ) -> Iterator[tuple[int, pa.Table]]:
        step = min(_CHUNK, self.spec.rows_per_file or _CHUNK)
        at = 0
        while at < max(labels.num_rows, 1):
            end = at + step
            if self.spec.rows_per_file:
                end = min(end, (at // self.spec.rows_per_file + 1) * self.spec.rows_per_file)
            some = {key: column.slice(at, end - at) for key, column in columns.items()}
            yield at, assemble(self.catalog, self.request, labels.slice(at, end - at), some)
            at = end

    def _publish(self, target: Path, names: list[str]) -> list[Path]:
        """Put the files in their place: one file as `out` itself, several into a folder."""
        if not self.spec.rows_per_file:
            (target / names[0]).replace(self.out)
            return [self.out]
        shutil.rmtree(self.out, ignore_errors=True)
        target.replace(self.out)
        return [self.out / name for name in names]

    # -- progress ------------------------------------------------------------------------------

    def _progress(self, rows: int) -> None:
        self.status.done = min(self.status.done + rows, self.status.total)
        self._tell(self.status.step)

    def _warn(self, text: str) -> None:
        if text not in self.status.warnings:
            self.status.warnings += (text,)
        self._tell(self.status.step)

    def _tell(self, step: str) -> None:
        self.status.step = step
        self.status.seconds = time.monotonic() - self._start
        if self._listen:
            self._listen(replace(self.status))

    def _held(self) -> dict[str, Any]:
        """What an earlier run of the same work left; other leftovers are removed."""
        note = self.folder / "job.json"
        held: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
        if held.get("work") != self._work():
            shutil.rmtree(self.folder, ignore_errors=True)
            return {}
        return held

    def _keep(self) -> None:
        note = {"id": self.status.id, "work": self._work(), "versions": self.versions}
        (self.folder / "job.json").write_text(json.dumps(note))

    def _work(self) -> str:
        """The same spec over the same catalogue, labels and files; logs are pinned by version."""
        stamps = json.dumps(sources(self.catalog, self._views, {}), sort_keys=True)
        labels = json.dumps(stamp(self.spec.entities))
        text = f"{self.spec.identity} {self.catalog.version} {labels} {stamps}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Floats are hardly ever few: to try a dictionary on them takes longer than to write them."""
    few = [field.name for field in schema if not pa.types.is_floating(field.type)]
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=1, use_dictionary=few or False
    )


def _add(profile: ColumnProfile, column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        profile.add(chunk)


def read_set(out: Path) -> pa.Table:
    """A training set that was written: one file, or a folder of them in order."""
    if out.is_dir():
        return ds.dataset(sorted(out.glob("part-*.parquet")), format="parquet").to_table()
    return pq.read_table(out)


def main() -> None:
    """Work on the job in the folder `argv[1]` (spec.json) with the repository `argv[2]`.

    status.json there says how far it is; a file `cancel` there stops it.
    """
    from headwater import catalog_cache
    from headwater.settings import Settings

    folder, repo = Path(sys.argv[1]), Path(sys.argv[2])
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=Spec)
    told = 0.0
    status = Status(folder.name)

    def listen(now: Status) -> None:
        nonlocal told, status
        status = replace(now, id=folder.name)
        if (folder / "cancel").exists():
            raise CancelledError("the training set was cancelled; start it again to go on")
        if time.monotonic() - told > 0.2 or now.state != "running":
            told = time.monotonic()
            _note(folder, status)

    try:
        settings = Settings.from_env(os.environ)
        Job(catalog_cache.load(repo), spec, settings.memory_bytes, listen).run()
    except CancelledError as error:
        _note(folder, replace(status, state="cancelled", error=str(error)))
    except HeadwaterError as error:
        _note(folder, replace(status, state="failed", error=str(error)))


def _note(folder: Path, status: Status) -> None:
    temporary = folder / "status.new"
    temporary.write_text(json.dumps({**status.as_json(), "pid": os.getpid()}))
    temporary.replace(folder / "status.json")


if __name__ == "__main__":
    main()
