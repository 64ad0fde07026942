"""What a training set was made of, so that it can be made again or it is said what is gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow.fs as pafs

from headwater import __version__
from headwater.catalog import BatchSourcePlan, Catalog, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.checks import titles
from headwater.offline.files import delta_version, open_delta
from headwater.quality.feature_sketches import FeatureSketch
from headwater.quality.profiles import ColumnProfile

if TYPE_CHECKING:
    from headwater.offline.spec import Spec, Status


@dataclass(frozen=True)
class Manifest:
    """A training set's manifest; `data` is its JSON."""

    data: dict[str, Any]

    @staticmethod
    def path(out: Path) -> Path:
        return out.with_name(f"{out.name}.manifest.json")

    def write(self, out: Path) -> None:
        temporary = self.path(out).with_suffix(".new")
        temporary.write_text(json.dumps(self.data, indent=2))
        temporary.replace(self.path(out))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises HeadwaterError where there is no manifest."""
        try:
            data = json.loads(path.read_text())
            return cls({**data, "spec": data["spec"], "sources": data["sources"]})
        except (OSError, ValueError, KeyError) as error:
            raise HeadwaterError(
                f"{path} is no manifest of a training set ({type(error).__name__}: {error})"
            ) from error

    @property
    def versions(self) -> dict[str, int]:
        """Path -> version of the Delta tables that were read."""
        return {
            source["path"]: source["delta_version"]
            for found in self.data["sources"].values() for source in found
            if source.get("delta_version") is not None
        }  # fmt: skip

    def sketches(self) -> dict[str, dict[str, FeatureSketch]]:
        """View -> feature -> what the set held of it. Raises HeadwaterError where it has none."""
        held = self.data.get("sketches")
        if not held:
            raise HeadwaterError(
                f"the manifest of training set {self.data.get('id')} has no sketches to compare "
                "with: it was made by an older Headwater; make the set again"
            )
        return {
            view: {name: FeatureSketch.from_json(one) for name, one in features.items()}
            for view, features in held.items()
        }

    def gone(self, catalog: Catalog) -> list[str]:
        """What is no longer as it was, in words; empty where the same bytes can be made."""
        missing = []
        if catalog.version != self.data["catalog"]:
            missing.append(f"the catalogue was {self.data['catalog']} and is {catalog.version}")
        labels = Path(self.data["spec"]["entities"])
        if not labels.exists():
            missing.append(f"the labels {labels} are gone")
        elif file_hash(labels) != self.data["labels_sha256"]:
            missing.append(f"the labels {labels} have changed")
        for view, held in self.data["sources"].items():
            if view not in catalog.views:
                missing.append(f"there is no view {view!r} any more")
                continue
            for source in held:
                missing += _gone(source)
        return missing


def make_manifest(
    catalog: Catalog, spec: Spec, status: Status, read: Mapping[str, Any], views: Sequence[str],
    files: Sequence[Path], profiles: Mapping[str, ColumnProfile], seconds: float,
) -> Manifest:  # fmt: skip
    """profiles: of each column, with its sketch."""
    results = {name: profile.result() for name, profile in profiles.items()}
    entities = Path(spec.entities)
    return Manifest({
        "id": status.id,
        "headwater": __version__,
        "created_at": datetime.now(UTC).isoformat(),
        "seconds": seconds,
        "spec": json.loads(msgspec.json.encode(spec)),
        "service": spec.service,
        "as_of": spec.as_of,
        "catalog": catalog.version,
        "features": {name: feature_version(catalog.views[name]) for name in views},
        "sources": read,
        "labels_sha256": file_hash(entities) if entities.is_file() else None,
        "rows": next(iter(results.values()))["count"] if results else 0,
        "null_counts": {name: result["nulls"] for name, result in results.items()},
        "profile": results,
        "sketches": _sketches(catalog, spec, profiles),
        "warnings": list(status.warnings),
        "files": [file.name for file in files],
        "sha256": {file.name: file_hash(file) for file in files},
    })  # fmt: skip


def _sketches(
    catalog: Catalog, spec: Spec, profiles: Mapping[str, ColumnProfile]
) -> dict[str, dict[str, Any]]:
    """View -> feature -> its sketch as JSON; labels and keys are no features."""
    request = spec.request(catalog)
    found: dict[str, dict[str, Any]] = {}
    for reference in request.features:
        for title, _, name in titles(catalog, [reference], request.full_feature_names):
            sketch = profiles[title].sketch if title in profiles else None
            if sketch is not None:
                found.setdefault(reference.view, {})[name] = sketch.as_json()
    return found


def feature_version(view: ViewPlan) -> str:
    """Names what a view's features mean: their types, and of windows their definition."""
    if view.kind == "window":
        return view.window_fingerprint
    return view.schema_fingerprint.hex()


def versions_of(catalog: Catalog, views: Sequence[str]) -> dict[str, int]:
    """Path -> newest version of the Delta tables that the views are read from."""
    found = {}
    for name in views:
        for kind, path, endpoint in _places(catalog, catalog.views[name]):
            if kind == "delta":
                version = delta_version(path, endpoint)
                if version is not None:
                    found[path] = version
    return found


def sources(
    catalog: Catalog, views: Sequence[str], versions: Mapping[str, int]
) -> dict[str, list[dict[str, Any]]]:
    """What each view is read from: Delta tables by version, files by size and time."""
    return {
        name: [
            {"path": path, "delta_version": versions.get(path)} if kind == "delta"
            else {"path": path, **stamp(path)}
            for kind, path, _ in _places(catalog, catalog.views[name])
        ]
        for name in views
    }  # fmt: skip


def _places(catalog: Catalog, view: ViewPlan) -> list[tuple[str, str, str]]:
    """(format, path, endpoint) of a view's sources."""
    if view.stream:
        stream = catalog.streams[view.stream]
        found = [("delta", stream.log_path, "")]
        return [*found, *([_place(stream.history)] if stream.history else [])]
    if view.batch is None:
        return []
    # A query's text is part of the catalogue's version; what it reads may change.
    files = view.batch.tables if view.batch.format == "query" else [view.batch]
    return [_place(source) for source in files]


def _place(source: BatchSourcePlan) -> tuple[str, str, str]:
    return source.format, source.path, source.s3_endpoint


def stamp(path: str) -> dict[str, Any]:
    """A digest of a file's, or of a folder's files', names, sizes and times; {} elsewhere."""
    root = Path(path)
    if "://" in path or not root.exists():
        return {}
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    text = "\n".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
    return {
        "bytes": sum(p.stat().st_size for p in files),
        "stamp": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
    }


def _gone(source: Mapping[str, Any]) -> list[str]:
    path, version = source["path"], source.get("delta_version")
    if version is not None:
        try:
            table = open_delta(path, version)
        except HeadwaterError as error:
            return [str(error)]
        if table is None:
            return [f"the Delta table {path} is gone"]
        files = table.filesystem.get_file_info(table.files)
        lost = sum(file.type == pafs.FileType.NotFound for file in files)
        if lost:
            return [f"{lost} of {len(files)} files of version {version} of {path} were vacuumed"]
        return []
    if source.get("stamp") and stamp(path).get("stamp") != source["stamp"]:
        there = "://" in path or Path(path).exists()
        return [f"{path} {'has changed' if there else 'is gone'}"]
    return []


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
