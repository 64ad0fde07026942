"""What serving does with values past their objectives, by a view's Feast tags. Pure.

On a view: `past_freshness` is for a view whose newest event is older than its `freshness_slo`,
`past_served_age` for values that are themselves older than its `max_served_age`. Each is one of
ACTIONS. `default`, on a field or on a view for all of its fields, is what "default" puts.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import orjson

from headwater.catalog import FieldPlan, ViewPlan
from headwater.quality.objectives import Mistake, parse_duration
from headwater.times import micros

#: serve: as it is, only counted; null: OUTSIDE_MAX_AGE; default: what the tag `default` says;
#: refuse: the request fails.
Action = Literal["serve", "null", "default", "refuse"]
ACTIONS: tuple[str, ...] = get_args(Action)
#: Tags that ask for an action, and the objective of each.
BUDGET_TAGS = {"past_freshness": "freshness_slo", "past_served_age": "max_served_age"}


class Budget(NamedTuple):
    """One objective that is enforced. `tag` is of BUDGET_TAGS; defaults: by feature, plain."""

    tag: str
    limit_us: int
    action: Action
    defaults: Mapping[str, Any]

    @property
    def replaces(self) -> bool:
        """Whether something else is served in place of what is held."""
        return self.action in {"null", "default"}


def budgets(view: ViewPlan) -> list[Budget]:
    """The budgets of a view; those that make no sense are left out (`budget_mistakes`)."""
    return _read(view)[0]


def budget_mistakes(view: ViewPlan) -> list[Mistake]:
    """The view's tags of budgets that make no sense, each with what would."""
    return _read(view)[1]


def _read(view: ViewPlan) -> tuple[list[Budget], list[Mistake]]:
    found: list[Budget] = []
    wrong: list[Mistake] = []
    for tag, objective in BUDGET_TAGS.items():
        action = view.tags.get(tag, "").strip()
        limit = parse_duration(view.tags.get(objective, ""))
        if not action:
            continue
        if action not in ACTIONS:
            told = f"tag {tag} of view {view.name!r} is {action!r}; it is one of "
            wrong.append(Mistake("", told + ", ".join(ACTIONS)))
        elif not limit:
            told = f"tag {tag} of view {view.name!r} has nothing to hold it to; give "
            wrong.append(Mistake("", told + f"{objective} as well"))
        else:
            defaults, mistakes = _defaults(view, tag) if action == "default" else ({}, [])
            wrong += [mistake for mistake in mistakes if mistake not in wrong]
            if not mistakes:
                kind: Any = action
                found.append(Budget(tag, round(limit * 1e6), kind, defaults))
    return found, wrong


def _defaults(view: ViewPlan, tag: str) -> tuple[dict[str, Any], list[Mistake]]:
    found: dict[str, Any] = {}
    wrong: list[Mistake] = []
    for field in view.features:
        text = field.tags.get("default", view.tags.get("default"))
        where = f"feature {view.name}:{field.name}"
        if text is None:
            told = f"{where} has no tag default, which {tag}=default of its view puts"
            wrong.append(Mistake(field.name, told))
            continue
        try:
            found[field.name] = default_value(field, text)
        except (ValueError, OverflowError):
            told = f"tag default of {where} is {text!r}, which is no {field.type}"
            wrong.append(Mistake(field.name, told))
    return found, wrong


def default_value(field: FieldPlan, text: str) -> Any:
    """The plain value of a tag's text: a list is JSON, bytes are base64, a time is ISO 8601.

    Raises ValueError for what is no value of the field's type.
    """
    element = field.type.removesuffix("_LIST")
    read = _READERS.get(element)
    if read is None:
        raise ValueError(field.type)
    if element == field.type:
        return read(text)
    values = orjson.loads(text)
    if not isinstance(values, list):
        raise ValueError(text)
    return [read(v if isinstance(v, str) else orjson.dumps(v).decode()) for v in values]


def _whole(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not -(1 << bits) <= value < 1 << bits:
            raise ValueError(text)
        return value

    return read


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _bool(text: str) -> bool:
    value = {"true": True, "false": False}.get(text.strip().lower())
    if value is None:
        raise ValueError(text)
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "INT32": _whole(31), "INT64": _whole(63), "DOUBLE": _float, "STRING": str,
    "FLOAT": lambda text: float(np.float32(_float(text))), "BOOL": _bool,
    "UNIX_TIMESTAMP": micros, "BYTES": lambda text: base64.b64decode(text, validate=True),
}  # fmt: skip
