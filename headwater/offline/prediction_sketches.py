"""Sketches of what models predicted, by model, version and hour, and the upkeep of their table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from headwater.catalog import Catalog
from headwater.offline.files import delta_version, new_delta_files, open_delta
from headwater.offline.log import log_errors
from headwater.offline.predictions import path_of
from headwater.offline.sketch_table import ROWS, Key, Mark, Sketches, SketchTable, add_to
from headwater.quality.feature_sketches import FeatureSketch, Hours

NAME = "predictions"
#: So many files are worth making one of.
_MANY_FILES = 60


def sketch_predictions(catalog: Catalog, table: SketchTable, now: int) -> int:
    """Sketch the predictions of new files; returns how many. Many files become one.

    A sketch's view is the model, its feature the version.
    """
    path = path_of(catalog)
    version = delta_version(path)
    if version is None:
        return 0
    mark = table.mark(NAME)
    before = mark.progress.get("version")
    if version == before:
        return 0
    new = new_delta_files(path, "", before, version) if before is not None else None
    sketches, rows = _of_files(path, version, new)
    anew = "origin = 'predictions'" if before is not None and new is None else ""
    table.add(NAME, Mark({"version": version}, mark.table), now, [sketches], anew)
    _compact(path, version, table, now)
    return rows


def _of_files(path: str, version: int, wanted: set[str] | None) -> tuple[Sketches, int]:
    """The sketches of some files, or of all, and the predictions in them."""
    data = open_delta(path, version)
    sketches: Sketches = {}
    rows = 0
    if data is None:
        return {}, 0
    for fragment in data.get_fragments():
        if wanted is None or fragment.path in wanted:
            found = fragment.to_table(schema=data.schema)
            found = found.filter(pc.equal(found["kind"], "prediction"))
            rows += found.num_rows
            for key in found.group_by(["model", "version"]).aggregate([]).to_pylist():
                model, of = key["model"], key["version"]
                mine = pc.and_(pc.equal(found["model"], model), pc.equal(found["version"], of))
                _add(sketches, model, of, found.filter(mine))
    return sketches, rows


def _add(sketches: Sketches, model: str, version: str, rows: pa.Table) -> None:
    hours = Hours(rows["at"].cast(pa.int64()).to_numpy())
    for hour, count in hours.rows().items():
        whole = FeatureSketch("", "other")
        whole.add_rows(count, 0)
        add_to(sketches, Key("predictions", "", model, ROWS, hour), whole)
    texts = rows["label"].null_count < rows.num_rows
    for hour, sketch in hours.sketches(rows["label" if texts else "number"]).items():
        add_to(sketches, Key("predictions", "", model, version, hour), sketch)


def _compact(path: str, version: int, table: SketchTable, now: int) -> None:
    """Make one file of many that are sketched; files that came meanwhile are sketched as well.

    Ends it between the two, all is sketched anew the next time.
    """
    with log_errors(path):
        held = DeltaTable(path, version=version)
        before = set(held.file_uris())
        if len(before) < _MANY_FILES:
            return
        held.optimize.compact()
        held.vacuum(retention_hours=24, dry_run=False, enforce_retention_duration=False)
        held = DeltaTable(path)
        held.create_checkpoint()
    compacted = _version_of_compaction(held)
    if compacted is None:
        return
    had, came = open_delta(path, version), open_delta(path, compacted - 1)
    meanwhile = set(came.files) - set(had.files) if had is not None and came is not None else None
    sketches, _ = _of_files(path, compacted, meanwhile) if meanwhile else ({}, 0)
    mark = table.mark(NAME)
    table.add(NAME, Mark({"version": compacted}, mark.table), now, [sketches])


def _version_of_compaction(table: DeltaTable) -> int | None:
    for commit in table.history(limit=20):
        if commit.get("operation") == "OPTIMIZE":
            return int(commit["version"])
    return None
