"""A request for features as a plan: which views to read, in what order to answer. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from headwater.catalog import Catalog, FeatureRefPlan, OnDemandPlan, ViewPlan
from headwater.errors import BadRequestError
from headwater.online.values import ViewReader
from service.cells import cell


class ViewRead(NamedTuple):
    """Features to read from one view under one alias; `columns` name the request's key columns."""

    reader: ViewReader
    alias: str
    features: tuple[str, ...]
    columns: tuple[str, ...]


class Output(NamedTuple):
    """One feature of the answer: from `reads[read].features[at]`, or an on-demand view's output."""

    name: str
    read: int
    at: int
    on_demand: int = -1
    feature: str = ""


#: What tells one read from another: an alias, its view, and which columns are its keys.
ReadKey = tuple[str, str, str]


class FeaturePlan(NamedTuple):
    """key_types, request_types: columns that a request must have. echoed: join keys that an answer
    repeats where they are given, the needed ones and all others that there are. entity_names: those
    of needed keys, by which Feast lets a request call the key's column."""

    reads: tuple[ViewRead, ...]
    on_demand: tuple[OnDemandPlan, ...]
    outputs: tuple[Output, ...]
    key_types: dict[str, str]
    request_types: dict[str, str]
    echoed: dict[str, str]
    entity_names: dict[str, str]


