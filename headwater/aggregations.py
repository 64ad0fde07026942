"""Aggregations as definitions spell them, to plans: functions, hops and types. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from headwater.catalog import AggregationPlan, FieldPlan, column_kind
from headwater.errors import DefinitionError

NUMERIC_ONLY = {"sum", "mean", "std", "var", "quantile"}
FUNCTIONS = NUMERIC_ONLY | {"count", "min", "max", "first", "last", "count_distinct"}
ALIASES = {
    "avg": "mean",
    "stddev": "std",
    "stddev_samp": "std",
    "var_samp": "var",
    "variance": "var",
    "nunique": "count_distinct",
    "approx_count_distinct": "count_distinct",
    "median": "quantile(0.5)",
}
HOPS_US = [n * 1_000_000 for n in (86400, 21600, 3600, 900, 300, 60, 15, 5, 1)]


class Wanted(NamedTuple):
    """An aggregation as it is asked for; times in microseconds, None where not given."""

    name: str
    function: str
    column: str
    window_us: int | None
    slide_us: int | None = None
    tiling_us: int | None = None


def plan_aggregation(
    view: str, wanted: Wanted, types: Mapping[str, str], source: str, has_udf: bool,
    field: FieldPlan | None,
) -> tuple[AggregationPlan, FieldPlan]:  # fmt: skip
    """The plan of an aggregation and its feature; `types` are the columns of its source.

    view: what messages call the view. field: the feature as it is declared, if it is. Raises
    DefinitionError for a function or column that is none.
    """
    function, parameter = parse_function(view, wanted.function)
    if wanted.column in {"", "*"} and function == "count":
        column_type = "INT64"
    elif wanted.column in types:
        column_type = types[wanted.column]
    elif has_udf:
        column_type = "DOUBLE"  # a udf made the column; numbers are its likely use
    else:
        raise DefinitionError(
            view,
            f"it aggregates {wanted.column!r}, which the source {source!r} does not have",
            f"Columns: {', '.join(sorted(types))}",
        )
    if function in NUMERIC_ONLY and column_kind(column_type) == "object":
        raise DefinitionError(
            view,
            f"{function} of {wanted.column!r} needs numbers, and it is a {column_type}",
            "Use count, count_distinct, first, last, min or max",
        )
    output = field.type if field else natural_type(function, column_type)
    plan = AggregationPlan(
        wanted.name, wanted.column, function, wanted.window_us or None,
        hop(wanted.window_us, wanted.slide_us, wanted.tiling_us), parameter, column_type, output,
    )  # fmt: skip
    return plan, field or FieldPlan(wanted.name, output)


def hop(window: int | None, slide: int | None, tiling: int | None) -> int:
    """How far a window moves on at once."""
    if window is None or not window:
        return HOPS_US[-1]
    if slide and slide < window:
        return slide
    return tiling or next((step for step in HOPS_US if step * 60 <= window), HOPS_US[-1])


def parse_function(view: str, text: str) -> tuple[str, float]:
    """A function's name and parameter. Raises DefinitionError for what is none."""
    text = text.lower().strip()
    text = ALIASES.get(text, text)
    if text in FUNCTIONS - {"quantile"}:
        return text, 0.0
    ends = re.fullmatch(r"(last|first)_(?:n\()?(\d+)\)?", text)
    if ends and int(ends[2]) > 0:
        return f"{ends[1]}_n", float(ends[2])
    quantile = re.fullmatch(r"(?:quantile|percentile|approx_percentile)\(([\d.]+)\)", text)
    short = re.fullmatch(r"p(\d{1,2})", text)
    if quantile or short:
        q = float(quantile[1]) if quantile else int(short[1]) / 100 if short else 0.0
        q = q / 100 if q >= 1 else q
        if 0 < q < 1:
            return "quantile", q
    raise DefinitionError(
        view,
        f"there is no aggregation {text!r}",
        f"Use one of {', '.join(sorted(FUNCTIONS - {'quantile'}))}, quantile(0.9), last_3, first_3",
    )


def natural_type(function: str, column_type: str) -> str:
    """The type of a feature that no schema declares."""
    if function in {"count", "count_distinct"}:
        return "INT64"
    if function in {"mean", "std", "var", "quantile"}:
        return "DOUBLE"
    if function in {"last_n", "first_n"}:
        return f"{column_type}_LIST"
    if function == "sum":
        return "INT64" if column_kind(column_type) == "int" else "DOUBLE"
    return column_type
