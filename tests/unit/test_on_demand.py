"""What an on-demand view's function sees and makes is the same online and offline."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import dill
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from headwater.arrow import array_of, arrow_type
from headwater.catalog import (
    Catalog,
    CodeMode,
    CodePlan,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    OnDemandPlan,
    ViewPlan,
)
from headwater.errors import HeadwaterError
from headwater.on_demand import Column, arrow_columns, plain_columns
from headwater.online.columns import ViewColumns
from service.on_demand import Computed
from service.requests import Planner

NOON, ORDER = datetime(2024, 1, 1, 12, tzinfo=UTC), uuid.UUID(int=7, version=4)
NOON_US = 1_704_110_400_000_000
#: By type: plain values, the texts that Arrow has where it has no type, what a function sees.
SEEN: dict[str, tuple[Any, Any, Any]] = {
    "UNIX_TIMESTAMP": (NOON_US, None, NOON),
    "UNIX_TIMESTAMP_LIST": ([NOON_US], None, [NOON]),
    "STRING_SET": (["a", "b"], None, {"a", "b"}),
    "INT64_LIST": ([1, 2], None, [1, 2]),
    "UUID": (str(ORDER), None, ORDER),
    "DECIMAL": ("12.50", None, Decimal("12.50")),
    "JSON": ('{"k":[1]}', None, {"k": [1]}),
    "MAP": ({"a": 1}, '{"a":1}', {"a": 1}),
    "MAP_LIST": ([{"a": 1}], ['{"a":1}'], [{"a": 1}]),
    "VALUE_LIST": ([[1], [2, 3]], ["[1]", "[2,3]"], [[1], [2, 3]]),
    "BYTES": (b"\0", None, b"\0"),
    "BOOL": (True, None, True),
    "INT32": (5, None, 5),
}


def view(
    function: Callable[[Any], Any], kinds: dict[str, str], mode: CodeMode = "python",
    singleton: bool = False,
) -> OnDemandPlan:  # fmt: skip
    fields = tuple(FieldPlan(name, kind) for name, kind in kinds.items())
    code = CodePlan("f", mode, dill.dumps(function, recurse=True))
    return OnDemandPlan("computed", fields, (), (), code, singleton)


def both(plan: OnDemandPlan, kind: str, values: list[Any], texts: list[Any]) -> list[list[Any]]:
    """The feature `y` of an input `x`, online and offline."""
    n = len(values)
    online = plain_columns(plan, {"x": Column(kind, values)}, n)["y"]
    offline = arrow_columns(plan, {"x": Column(kind, array_of(texts, kind))}, n)["y"]
    return [online, offline.to_pylist()]


@pytest.mark.parametrize("kind", SEEN)
def test_a_python_function_sees_pythons_values(kind: str) -> None:
    plain, text, expected = SEEN[kind]

    def told(inputs: dict[str, list[Any]]) -> dict[str, list[str]]:
        names = [repr(sorted(v) if isinstance(v, set) else v) for v in inputs["x"]]
        return {"y": [f"{type(v).__name__} {n}" for v, n in zip(inputs["x"], names, strict=True)]}

    want = sorted(expected) if isinstance(expected, set) else expected
    says = [f"{type(expected).__name__} {want!r}", "NoneType None"]
    texts = [plain if text is None else text, None]
    assert both(view(told, {"y": "STRING"}), kind, [plain, None], texts) == [says, says]


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("DOUBLE", [None], "float64"),
        ("INT64", [None, 1], "float64"),
        ("INT64", [2, 1], "int64"),
        ("UNIX_TIMESTAMP", [None], "datetime64[us, UTC]"),
        ("UNIX_TIMESTAMP", [NOON_US], "datetime64[us, UTC]"),
        ("FLOAT", [0.5], "float32"),
    ],
)
def test_a_frames_column_has_its_types_dtype(kind: str, values: list[Any], dtype: str) -> None:
    """One entity without a value gave a column of objects, which do not add up."""

    def told(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(y=str(frame["x"].dtype))

    plan = view(told, {"y": "STRING"}, "pandas")
    assert both(plan, kind, values, values) == [[dtype] * len(values)] * 2


@pytest.mark.parametrize(
    ("kind", "made", "plain"),
    [
        ("UNIX_TIMESTAMP", NOON, NOON_US),
        ("UNIX_TIMESTAMP", NOON.replace(tzinfo=None), NOON_US),
        ("UNIX_TIMESTAMP", pd.Timestamp(NOON), NOON_US),
        ("UNIX_TIMESTAMP", np.datetime64("2024-01-01T12:00"), NOON_US),
        ("UNIX_TIMESTAMP", date(2024, 1, 1), NOON_US - 43_200_000_000),
        ("UNIX_TIMESTAMP", 1_704_110_400, NOON_US),
        ("UNIX_TIMESTAMP", pd.NaT, None),
        ("UNIX_TIMESTAMP_LIST", [NOON], [NOON_US]),
        ("DOUBLE", 3, 3.0),
        ("DOUBLE", float("nan"), None),
        ("DOUBLE", Decimal("0.5"), 0.5),
        ("FLOAT", 0.1, float(np.float32(0.1))),
        ("INT64", 3.0, 3),
        ("INT32", np.int64(3), 3),
        ("BOOL", np.bool_(True), True),
        ("UUID", ORDER, str(ORDER)),
        ("DECIMAL", Decimal("1.50"), "1.50"),
        ("JSON", {"a": [1]}, '{"a":[1]}'),
        ("STRING_SET", {"a"}, ["a"]),
        ("DOUBLE_LIST", np.array([1, 2]), [1.0, 2.0]),
    ],
)
def test_what_a_function_makes_is_of_its_features_type(kind: str, made: Any, plain: Any) -> None:
    online, offline = both(view(lambda _: {"y": [made]}, {"y": kind}), "INT64", [1], [1])
    assert online == [plain]
    assert type(online[0]) is type(plain)
    assert offline == array_of([plain], kind).to_pylist()


@pytest.mark.parametrize(
    ("kind", "made"),
    [("INT64", 1.5), ("INT32", 2**31), ("STRING", 5), ("DOUBLE", "x"), ("MAP", {1: 2}),
     ("UNIX_TIMESTAMP", "soon"), ("UUID", "x"), ("BYTES", "x"), ("DOUBLE_LIST", 0.5),
     ("INT64", math.inf), ("BOOL", 2)],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["python", "pandas"])
def test_a_value_of_another_type_is_told_of(kind: str, made: Any, mode: CodeMode) -> None:
    def python(_: Any) -> dict[str, list[Any]]:
        return {"y": [made]}

    def pandas(_: Any) -> pd.DataFrame:
        return pd.DataFrame({"y": [made]})

    plan = view(python if mode == "python" else pandas, {"y": kind}, mode)
    for make in (plain_columns, arrow_columns):
        with pytest.raises(HeadwaterError, match=f"'computed' gave .* for 'y', which is no {kind}"):
            make(plan, {"x": Column("INT64", pa.array([1]))}, 1)


def test_what_a_function_changes_in_place_changes_nothing_else() -> None:
    def fill(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        inputs["x"][0], inputs["m"][0]["a"] = 0, 2
        return {"y": inputs["x"]}

    given: dict[str, Column] = {"x": Column("INT64", [None]), "m": Column("MAP", [{"a": 1}])}
    assert plain_columns(view(fill, {"y": "INT64"}), given, 1) == {"y": [0]}
    assert [column.values for column in given.values()] == [[None], [{"a": 1}]]


def test_a_singleton_may_return_a_list_of_its_value() -> None:
    """As the examples of Feast do."""

    def one(row: dict[str, Any]) -> dict[str, Any]:
        return {"y": [row["x"]], "z": [[row["x"], 1.0]], "w": [row["x"]]}

    kinds = {"y": "DOUBLE", "z": "DOUBLE_LIST", "w": "DOUBLE_LIST"}
    made = plain_columns(view(one, kinds, singleton=True), {"x": Column("DOUBLE", [0.5, 2.0])}, 2)
    assert made == {"y": [0.5, 2.0], "z": [[0.5, 1.0], [2.0, 1.0]], "w": [[0.5], [2.0]]}


def test_the_number_of_values_is_told() -> None:
    plan = view(lambda _: {"y": [1, 2, 3]}, {"y": "INT64"})
    with pytest.raises(HeadwaterError, match="gave not 2 values: \\['y'\\]"):
        plain_columns(plan, {"x": Column("INT64", [1, 2])}, 2)
    one = view(lambda _: {"y": 5}, {"y": "INT64"})
    assert plain_columns(one, {"x": Column("INT64", [1])}, 1) == {"y": [5]}
    with pytest.raises(HeadwaterError, match="a int is no list of 2 values"):
        plain_columns(one, {"x": Column("INT64", [1, 2])}, 2)


def test_arrow_columns_have_arrows_types() -> None:
    made = arrow_columns(
        view(lambda f: f.assign(y=f["x"] * 2), {"y": "INT32"}, "pandas"),
        {"x": Column("INT64", pa.array([1, None]))}, 2,
    )  # fmt: skip
    assert made["y"].type == arrow_type("INT32")
    assert made["y"].to_pylist() == [2, None]


def test_a_feature_that_is_asked_for_besides_takes_no_inputs_place() -> None:
    """Training sets never give a function what is none of its inputs."""

    def named(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"y": [f"{'b__whole' in inputs} {w}" for w in inputs["whole"]]}

    key = (JoinKeyPlan("user", "INT64"),)
    views = {
        name: ViewPlan(name, "row", key, (FieldPlan("whole", "INT64"), FieldPlan("spare", "INT64")))
        for name in ("a", "b")
    }
    inputs = (FeatureRefPlan("a", ("whole",)), FeatureRefPlan("b", ("spare",)))
    made = msgspec.structs.replace(view(named, {"y": "STRING"}), inputs=inputs)
    catalog = Catalog("p", "1", "", "", views=views, on_demand={"computed": made})
    plan = Planner(catalog).plan(None, ("computed:y", "b:whole"), True)
    found = []
    for read in plan.reads:
        values = {"whole": 7 if read.alias == "a" else 1_000, "spare": 5}
        lists = {at: [values[feature]] for at, feature in enumerate(read.features)}
        found.append(ViewColumns((), lists, None, [1]))
    assert Computed(made, plan).columns(found, {"user": [1]}, 1) == {"y": ["False 7"]}