class Planner:
    """Plans requests against one catalogue; plans are kept by what was asked."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.readers = {
            name: ViewReader(catalog.project, view) for name, view in catalog.views.items()
        }
        self._plans: dict[tuple[Any, bool], FeaturePlan] = {}

    def plan(self, service: str | None, features: Sequence[str] | None, full: bool) -> FeaturePlan:
        """Raises BadRequestError (404 unknown view or service, 422 unknown feature)."""
        key = (service or tuple(features or ()), full)
        found = self._plans.get(key)
        if found is None:
            found = self._build(self._references(service, features), full)
            if len(self._plans) < 10_000:
                self._plans[key] = found
        return found

    def _references(
        self, service: str | None, features: Sequence[str] | None
    ) -> list[FeatureRefPlan]:
        if service:
            plan = self.catalog.services.get(service)
            if plan is None:
                raise BadRequestError(
                    _missing_object("Feature service", service, self.catalog.services),
                    404,
                    "FeatureServiceNotFoundException",
                )
            return list(plan.features)
        if not features:
            raise BadRequestError(
                'nothing is asked for: give "features": ["view:feature"] or "feature_service"'
            )
        references = []
        for text in features:
            view, colon, feature = text.partition(":")
            if not colon or not feature:
                raise BadRequestError(f"feature {text!r} is no 'view:feature'")
            references.append(FeatureRefPlan(view.removesuffix("@latest"), (feature,)))
        return references

    def _build(self, references: Sequence[FeatureRefPlan], full: bool) -> FeaturePlan:
        wanted: dict[ReadKey, tuple[FeatureRefPlan, dict[str, None]]] = {}
        on_demand: dict[str, OnDemandPlan] = {}
        draft: list[tuple[str, FeatureRefPlan, str]] = []
        for reference in references:
            for feature in reference.features or self._all_features(reference.view):
                self._check(reference.view, feature)
                name = f"{reference.name_to_use}__{feature}" if full else feature
                draft.append((name, reference, feature))
                if reference.view in self.catalog.on_demand:
                    on_demand[reference.view] = self.catalog.on_demand[reference.view]
                else:
                    _want(wanted, reference, feature)
        for plan in on_demand.values():
            for source in plan.inputs:
                for feature in source.features or self._all_features(source.view):
                    _want(wanted, source, feature)
        reads = tuple(self._read(reference, tuple(names)) for reference, names in wanted.values())
        at = {key: i for i, key in enumerate(wanted)}
        demand = list(on_demand)
        outputs = []
        for name, reference, feature in draft:
            if reference.view in on_demand:
                outputs.append(Output(name, -1, -1, demand.index(reference.view), feature))
            else:
                read = at[_read_key(reference)]
                outputs.append(Output(name, read, reads[read].features.index(feature)))
        names = [output.name for output in outputs]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            remedy = (
                "ask once" if full else "set full_feature_names to tell them apart, or ask once"
            )
            raise BadRequestError(f"features {twice} are asked for twice; {remedy}")
        key_types = {
            column: key.type
            for read in reads
            for column, key in zip(read.columns, read.reader.view.join_keys, strict=True)
        }
        request_types = {f.name: f.type for p in on_demand.values() for f in p.request_fields}
        entities = self.catalog.entities.values()
        echoed = {e.join_key: e.type for e in entities} | key_types
        return FeaturePlan(
            reads, tuple(on_demand.values()), tuple(outputs), key_types, request_types,
            {name: kind for name, kind in echoed.items() if name not in request_types},
            {e.join_key: e.name for e in entities if e.join_key in key_types},
        )  # fmt: skip

    def _all_features(self, view: str) -> tuple[str, ...]:
        return self._view(view).feature_names

    def _view(self, name: str) -> ViewPlan | OnDemandPlan:
        found = self.catalog.views.get(name) or self.catalog.on_demand.get(name)
        if found is None:
            names = [*self.catalog.views, *self.catalog.on_demand]
            raise BadRequestError(
                _missing_object("Feature view", name, names), 404, "FeatureViewNotFoundException"
            )
        return found

    def _check(self, view: str, feature: str) -> None:
        names = self._view(view).feature_names
        if feature not in names:
            raise BadRequestError(_unknown(f"feature of view {view!r}", feature, names))

    def _read(self, reference: FeatureRefPlan, features: tuple[str, ...]) -> ViewRead:
        reader = self.readers[reference.view]
        renamed = reference.join_key_map
        columns = tuple(renamed.get(key.name, key.name) for key in reader.view.join_keys)
        return ViewRead(reader, reference.name_to_use, features, columns)


def _read_key(reference: FeatureRefPlan) -> ReadKey:
    return reference.name_to_use, reference.view, repr(sorted(reference.join_key_map.items()))


def _want(
    wanted: dict[ReadKey, tuple[FeatureRefPlan, dict[str, None]]],
    reference: FeatureRefPlan,
    feature: str,
) -> None:
    wanted.setdefault(_read_key(reference), (reference, {}))[1][feature] = None


def _missing_object(kind: str, name: str, known: Any) -> str:
    """In Feast's words, which its users' code looks for."""
    return f"{kind} {name} does not exist; {_hint(name, known)}"


def _unknown(kind: str, name: str, known: Any) -> str:
    return f"there is no {kind} {name!r}; {_hint(name, known)}"


def _hint(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)[:20])}"


_KEY_CHECKS: dict[str, tuple[type, ...]] = {
    "STRING": (str,), "INT32": (int,), "INT64": (int,), "BOOL": (bool,), "UNIX_TIMESTAMP": (int,),
    "DOUBLE": (float, int), "FLOAT": (float, int), "BYTES": (str, bytes),
}  # fmt: skip

_BOUNDS = {"INT32": 2**31, "INT64": 2**63, "UNIX_TIMESTAMP": 2**63}
_WHOLE = re.compile(r"-?[0-9]{1,19}").fullmatch


def check_columns(plan: FeaturePlan, entities: Any, limit: int) -> int:
    """The number of entities in a request. Raises BadRequestError saying what is wrong with it.

    What Feast takes as well is put right in place: an entity's name for its join key, "7" and 7.0
    for 7 and 7 for "7". What on-demand views are given becomes plain values of its types.
    """
    if not isinstance(entities, dict) or not all(isinstance(v, list) for v in entities.values()):
        raise BadRequestError('"entities" must map each join key to a list of values')
    n = -1
    for values in entities.values():
        if n >= 0 and len(values) != n:
            sizes = {name: len(values) for name, values in entities.items()}
            raise BadRequestError(f"the lists in entities differ in length: {sizes}")
        n = len(values)
    n = 1 if n < 0 else n
    if n > limit:
        raise BadRequestError(f"{n} entities in one request; at most {limit} are taken", 413)
    if not plan.key_types.keys() <= entities.keys():
        _rename(plan, entities)
    for name, values in entities.items():
        kind = plan.echoed.get(name)
        if kind is None:
            continue
        allowed = _KEY_CHECKS.get(kind, (str,))
        if not set(map(type, values)).issubset(allowed):
            values = [v if type(v) in allowed else _meant(name, v, kind) for v in values]
            entities[name] = values
        bound = _BOUNDS.get(kind)
        if bound and values and not -bound <= min(values) <= max(values) < bound:
            wrong = next(v for v in values if not -bound <= v < bound)
            raise BadRequestError(f"entities[{name!r}] has {wrong!r}, which is no {kind}")
    if not plan.request_types.keys() <= entities.keys():
        raise _missing(plan, entities)
    for name, kind in plan.request_types.items():
        entities[name] = [cell("entities", name, kind, value) for value in entities[name]]
    return n


def _rename(plan: FeaturePlan, entities: dict[str, Any]) -> None:
    """Columns that bear an entity's name get its join key's, in their order."""
    renamed = {e: key for key, e in plan.entity_names.items() if key not in entities}
    given = [(renamed.get(name, name), values) for name, values in entities.items()]
    entities.clear()
    entities.update(given)
    if not plan.key_types.keys() <= entities.keys():
        raise _missing(plan, entities)


def _meant(name: str, value: Any, kind: str) -> Any:
    """A key's value by its type, where nothing is lost. Raises BadRequestError.

    Protobuf's JSON, for one, writes a whole number of 64 bits as a text.
    """
    if int in _KEY_CHECKS.get(kind, ()) and float not in _KEY_CHECKS[kind]:
        if isinstance(value, str) and _WHOLE(value):
            return int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return int(value)
    elif kind == "STRING" and type(value) is int:
        return str(value)
    raise BadRequestError(f"entities[{name!r}] has {value!r}, which is no {kind}")


def _missing(plan: FeaturePlan, entities: dict[str, Any]) -> BadRequestError:
    needed = sorted({*plan.key_types, *plan.request_types})
    missing = [name for name in needed if name not in entities]
    return BadRequestError(f"entities lacks {missing}; these features need {needed}")
