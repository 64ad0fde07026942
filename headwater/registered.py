"""Views registered over HTTP: definitions in JSON, apart from the repository's own objects.

They lie in `data/registered/` of the project, one file each, and build on what the repository
defines: its entities, Kafka sources and batch sources, by name. No code comes in this way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from headwater.aggregations import Wanted, plan_aggregation
from headwater.catalog import (
    COLUMN_KINDS,
    BatchSourcePlan,
    Catalog,
    FieldPlan,
    JoinKeyPlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.errors import DefinitionError
from headwater.quality.objectives import parse_duration

_TYPES = {*COLUMN_KINDS, "STRING", "BYTES"}
_TYPES |= {f"{name}_LIST" for name in _TYPES}


class Source(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A source of the repository: a Kafka source, or a batch source of one of its views."""

    stream: str = ""
    batch: str = ""


class Feature(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A column of the source; of a Kafka source its type is known."""

    name: str
    type: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class Aggregated(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A windowed feature; `window` and `slide` are such as "7d", no window is the whole past."""

    function: str
    column: str = "*"
    window: str = ""
    slide: str = ""
    name: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class Definition(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A feature view as `POST /api/v1/feature-views` takes it."""

    name: str
    entities: list[str]
    source: Source
    features: list[Feature] = []
    aggregations: list[Aggregated] = []
    ttl: str = ""
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


def folder(repo: Path) -> Path:
    return repo / "data" / "registered"


def read(repo: Path) -> dict[str, Definition]:
    """Every definition, by name."""
    files = sorted(folder(repo).glob("*.json"))
    found = [msgspec.json.decode(path.read_bytes(), type=Definition) for path in files]
    return {definition.name: definition for definition in found}


def stamp(repo: Path) -> bytes:
    """Changes when a definition does; empty without any."""
    return b"".join(path.read_bytes() for path in sorted(folder(repo).glob("*.json")))


def write(repo: Path, definition: Definition) -> None:
    place = folder(repo)
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / f".{definition.name}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(definition)))
    temporary.replace(place / f"{definition.name}.json")


def delete(repo: Path, name: str) -> None:
    (folder(repo) / f"{name}.json").unlink(missing_ok=True)


def merged(catalog: Catalog, definitions: Mapping[str, Definition]) -> Catalog:
    """The catalogue with the registered views that it can hold; its own names win."""
    views = dict(catalog.views)
    for name, definition in definitions.items():
        if name not in taken(catalog):
            try:
                views[name] = plan(definition, catalog)
            except DefinitionError:
                continue  # `headwater plan` says so before it comes to this
    return msgspec.structs.replace(catalog, views=views)


def taken(catalog: Catalog) -> set[str]:
    """Names that a new view may not have."""
    return {*catalog.views, *catalog.on_demand}


def plan(definition: Definition, catalog: Catalog) -> ViewPlan:
    """The plan of a definition on a repository's catalogue. Raises DefinitionError."""
    what = f"feature view {definition.name!r}"
    if not re.fullmatch(r"[A-Za-z][\w-]*", definition.name):
        raise DefinitionError(what, "its name is none", "Use letters, digits, _ and -")
    if bool(definition.features) == bool(definition.aggregations):
        raise DefinitionError(
            what, "a view has either features or aggregations", "Give one of the two"
        )
    keys = _keys(what, definition.entities, catalog)
    stream, batch = _source(what, definition.source, catalog)
    more: dict[str, Any] = {}
    if definition.aggregations:
        if stream is None:
            raise DefinitionError(
                what, "windows are folded from a Kafka source", 'Name one as "source": {"stream"}'
            )
        more |= _windows(what, definition, stream)
    else:
        more["features"] = tuple(_feature(what, f, stream) for f in definition.features)
    fields = more["features"]
    twice = sorted({f.name for f in fields if [g.name for g in fields].count(f.name) > 1})
    if twice:
        raise DefinitionError(what, f"it has {twice} twice", "Give each a name of its own")
    return ViewPlan(
        name=definition.name, kind="window" if definition.aggregations else "row",
        join_keys=keys, ttl_us=_length(what, definition.ttl) or 0,
        stream=stream.name if stream else "", batch=batch if stream is None else stream.history,
        description=definition.description, owner=definition.owner or
        definition.tags.get("owner", ""), tags=definition.tags, **more,
    )  # fmt: skip


def _keys(what: str, names: list[str], catalog: Catalog) -> tuple[JoinKeyPlan, ...]:
    unknown = sorted(set(names) - catalog.entities.keys())
    if unknown:
        raise DefinitionError(
            what, f"there are no entities {unknown}", f"Use {', '.join(sorted(catalog.entities))}"
        )
    held = [catalog.entities[name] for name in names]
    return tuple(sorted((JoinKeyPlan(e.join_key, e.type) for e in held), key=lambda k: k.name))


def batch_sources(catalog: Catalog) -> dict[str, BatchSourcePlan]:
    """Batch sources of row views that are not streamed, by name."""
    return {v.batch.name: v.batch for v in catalog.views.values() if v.batch and not v.stream}


def _source(
    what: str, source: Source, catalog: Catalog
) -> tuple[StreamSourcePlan | None, BatchSourcePlan | None]:
    if bool(source.stream) == bool(source.batch):
        raise DefinitionError(
            what, "its source is not clear", 'Give {"stream": NAME} or {"batch": NAME}'
        )
    known: Mapping[str, Any] = catalog.streams if source.stream else batch_sources(catalog)
    name = source.stream or source.batch
    if name not in known:
        raise DefinitionError(
            what, f"the repository uses no source {name!r}",
            f"Use {', '.join(sorted(known)) or 'one that a view of it has'}",
        )  # fmt: skip
    return (known[name], None) if source.stream else (None, known[name])


def _windows(what: str, definition: Definition, stream: StreamSourcePlan) -> dict[str, Any]:
    types = {stream.field_mapping.get(f.name, f.name): f.type for f in stream.fields}
    plans, fields = [], []
    for one in definition.aggregations:
        column = "" if one.column == "*" else f"_{one.column}"
        name = one.name or re.sub(
            r"\W", "_", f"{one.function}{column}" + (f"_{one.window}" if one.window else "")
        )
        wanted = Wanted(
            name, one.function, one.column, _length(what, one.window), _length(what, one.slide)
        )
        made, field = plan_aggregation(what, wanted, types, stream.name, False, None)
        plans.append(made)
        fields.append(FieldPlan(field.name, field.type, one.description, one.tags))
    return {"aggregations": tuple(plans), "features": tuple(fields)}


def _feature(what: str, feature: Feature, stream: StreamSourcePlan | None) -> FieldPlan:
    held = (
        {stream.field_mapping.get(f.name, f.name): f.type for f in stream.fields} if stream else {}
    )
    if stream and feature.name not in held:
        raise DefinitionError(
            what, f"the source {stream.name!r} has no column {feature.name!r}",
            f"Columns: {', '.join(sorted(held))}",
        )  # fmt: skip
    kind = feature.type or held.get(feature.name, "")
    if kind not in _TYPES:
        raise DefinitionError(
            what, f"the type of {feature.name!r} is {kind or 'not given'!r}",
            f"Use one of {', '.join(sorted(_TYPES))}",
        )  # fmt: skip
    return FieldPlan(feature.name, kind, feature.description, feature.tags)


def _length(what: str, text: str) -> int | None:
    if not text:
        return None
    seconds = parse_duration(text)
    if not seconds:
        raise DefinitionError(
            what, f"{text!r} is no length of time", 'Use a number and s, m, h, d or w, such as "7d"'
        )
    return round(seconds * 1e6)
