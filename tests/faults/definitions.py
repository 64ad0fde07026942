"""Feast definitions of the fault tests: all windows, keys, functions and ways of making a view."""

from datetime import timedelta

from feast import Entity, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Array, Bool, Float64, Int32, Int64, String

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
device = Entity(name="device", join_keys=["device_id"], value_type=ValueType.STRING)


def log(name: str) -> FileSource:
    return FileSource(
        name=f"{name}_log", path=f"data/log/{name}", file_format=DeltaFormat(),
        timestamp_field="at",
    )  # fmt: skip


#: Two topics into one source; late is what its delay says.
actions = KafkaSource(
    name="actions", topic="RUN-actions-a,RUN-actions-b", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at", created_timestamp_column="made", batch_source=log("actions"),
    watermark_delay_threshold=timedelta(hours=2),
    message_format=JsonFormat(
        "user_id bigint, device_id string, amount double, quantity int, label string, "
        "ok boolean, at timestamp, made timestamp"
    ),
)  # fmt: skip
#: No delay: late is what no window can use any more.
visits = KafkaSource(
    name="visits", topic="RUN-visits", kafka_bootstrap_servers="127.0.0.1:1",
    timestamp_field="at", batch_source=log("visits"),
    message_format=JsonFormat("user_id bigint, seconds double, page string, at timestamp"),
)  # fmt: skip

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
USER, DEVICE = Field(name="user_id", dtype=Int64), Field(name="device_id", dtype=String)


def aggregation(function: str, column: str, window: timedelta | None, slide: timedelta | None):
    length = "ever" if window is None else f"{int(window.total_seconds())}s"
    word = function.replace("(", "").replace(")", "").replace(".", "")
    return Aggregation(
        column=column, function=function, time_window=window, slide_interval=slide,
        name=f"{word}_{column}_{length}",
    )  # fmt: skip


TYPES = {"amount": Float64, "twice": Float64, "rest": Float64, "seconds": Float64,
         "quantity": Int32, "half": Int32, "label": String, "page": String, "ok": Bool}  # fmt: skip


def feature(a: Aggregation) -> Field:
    """The feature that an aggregation makes, as its declared type."""
    own = TYPES[a.column]
    if a.function in {"count", "count_distinct"}:
        own = Int64
    elif a.function in {"mean", "std", "var", "quantile(0.5)"}:
        own = Float64
    elif a.function == "sum":
        own = Int64 if own == Int32 else Float64
    elif a.function in {"last_3", "first_2"}:
        own = Array(own)
    return Field(name=a.name, dtype=own)


def windows(name, entities, source, aggregations, **code) -> StreamFeatureView:
    keys = [{"user": USER, "device": DEVICE}[entity.name] for entity in entities]
    return StreamFeatureView(
        name=name, entities=entities, source=source, timestamp_field="at",
        schema=[*keys, *map(feature, aggregations)], aggregations=aggregations, **code,
    )  # fmt: skip


NUMBERS = ["count", "sum", "mean", "min", "max", "std", "var", "first", "last",
           "count_distinct", "quantile(0.5)", "last_3", "first_2"]  # fmt: skip
TEXTS = ["count", "min", "max", "first", "last", "count_distinct", "last_3", "first_2"]

user_windows = windows(
    "user_windows", [user], actions,
    [
        *[aggregation(f, "amount", HOUR, MINUTE) for f in NUMBERS],
        *[aggregation(f, "quantity", 3 * HOUR, 7 * MINUTE) for f in NUMBERS],
        *[aggregation(f, "label", 6 * HOUR, None) for f in TEXTS],
        *[aggregation(f, "amount", None, None) for f in ["count", "sum", "last"]],
        aggregation("count", "ok", 20 * MINUTE, MINUTE / 4),
        aggregation("last", "ok", 20 * MINUTE, MINUTE / 4),
    ],
)  # fmt: skip
device_windows = windows(
    "device_windows", [device], actions,
    [aggregation(f, "amount", 2 * HOUR, 5 * MINUTE) for f in ["count", "sum", "max", "std"]],
)  # fmt: skip
pair_windows = windows(
    "pair_windows", [user, device], actions,
    [
        *[aggregation(f, "quantity", 4 * HOUR, HOUR) for f in ["sum", "min", "first"]],
        *[aggregation(f, "quantity", 10 * MINUTE, MINUTE / 60) for f in ["sum", "max", "last"]],
    ],
)  # fmt: skip
visit_windows = windows(
    "visit_windows", [user], visits,
    [
        *[aggregation(f, "seconds", HOUR, MINUTE) for f in ["count", "sum", "mean", "max"]],
        aggregation("count_distinct", "page", 90 * MINUTE, 10 * MINUTE),
    ],
)  # fmt: skip


def doubled(events):
    """Python mode: dictionaries of lists."""
    twice = [None if a is None else 2 * a for a in events["amount"]]
    return {"user_id": events["user_id"], "twice": twice}


def large(events):
    """Pandas mode: drops rows, and makes a column."""
    kept = events[events["amount"].fillna(0.0) >= 10.0]
    return kept[["device_id"]].assign(rest=kept["amount"] - 10.0)


def halved(events):
    """Pandas mode on whole numbers that have nulls, the key among them."""
    return events[["user_id"]].assign(half=events["quantity"] // 2)


# As Feast's decorator does: without it dill would keep the name of this module, not the code.
doubled.__module__ = large.__module__ = halved.__module__ = "__main__"

doubled_windows = windows(
    "doubled_windows", [user], actions,
    [aggregation(f, "twice", HOUR, MINUTE) for f in ["count", "sum", "min"]],
    mode="python", udf=doubled, udf_string="doubled",
)  # fmt: skip
large_windows = windows(
    "large_windows", [device], actions,
    [aggregation(f, "rest", HOUR, MINUTE) for f in ["count", "sum", "last"]],
    mode="pandas", udf=large, udf_string="large",
)  # fmt: skip
halved_windows = windows(
    "halved_windows", [user], actions,
    [aggregation(f, "half", HOUR, MINUTE) for f in ["count", "sum", "min", "last"]],
    mode="pandas", udf=halved, udf_string="halved",
)  # fmt: skip
user_latest = StreamFeatureView(
    name="user_latest",
    entities=[user],
    source=actions,
    timestamp_field="at",
    schema=[USER, Field(name="amount", dtype=Float64), Field(name="label", dtype=String)],
)
pair_latest = StreamFeatureView(
    name="pair_latest",
    entities=[user, device],
    source=actions,
    timestamp_field="at",
    schema=[USER, DEVICE, Field(name="amount", dtype=Float64)],
)
