"""Look one entity up: what the service answers now, and why each value is what it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from fastapi import Request
from starlette.responses import Response

from headwater.amounts import lasting
from headwater.catalog import Catalog, FeatureRefPlan, ServicePlan, ViewPlan
from headwater.changes import span
from headwater.codec import split_sections
from headwater.errors import BadRequestError
from headwater.online.columns import ViewColumns
from headwater.online.provenance import Provenance
from headwater.windows import tile_starts
from service.access import PAGES
from service.found import Found
from service.prepared import Prepared
from service.requests import ViewRead
from service.ui import drawings, snippets, texts
from service.ui.examples import NUMBERS, Examples
from service.ui.pages import Entry, Pages

_STATES = {"PRESENT": "good", "NULL_VALUE": "none", "NOT_FOUND": "warn", "OUTSIDE_MAX_AGE": "bad"}
#: Events of a view that are shown.
_EVENTS = 20


class Asked(NamedTuple):
    """What is looked up: a service, or every feature of a view; `of` is its name in addresses."""

    of: str
    service: str
    features: tuple[str, ...]

    @classmethod
    def parse(cls, of: str, catalog: Catalog) -> Asked:
        """From "service:NAME" or "view:NAME". Raises BadRequestError (404) where there is none."""
        kind, _, name = of.partition(":")
        if kind == "service" and name in catalog.services:
            return cls(of, name, ())
        view = catalog.views.get(name) or catalog.on_demand.get(name)
        if kind == "view" and view is not None:
            return cls(of, "", tuple(f"{name}:{feature}" for feature in view.feature_names))
        raise BadRequestError(f"there is no {kind or 'view'} {name!r} to look up", 404)


def add(pages: Pages, examples: Examples) -> None:
    """Add the routes of looking up."""
    pages.navigation.append(Entry(PAGES + "/lookup", "Look up"))
    reading = asyncio.Lock()

    @pages.ui.get("/lookup")
    async def lookup(request: Request, of: str = "") -> Response:
        """What the service answers for one entity of a service or view, and why."""
        context: dict[str, Any] = {"of": of, "catalog": pages.catalog, "fields": [], "views": [],
                                   "filled": False}  # fmt: skip
        if of:
            asked, prepared = _prepared(pages, of)
            entity, context["fields"] = _entity(prepared, request.query_params)
            if entity is not None:
                context |= await _answer(pages, request, asked, prepared, entity)
            elif not any(field["value"] for field in context["fields"]):
                held = await asyncio.to_thread(examples.of, prepared.plan)
                for field in context["fields"]:
                    field["value"] = _text(held.get(field["name"], ""))
                context["filled"] = bool(held)
        return await asyncio.to_thread(pages.render, request, "lookup.html", context)

    @pages.ui.get("/lookup/events")
    async def lookup_events(request: Request, of: str) -> Response:
        """The events and rows of the offline log behind the values of one entity."""
        asked, prepared = _prepared(pages, of)
        entity, fields = _entity(prepared, request.query_params)
        if entity is None:
            wrong = ", ".join(f["name"] for f in fields if f["wrong"] or not f["value"])
            raise BadRequestError(f"these have no value that fits: {wrong}")
        if reading.locked():
            raise BadRequestError("somebody else is reading the log; try again in a moment", 409)
        async with reading:
            found, at_us = await asyncio.to_thread(_events, asked, pages.catalog, entity)
        part = request.headers.get("hx-request") == "true"
        template = "lookup-events.html" if part else "lookup-events-page.html"
        context = {"found": found, "shown": _EVENTS, "at_us": at_us}
        return await asyncio.to_thread(pages.render, request, template, context)


def _prepared(pages: Pages, of: str) -> tuple[Asked, Prepared]:
    """What an address asks for, and its plan, by full names. Raises BadRequestError."""
    asked = Asked.parse(of, pages.catalog)
    service, features = asked.service or None, list(asked.features) or None
    return asked, pages.service.vectors.prepared(service, features, True)


def _events(asked: Asked, catalog: Catalog, entity: Mapping[str, list[Any]]) -> tuple[Any, int]:
    """What `headwater explain` says of an entity now, and when that is, in microseconds; blocks."""
    from headwater.offline.explain import explain  # DuckDB: with the first who asks

    service, held = _as_service(asked, catalog)
    now_us = time.time_ns() // 1000
    return explain(held, service, {name: v[0] for name, v in entity.items()}, now_us), now_us


def _as_service(asked: Asked, catalog: Catalog) -> tuple[str, Catalog]:
    """The name of a service with what is looked up, and a catalogue that has it."""
    if asked.service:
        return asked.service, catalog
    name = asked.of.partition(":")[2]
    whole = ServicePlan(asked.of, (FeatureRefPlan(name, ()),))
    services = {**catalog.services, asked.of: whole}
    return asked.of, msgspec.structs.replace(catalog, services=services)


def _entity(
    prepared: Prepared, given: Mapping[str, str]
) -> tuple[dict[str, list[Any]] | None, list[dict[str, Any]]]:
    """The entity that an address names, None where it is not whole; and the form's fields."""
    keys, inputs = prepared.plan.key_types, prepared.plan.request_types
    fields, entity = [], {}
    for name, kind in {**keys, **inputs}.items():
        text, wrong = given.get(f"entity.{name}", ""), ""
        if text:
            try:
                entity[name] = [_value(kind, text)]
            except ValueError:
                wrong = f"{text!r} is no {kind.lower()}; {snippets.sample(kind)!r} would be one"
        fields.append({
            "name": name, "type": kind.lower(), "value": text, "wrong": wrong,
            "input": name in inputs, "sample": snippets.sample(kind),
        })  # fmt: skip
    return (entity if len(entity) == len(fields) else None), fields


