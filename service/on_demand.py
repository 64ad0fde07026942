"""On-demand views over the columns of one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.catalog import FeatureRefPlan, OnDemandPlan
from headwater.codec import key_values
from headwater.errors import BadRequestError, HeadwaterError
from headwater.on_demand import Column, plain_columns
from headwater.online.columns import ViewColumns
from service.answer import ODD
from service.requests import FeaturePlan, ViewRead


class Computed:
    """One on-demand view of a plan, and where its function's inputs are found."""

    def __init__(self, view: OnDemandPlan, plan: FeaturePlan) -> None:
        self._view, self._keys, self._asked = view, plan.echoed, plan.request_types
        #: Of each feature of the inputs its read and place there, its type, and its names.
        self._features: list[tuple[int, int, str, list[str]]] = []
        for source in view.inputs:
            for number, read in enumerate(plan.reads):
                if not _is_of(read, source):
                    continue
                types = {field.name: field.type for field in read.reader.view.features}
                prefixes = dict.fromkeys(("", f"{source.view}__", f"{read.alias}__"))
                for at, feature in enumerate(read.features):
                    if source.features and feature not in source.features:
                        continue  # the request asks for it; another input may have its name
                    names = [prefix + feature for prefix in prefixes]
                    self._features.append((number, at, types[feature], names))

    def columns(
        self, found: Sequence[ViewColumns], entities: Mapping[str, Sequence[Any]], n: int
    ) -> dict[str, list[Any]]:
        """The view's features as columns [n], by name. Raises BadRequestError naming the view."""
        try:
            return plain_columns(self._view, self._inputs(found, entities), n)
        except HeadwaterError as error:
            raise BadRequestError(str(error)) from error

    def _inputs(
        self, found: Sequence[ViewColumns], entities: Mapping[str, Sequence[Any]]
    ) -> dict[str, Column]:
        """What the function gets: keys, its inputs' features, and what the request gives."""
        columns = {
            name: Column(kind, key_values(kind, entities[name]))
            for name, kind in self._keys.items()
            if name in entities
        }
        for read, at, kind, names in self._features:
            column = Column(kind, _plain(kind, found[read].plain(at)))
            for name in names:
                columns[name] = column
        for name, kind in self._asked.items():
            columns[name] = Column(kind, _plain(kind, entities[name]))
        return columns


def _is_of(read: ViewRead, source: FeatureRefPlan) -> bool:
    """Whether a read is that of an input: one alias may be read by several keys."""
    keys = [key.name for key in read.reader.view.join_keys]
    columns = tuple(source.join_key_map.get(key, key) for key in keys)
    return (read.alias, read.reader.view.name, read.columns) == (
        source.name_to_use, source.view, columns,
    )  # fmt: skip


def _plain(kind: str, values: Sequence[Any]) -> Sequence[Any]:
    """With what is stored as Feast's messages as JSON has it."""
    if kind not in ODD:
        return values
    from service.odd_values import to_json  # protobuf: not at the start

    return [None if value is None else to_json(value, kind) for value in values]
