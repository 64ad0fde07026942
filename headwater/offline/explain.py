"""What an entity's features were made of at a time: events, tiles and rows behind each value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, FeatureRefPlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.checks import service_features, stored_views
from headwater.offline.point_in_time import Past
from headwater.offline.scan import KNOWN, SOURCE, open_view
from headwater.offline.sources import CREATED, EVENT, SEQUENCE
from headwater.offline.spec import TIME_COLUMN, AsOf
from headwater.offline.training_set import build
from headwater.online.provenance import source_ids
from headwater.windows import WindowProgram

#: Events of a view that are listed, the newest of them.
LISTED = 1000
_OFFSETS = (1 << 48) - 1


def explain(
    catalog: Catalog, service: str, entity: Mapping[str, Any], at_us: int, as_of: AsOf = "arrival"
) -> dict[str, Any]:
    """Values of a service's features for one entity at a time, and what made each view's.

    entity: join keys, and request inputs of on-demand views. as_of: "arrival" knows what had
    arrived by then, as the service did; "event" all that had happened. Times are ISO 8601.
    Raises HeadwaterError where a key is missing or a source cannot be read.
    """
    features = service_features(catalog, service)
    # One row, of a view without entities too.
    columns = {name: [value] for name, value in entity.items()}
    label = pa.table({**columns, TIME_COLUMN: pa.array([at_us], TIMESTAMP)})
    values = build(catalog, features, label, True, past=Past(as_of)).to_pylist()[0]
    views = []
    for reference, names in stored_views(catalog, features):
        about = _View(catalog, reference, entity, at_us, as_of).explained(names)
        for name in names:
            title = f"{reference.name_to_use}__{name}"
            if title in values:
                about["features"].setdefault(name, {})["value"] = values[title]
        views.append({"view": reference.name_to_use, **about})
    for reference in features:
        if reference.view in catalog.on_demand:
            plan = catalog.on_demand[reference.view]
            made = {
                name: {"value": values[f"{reference.name_to_use}__{name}"]}
                for name in reference.features or plan.feature_names
            }
            inputs = [source.name_to_use for source in plan.inputs]
            views.append({"view": reference.name_to_use, "kind": "on demand", "features": made,
                          "inputs": inputs})  # fmt: skip
    return {"service": service, "entity": dict(entity), "at": _utc(at_us), "as_of": as_of,
            "views": views}  # fmt: skip


class _View:
    """One view's events of the entity."""

    def __init__(
        self, catalog: Catalog, reference: FeatureRefPlan, entity: Mapping[str, Any], at_us: int,
        as_of: AsOf,
    ) -> None:  # fmt: skip
        self.view: ViewPlan = catalog.views[reference.view]
        self._catalog, self._at, self._as_of = catalog, at_us, as_of
        self._entity = {
            key.name: pa.scalar(entity[reference.join_key_map.get(key.name, key.name)])
            .cast(arrow_type(key.type))
            for key in self.view.join_keys
        }  # fmt: skip
        stream = catalog.streams.get(self.view.stream)
        self._sources = source_ids(stream, 1 << 12) if stream else {}

    def explained(self, names: Collection[str]) -> dict[str, Any]:
        events = sorted(self._events(), key=lambda event: event.pop("order"))
        return self._windows(events, names) if self.view.kind == "window" else self._row(events)

    def _events(self) -> Iterator[dict[str, Any]]:
        """The entity's events that were known by the time, with the columns that are used."""
        view, scan = self.view, open_view(self._catalog, self.view)
        used = sorted({a.column for a in view.aggregations} - {"", "*"})
        names = used if view.kind == "window" else list(view.feature_names)
        streamed = bool(view.stream)
        own = [EVENT, KNOWN, *([CREATED] if scan.has_created else [])]
        own += [SEQUENCE, SOURCE] if streamed else []
        for batch in scan.batches([*self._entity, *own, *names]):
            keep = pc.less_equal(batch.column(len(self._entity)), pa.scalar(self._at, TIMESTAMP))
            if self._as_of == "arrival":
                known = batch.column(len(self._entity) + 1)
                keep = pc.and_(keep, pc.less_equal(known, pa.scalar(self._at, TIMESTAMP)))
            for i, value in enumerate(self._entity.values()):
                keep = pc.and_(keep, pc.equal(batch.column(i).cast(value.type), value))
            for row in batch.filter(keep.fill_null(False)).to_pylist():
                yield self._event(row, names, own)

    def _event(self, row: dict[str, Any], names: list[str], own: list[str]) -> dict[str, Any]:
        event: dict[str, Any] = {"event_timestamp": row[EVENT].isoformat()}
        if SOURCE in own:
            topic, partition = self._sources.get(row[SOURCE], ("?", -1))
            if topic:
                event |= {"arrived_at": row[KNOWN].isoformat(), "topic": topic,
                          "partition": partition, "offset": row[SEQUENCE] & _OFFSETS}  # fmt: skip
            else:
                event["history"] = True
        if CREATED in own and row[CREATED] is not None:
            event["created_timestamp"] = row[CREATED].isoformat()
        event["values"] = {name: row[name] for name in names}
        created = row.get(CREATED)
        made = created.timestamp() if created is not None else 0.0
        event["order"] = (row[EVENT], made, row.get(SEQUENCE, 0))
        event["us"] = round(row[EVENT].timestamp() * 1e6)
        return event

    def _row(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """The newest row, the one before it, how many there are; whether each is too old."""
        for event in events:
            age = self._at - event.pop("us")
            event["expired"] = bool(self.view.ttl_us and age > self.view.ttl_us)
        return {
            "kind": "row", "features": {}, "rows": len(events),
            "row": events[-1] if events else None, "previous": events[-2] if events[1:] else None,
        }  # fmt: skip

    def _windows(self, events: list[dict[str, Any]], names: Collection[str]) -> dict[str, Any]:
        """Of some features their windows and how many events are in each; the tiles; the events."""
        features: dict[str, Any] = {}
        lows = []
        for a in self.view.aggregations:
            if a.name not in names:
                continue
            low = None
            if a.window_us is not None:
                low = (self._at - a.window_us) // a.hop_us * a.hop_us
            lows.append(low)
            inside = [e for e in events if low is None or e["us"] >= low]
            with_value = [e for e in inside if not a.column or a.column == "*"
                          or _counts(e["values"][a.column])]  # fmt: skip
            features[a.name] = {
                "from": None if low is None else _utc(low),
                "events": len(with_value),
            }
        if None not in lows and lows:
            least = min(low for low in lows if low is not None)
            events = [event for event in events if event["us"] >= least]
        size = int(WindowProgram.of(self.view).levels[0, 1])
        tiles = Counter(event.pop("us") // size * size if size else 0 for event in events)
        return {
            "kind": "window", "features": features, "tile_seconds": size / 1e6,
            "tiles": [{"start": _utc(at), "events": n} for at, n in sorted(tiles.items())],
            "events": events[-LISTED:], "events_in_all": len(events),
        }  # fmt: skip


def _counts(value: Any) -> bool:
    """Whether a window counts a value: null and not-a-number are left out."""
    return value is not None and value == value  # NaN alone differs from itself


def _utc(us: int) -> str:
    return str(pa.scalar(us, TIMESTAMP).as_py().isoformat())


def parse_entity(texts: list[str]) -> dict[str, Any]:
    """`name=value` texts as an entity; a value that is JSON is read as such, else it is text."""
    import orjson

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise HeadwaterError(f"{text!r} is no entity: give name=value, such as origin=JFK")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found