def _text(value: Any) -> str:
    """A key's value as a form has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(kind: str, text: str) -> Any:
    """A form's text as the value that a request in JSON would have. Raises ValueError."""
    if kind in NUMBERS:
        return NUMBERS[kind](text.strip())
    if kind == "BOOL":
        if text.strip().lower() not in {"true", "false"}:
            raise ValueError(text)
        return text.strip().lower() == "true"
    return orjson.loads(text) if kind.endswith(("_LIST", "_SET", "MAP")) else text


async def _answer(
    pages: Pages, request: Request, asked: Asked, prepared: Prepared, entity: dict[str, list[Any]]
) -> dict[str, Any]:
    given = dict(entity)
    n = prepared.check(entity)
    data = await pages.service.vectors.values(prepared, entity, n)
    now_us = time.time_ns() // 1000
    found = await asyncio.to_thread(prepared.found, entity, data, n, now_us)
    views = [
        _view(pages.catalog, read, value, columns, now_us)
        for read, value, columns in zip(prepared.plan.reads, data, found.columns, strict=True)
    ]
    what: dict[str, Any] = (
        {"feature_service": asked.service} if asked.service else {"features": list(asked.features)}
    )
    url, keyed = f"{request.url.scheme}://{request.url.netloc}", bool(pages.service.access)
    request_body = {**what, "entities": given, "provenance": True}
    return {
        "views": [*views, *_on_demand(prepared, found)], "at_us": now_us,
        "query": request.url.query, "curl": snippets.curl(url, request_body, keyed),
        "python": snippets.python(url, request_body, keyed),
    }  # fmt: skip


