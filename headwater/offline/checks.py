"""What a training set needs of its labels, said before any work starts."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from headwater.arrow import arrow_type
from headwater.catalog import Catalog, FeatureRefPlan
from headwater.errors import HeadwaterError


def references(catalog: Catalog, features: Sequence[str]) -> list[FeatureRefPlan]:
    """`view:feature` texts as references, view by view; `view:*` is all of a view.

    Raises HeadwaterError for what is no such text or does not exist.
    """
    found: dict[str, list[str]] = {}
    for text in features:
        view, colon, feature = text.partition(":")
        if not colon or not feature:
            raise HeadwaterError(f"feature {text!r} is no 'view:feature'")
        names = feature_names(catalog, view)
        if feature != "*" and feature not in names:
            raise HeadwaterError(_unknown(f"view {view!r} has no feature", feature, names))
        found.setdefault(view, []).extend(names if feature == "*" else [feature])
    return [FeatureRefPlan(view, tuple(dict.fromkeys(names))) for view, names in found.items()]


def service_features(catalog: Catalog, service: str) -> tuple[FeatureRefPlan, ...]:
    plan = catalog.services.get(service)
    if plan is None:
        raise HeadwaterError(_unknown("there is no feature service", service, catalog.services))
    return plan.features


def feature_names(catalog: Catalog, view: str) -> tuple[str, ...]:
    found = catalog.views.get(view) or catalog.on_demand.get(view)
    if found is None:
        known = [*catalog.views, *catalog.on_demand]
        raise HeadwaterError(_unknown("there is no feature view", view, known))
    return found.feature_names


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"
    return f"{what} {name!r}{hint}"


def stored_views(
    catalog: Catalog, features: Sequence[FeatureRefPlan]
) -> list[tuple[FeatureRefPlan, list[str]]]:
    """Stored views to read, each once under its alias, with the features that anything needs."""
    found: dict[str, tuple[FeatureRefPlan, dict[str, None]]] = {}

    def want(reference: FeatureRefPlan) -> None:
        known = feature_names(catalog, reference.view)
        names = reference.features or known
        for name in names:
            if name not in known:
                raise HeadwaterError(
                    _unknown(f"view {reference.view!r} has no feature", name, known)
                )
        entry = found.setdefault(reference.name_to_use, (reference, {}))
        entry[1].update(dict.fromkeys(names))

    for reference in features:
        if reference.view in catalog.on_demand:
            for source in catalog.on_demand[reference.view].inputs:
                want(source)
        else:
            want(reference)
    return [(reference, list(names)) for reference, names in found.values()]


def key_types(catalog: Catalog, features: Sequence[FeatureRefPlan]) -> dict[str, str]:
    """Column of the labels -> value type of the join key that it holds."""
    return {
        reference.join_key_map.get(key.name, key.name): key.type
        for reference, _ in stored_views(catalog, features)
        for key in catalog.views[reference.view].join_keys
    }


def needed_columns(
    catalog: Catalog, features: Sequence[FeatureRefPlan], time: str
) -> dict[str, str]:
    """What labels need, with types: join keys, their time, inputs of on-demand views."""
    fields = [
        field
        for reference in features
        if reference.view in catalog.on_demand
        for field in catalog.on_demand[reference.view].request_fields
    ]
    keys = key_types(catalog, features)
    return {**keys, time: "UNIX_TIMESTAMP", **{f.name: f.type for f in fields}}


def titles(
    catalog: Catalog, features: Sequence[FeatureRefPlan], full_feature_names: bool
) -> list[tuple[str, str, str]]:
    """(column, alias, feature) of everything asked for, in the order asked."""
    out = []
    for reference in features:
        for name in reference.features or feature_names(catalog, reference.view):
            title = f"{reference.name_to_use}__{name}" if full_feature_names else name
            out.append((title, reference.name_to_use, name))
    return out


def check(
    catalog: Catalog, features: Sequence[FeatureRefPlan], labels: pa.Table, time: str,
    full_feature_names: bool = False, more: Sequence[str] = (),
) -> None:  # fmt: skip
    """Raises HeadwaterError for labels that cannot be joined, with what is wrong.

    more: further columns that will be made, such as label windows.
    """
    names = labels.column_names
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise HeadwaterError(f"the labels have {twice} twice; rename one of each")
    keys = key_types(catalog, features)
    missing = sorted(needed_columns(catalog, features, time).keys() - set(names))
    if missing:
        raise HeadwaterError(f"the labels lack {missing}; they have {sorted(names)}")
    _check_times(labels, time)
    for name, kind in keys.items():
        _check_key(labels[name], name, kind)
    made = [title for title, _, _ in titles(catalog, features, full_feature_names)]
    counts = Counter([*names, *more, *made])
    clash = sorted(n for n, count in counts.items() if count > 1)
    if clash:
        raise HeadwaterError(
            f"two columns would be called {clash[0]!r}; use full feature names, "
            "or rename it in the labels"
        )


def _check_times(labels: pa.Table, time: str) -> None:
    column = labels[time]
    if not pa.types.is_timestamp(column.type):
        raise HeadwaterError(f"{time} is {column.type}; it must be a timestamp (naive is UTC)")
    if column.null_count:
        raise HeadwaterError(f"{time} is null in {column.null_count} labels; drop or fill them")


def _check_key(column: pa.ChunkedArray, name: str, kind: str) -> None:
    if column.null_count:
        raise HeadwaterError(f"{name!r} is null in {column.null_count} labels; drop or fill them")
    wanted = arrow_type(kind)
    try:
        column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise HeadwaterError(
            f"{name!r} is {column.type} in the labels, and the views' key is {kind}: {error}"
        ) from error