def _view(
    catalog: Catalog, read: ViewRead, value: bytes | None, columns: ViewColumns, now_us: int
) -> dict[str, Any]:
    """One view's values with the reason of each, and what they were made of."""
    view = read.reader.view
    origin = Provenance(view, catalog.streams).describe([value])
    windowed = view.kind == "window"
    starts = _tiles(value) if windowed else np.zeros(0, np.int64)
    rows = []
    for at, name in enumerate(read.features):
        status = columns.statuses(at)[0]
        why = _why_window(view, name, starts, now_us) if windowed else (
            _why_row(view, status, int(columns.event_us[0]), now_us))  # fmt: skip
        rows.append({
            "name": name, "value": texts.value(columns.plain(at)[0]), "status": status,
            "look": _STATES[status], "why": why,
        })  # fmt: skip
    lengths = {a.window_us for a in view.aggregations}
    longest = max((length or 0 for length in lengths), default=0)
    return {
        "name": view.name, "alias": read.alias, "kind": "window" if windowed else "row",
        "rows": rows, "origin": _origin(origin, windowed), "event_us": int(columns.event_us[0]),
        "tiles": drawings.tiles(starts.tolist(), now_us, longest) if len(starts) else "",
        "count": len(starts),
    }  # fmt: skip


def _tiles(value: bytes | None) -> Any:
    """When the tiles of a windowed value begin, of all its partitions."""
    found = [tile_starts(section) for section in split_sections(value)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _why_window(view: ViewPlan, name: str, starts: Any, now_us: int) -> str:
    a = next(a for a in view.aggregations if a.name == name)
    if a.window_us is None:
        return f"the whole history: {len(starts)} tiles"
    low = (now_us - a.window_us) // a.hop_us * a.hop_us
    inside = int((starts >= low).sum())
    since = f"since {texts.moment(low)} ({span(a.window_us)})"
    return f"{inside} of {len(starts)} tiles, {since}" if inside else f"no event {since}"


def _why_row(view: ViewPlan, status: str, event_us: int, now_us: int) -> str:
    age = lasting((now_us - event_us) / 1e6)
    return {
        "PRESENT": f"the newest row, {age} old",
        "NULL_VALUE": f"the newest row, {age} old, has null here",
        "NOT_FOUND": "no row of this entity in this version of the view",
        "OUTSIDE_MAX_AGE": f"the newest row is {age} old; the TTL is {span(view.ttl_us)}",
    }[status]


def _origin(found: Mapping[str, Any], windowed: bool) -> list[tuple[str, str]]:
    """What a value was made of, as names and texts."""
    if windowed:
        return [
            ("History", f"{offset + 1:,} rows") if source == "history"
            else (source, f"every event up to offset {offset:,}")
            for source, offset in found["offsets"][0].items()
        ]  # fmt: skip
    event_us = int(found["event_timestamps"].view(np.int64)[0])
    if not event_us:
        return []
    pairs = [("Event time", texts.moment(event_us))]
    if "created_timestamps" in found:
        pairs.append(("Created", texts.moment(int(found["created_timestamps"].view(np.int64)[0]))))
    if "offsets" in found:
        place = f"partition {int(found['partitions'][0])}, offset {int(found['offsets'][0]):,}"
        pairs.append(("From the stream", place))
    else:
        pairs.append(("From", "a push, or a load of its batch source"))
    if "readable" in found:
        pairs.append(("Version", "written by another version of the view: not readable"))
    return pairs


def _on_demand(prepared: Prepared, found: Found) -> list[dict[str, Any]]:
    views = []
    plans = zip(prepared.plan.on_demand, found.computed, strict=True)
    for at, (plan, made) in enumerate(plans):
        wanted = {o.feature for o in prepared.plan.outputs if o.on_demand == at}
        inputs = [source.name_to_use for source in plan.inputs]
        inputs += [field.name for field in plan.request_fields]
        rows = [
            {
                "name": name, "value": texts.value(values[0]), "why": "computed just now",
                "status": "PRESENT" if values[0] is not None else "NULL_VALUE",
                "look": "good" if values[0] is not None else "none",
            }
            for name, values in made.items() if name in wanted
        ]  # fmt: skip
        views.append({
            "name": plan.name, "alias": plan.name, "kind": "on demand", "rows": rows, "tiles": "",
            "event_us": 0, "count": 0, "origin": [("Computed from", ", ".join(inputs))],
        })  # fmt: skip
    return views
