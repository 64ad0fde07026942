"""A training set as an artefact: progress, cancel and resume, bounded memory, manifest, labels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from headwater.catalog import (
    AggregationPlan,
    BatchSourcePlan,
    Catalog,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    ServicePlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.errors import HeadwaterError
from headwater.offline.jobs import CancelledError, Job, read_set
from headwater.offline.manifest import Manifest
from headwater.offline.point_in_time import Past
from headwater.offline.spec import LabelWindow, Request, Spec, Status
from headwater.offline.training_set import build_request

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000
US = pa.timestamp("us", tz="UTC")
KEY = (JoinKeyPlan("id", "INT64"),)


def at(*hours: float) -> pa.Array:
    return pa.array([T0 + h * HOUR for h in hours], US)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A row view over Parquet, and a windowed view over a log of 400 events of 20 entities."""
    chance = np.random.default_rng(1)
    hours = np.sort(chance.uniform(0, 48, 400))
    events = pa.table(
        {
            "id": chance.integers(0, 20, 400),
            "amount": chance.normal(size=400),
            "ts": at(*hours.tolist()),
            "_topic": ["t"] * 400,
            "_partition": pa.array([0] * 400, pa.int32()),
            "_offset": np.arange(400),
            # Every tenth event arrived six hours late.
            "_arrived_at": at(*(hours + np.where(np.arange(400) % 10 == 0, 6, 0)).tolist()),
        }
    )
    write_deltalake(tmp_path / "log", events)
    rows = pa.table(
        {"id": np.arange(20).repeat(5), "score": np.arange(100) * 1.0,
         "ts": at(*np.tile([0, 5, 10, 20, 40], 20).tolist())}
    )  # fmt: skip
    pq.write_table(rows, tmp_path / "rows.parquet")
    plans = tuple(
        AggregationPlan(f"{f}_6h", "amount", f, 6 * HOUR_US, 1, 0.0, "DOUBLE",
                        "INT64" if f == "count" else "DOUBLE")
        for f in ("count", "sum", "max", "last")
    )  # fmt: skip
    fields = (FieldPlan("id", "INT64"), FieldPlan("amount", "DOUBLE"),
              FieldPlan("ts", "UNIX_TIMESTAMP"))  # fmt: skip
    stream = StreamSourcePlan("spend", ("t",), "", "json", fields, "ts",
                              log_path=str(tmp_path / "log"))  # fmt: skip
    windows = ViewPlan("windows", "window", KEY,
                       tuple(FieldPlan(p.name, p.output_type) for p in plans),
                       stream="spend", aggregations=plans)  # fmt: skip
    scores = ViewPlan("scores", "row", KEY, (FieldPlan("score", "DOUBLE"),), 12 * HOUR_US,
                      batch=BatchSourcePlan("rows", "parquet", str(tmp_path / "rows.parquet"),
                                            "ts"))  # fmt: skip
    service = ServicePlan(
        "both", (FeatureRefPlan("scores", ("score",)), FeatureRefPlan("windows", ()))
    )
    return Catalog(
        "p", "v1", "", "", streams={"spend": stream},
        views={"windows": windows, "scores": scores}, services={"both": service},
    )  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    chance = np.random.default_rng(2)
    labels = pa.table(
        {"id": chance.integers(0, 22, 300), "event_timestamp": at(*chance.uniform(0, 47, 300)),
         "note": [f"n{i}" for i in range(300)]}
    )  # fmt: skip
    pq.write_table(labels, tmp_path / "labels.parquet")
    return Spec(str(tmp_path / "labels.parquet"), str(tmp_path / "out.parquet"), "both")


def test_a_set_keeps_the_labels_order_and_leaves_a_manifest(catalog: Catalog, spec: Spec) -> None:
    told: list[Status] = []
    manifest = Job(catalog, spec, listen=told.append).run().data
    found = pq.read_table(spec.out)
    assert found["note"].to_pylist() == [f"n{i}" for i in range(300)]
    assert manifest["rows"] == 300
    assert manifest["null_counts"]["score"] == found["score"].null_count > 0
    assert manifest["profile"]["sum_6h"]["quantiles"]["0.5"] is not None
    group = pq.read_metadata(spec.out).row_group(0)
    written = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert written["note"].has_dictionary_page and not written["sum_6h"].has_dictionary_page
    assert manifest["sources"]["windows"][0]["delta_version"] == 0
    assert Manifest.read(Manifest.path(Path(spec.out))).data["id"] == manifest["id"]
    assert told[-1].state == "done"
    assert told[-1].done == told[-1].total
    assert {status.step for status in told} >= {"scores", "windows", "writing"}
    assert not Path(spec.out).with_name(".out.parquet.job").exists()


@pytest.mark.parametrize("as_of", ["event", "arrival"])
def test_values_do_not_depend_on_how_much_memory_there_is(
    catalog: Catalog, spec: Spec, as_of: Any
) -> None:
    spec = msgspec.structs.replace(spec, as_of=as_of)
    Job(catalog, spec).run()
    wanted = pq.read_table(spec.out)
    small = msgspec.structs.replace(spec, out=spec.out + ".small", rows_per_file=100)
    Job(catalog, small, memory=20_000).run()
    assert [p.name for p in sorted(Path(small.out).iterdir())] == [
        f"part-{i:05}.parquet" for i in range(3)
    ]
    assert read_set(Path(small.out)).equals(wanted)


def test_as_served_leaves_out_what_arrived_later(catalog: Catalog, spec: Spec) -> None:
    Job(catalog, spec).run()
    served = msgspec.structs.replace(spec, out=spec.out + ".served", as_of="arrival")
    Job(catalog, served).run()
    every, known = (pq.read_table(s.out)["count_6h"].to_numpy() for s in (spec, served))
    assert (known <= every).all()
    assert (known < every).sum() > 10


def test_a_stopped_job_goes_on_with_what_it_has(catalog: Catalog, spec: Spec) -> None:
    def stop(status: Status) -> None:
        if status.step == "windows":
            raise CancelledError("enough")

    first = Job(catalog, spec, listen=stop)
    with pytest.raises(CancelledError):
        first.run()
    assert not Path(spec.out).exists()
    steps: list[Status] = []
    second = Job(catalog, spec, listen=steps.append)
    assert second.run().data["id"] == first.status.id
    # The scores were there: their rows were not read again.
    assert max(s.done for s in steps if s.step == "scores") == 0
    assert pq.read_table(spec.out).num_rows == 300


def test_a_stopped_job_starts_over_where_a_file_has_changed(
    catalog: Catalog, spec: Spec, tmp_path: Path
) -> None:
    def stop(status: Status) -> None:
        if status.step == "windows":
            raise CancelledError("enough")

    first = Job(catalog, spec, listen=stop)
    with pytest.raises(CancelledError):
        first.run()
    rows = pq.read_table(tmp_path / "rows.parquet")
    doubled = pa.array(rows["score"].to_numpy() * 2)
    pq.write_table(rows.set_column(1, "score", doubled), tmp_path / "rows.parquet")
    assert Job(catalog, spec).run().data["id"] != first.status.id
    wanted = msgspec.structs.replace(spec, out=spec.out + ".wanted")
    Job(catalog, wanted).run()
    assert pq.read_table(spec.out).equals(pq.read_table(wanted.out))


def test_the_same_bytes_are_made_again_from_the_log_as_it_was(
    catalog: Catalog, spec: Spec, tmp_path: Path
) -> None:
    held = Job(catalog, spec).run()
    more = pa.table(
        {"id": [1], "amount": [1e6], "ts": at(1), "_topic": ["t"],
         "_partition": pa.array([0], pa.int32()), "_offset": [400], "_arrived_at": at(1)}
    )  # fmt: skip
    write_deltalake(tmp_path / "log", more, mode="append")
    assert held.gone(catalog) == []
    again = msgspec.structs.replace(spec, out=spec.out + ".again")
    made = Job(catalog, again, versions=held.versions).run()
    assert list(made.data["sha256"].values()) == list(held.data["sha256"].values())
    fresh = Job(catalog, msgspec.structs.replace(spec, out=spec.out + ".fresh")).run()
    assert list(fresh.data["sha256"].values()) != list(held.data["sha256"].values())


def test_a_version_whose_files_were_vacuumed_is_gone(
    catalog: Catalog, spec: Spec, tmp_path: Path
) -> None:
    held = Job(catalog, spec).run()
    table = DeltaTable(tmp_path / "log")
    table.delete("amount > 0")
    assert held.gone(catalog) == []
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert "1 of 1 files of version 0" in "; ".join(held.gone(catalog))


def test_what_is_gone_is_said(catalog: Catalog, spec: Spec, tmp_path: Path) -> None:
    held = Job(catalog, spec).run()
    pq.write_table(pq.read_table(tmp_path / "rows.parquet").slice(1), tmp_path / "rows.parquet")
    pq.write_table(pq.read_table(spec.entities).slice(1), spec.entities)
    other = msgspec.structs.replace(catalog, version="v2")
    gone = "; ".join(held.gone(other))
    assert "the catalogue was v1 and is v2" in gone
    assert "rows.parquet has changed" in gone
    assert "labels.parquet have changed" in gone


def built(catalog: Catalog, labels: pa.Table, past: Past = Past(), **more: Any) -> pa.Table:  # noqa: B008
    request = Request((FeatureRefPlan("windows", ("count_6h",)),), **more)
    return build_request(catalog, request, labels, past=past)


def test_a_label_counts_what_comes_after_and_waits_until_its_window_has_closed(
    catalog: Catalog, tmp_path: Path
) -> None:
    events = pq.read_table(next(p for p in (tmp_path / "log").glob("*.parquet")))
    mine = sorted(t for i, t in zip(events["id"].to_pylist(), events["ts"].to_pylist(),
                                    strict=True) if i == 3)  # fmt: skip
    newest = max(events["ts"].to_pylist())
    times = [mine[0], mine[0] + 2 * HOUR, newest - 6 * HOUR, newest - 6 * HOUR + HOUR / 60]
    labels = pa.table({"id": [3] * 4, "event_timestamp": pa.array(times, US)})
    window = LabelWindow.parse("next=windows:count(amount):6h")
    found = built(catalog, labels, label_windows=(window,))["next"].to_pylist()
    assert found[:3] == [sum(t < e <= t + 6 * HOUR for e in mine) for t in times[:3]]
    assert found[3] is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("next=nowhere:count():6h", "no feature view 'nowhere'"),
        ("next=windows:sum(nothing):6h", "no column 'nothing'"),
        ("next=windows:sum(amount)", "is no label window"),
        ("next=windows:product(amount):6h", "is no label window"),
    ],
)
def test_a_label_window_that_cannot_be_is_explained(
    catalog: Catalog, text: str, wrong: str
) -> None:
    labels = pa.table({"id": [3], "event_timestamp": at(1)})
    with pytest.raises(HeadwaterError, match=wrong):
        built(catalog, labels, label_windows=(LabelWindow.parse(text),))


def test_logged_values_are_used_as_they_are_and_the_rest_is_computed(
    catalog: Catalog, tmp_path: Path
) -> None:
    labels = pa.table({"id": [3, 4, 3], "event_timestamp": at(20, 20, 30)})
    computed = built(catalog, labels)["count_6h"].to_pylist()
    log = pa.table({"id": [3, 9], "__log_timestamp": at(20, 20), "windows__count_6h": [77, 78]})
    pq.write_table(log, tmp_path / "served.parquet")
    found = built(catalog, labels, bootstrap=str(tmp_path / "served.parquet"))["count_6h"]
    assert found.to_pylist() == [77, *computed[1:]]


def warnings_of(catalog: Catalog, labels: pa.Table) -> str:
    said: list[str] = []
    request = Request((FeatureRefPlan("scores", ("score",)),))
    build_request(catalog, request, labels, past=Past(warn=said.append))
    return "\n".join(said)


def test_leaks_are_warned_about_with_figures(catalog: Catalog, tmp_path: Path) -> None:
    row_times = pa.table({"id": [1, 2, 3, 4], "event_timestamp": at(5, 5, 10, 11)})
    assert "3 of 4 labels (75%) get a row of exactly their own time" in warnings_of(
        catalog, row_times
    )
    event = pq.read_table(next((tmp_path / "log").glob("*.parquet"))).slice(7, 1)
    said: list[str] = []
    own_event = pa.table({"id": event["id"], "event_timestamp": event["ts"]})
    built(catalog, own_event, Past(warn=said.append))
    assert "1 of 1 labels (100%) get an event of exactly their own time" in said[0]
    ahead = pa.table({"id": [1, 2], "event_timestamp": at(41, 39)})
    assert "1 of 2 labels (50%) lie after its newest data (2026-01-02T16" in warnings_of(
        catalog, ahead
    )
    old = pa.table({"id": [1, 2], "event_timestamp": at(39, 38)})
    assert "2 of 2 labels (100%) have only rows older than its ttl of 12.00 h" in warnings_of(
        catalog, old
    )
    outcome = pa.table({"id": [1], "event_timestamp": at(6), "happened_at": at(5.5)})
    assert "'event_timestamp' after their 'happened_at'" in warnings_of(catalog, outcome)
    future = pa.table({"id": [1], "event_timestamp": pa.array([datetime(2300, 1, 1)], US)})
    assert "after now" in warnings_of(catalog, future)
    assert warnings_of(catalog, pa.table({"id": [1], "event_timestamp": at(6)})) == ""


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"service": "bth"}, "did you mean 'both'"),
        ({"service": "", "features": ("windows:cuont_6h",)}, "did you mean 'count_6h'"),
        ({"service": "", "features": ("window:x",)}, "did you mean 'windows'"),
        ({"features": ("windows:*",)}, "one of them"),
        ({"label_windows": ("x=windws:count():1h",)}, "did you mean 'windows'"),
        ({"service": "", "features": ("windows",)}, "is no 'view:feature'"),
    ],
)
def test_what_is_unknown_is_named_with_the_nearest_name(
    catalog: Catalog, spec: Spec, change: Any, wrong: str
) -> None:
    with pytest.raises(HeadwaterError, match=wrong):
        Job(catalog, msgspec.structs.replace(spec, **change)).run()


def test_a_history_narrower_than_its_log_counts_before_the_log_begins(
    catalog: Catalog, tmp_path: Path
) -> None:
    history = pa.table(
        {"id": pa.array([3, 3, 3], pa.int32()), "amount": pa.array([7.0, 8.0, 9.0], pa.float32()),
         "ts": at(-5, -3, 40)}
    )  # fmt: skip
    pq.write_table(history, tmp_path / "history.parquet")
    stream = msgspec.structs.replace(
        catalog.streams["spend"],
        history=BatchSourcePlan("h", "parquet", str(tmp_path / "history.parquet"), "ts"),
    )
    rows = ViewPlan("rows", "row", KEY, (FieldPlan("amount", "DOUBLE"),), stream="spend")
    both = msgspec.structs.replace(
        catalog, streams={"spend": stream}, views={**catalog.views, "rows": rows}
    )
    labels = pa.table({"id": [3, 3, 3], "event_timestamp": at(-4, -1, -6)})
    assert built(both, labels)["count_6h"].to_pylist() == [1, 2, 0]
    request = Request((FeatureRefPlan("rows", ("amount",)),))
    assert build_request(both, request, labels)["amount"].to_pylist() == [7.0, 8.0, None]
    # The history's row at 40 h lies after the log's first event: the log alone counts there.
    late = pa.table({"id": [3], "event_timestamp": at(47)})
    found = build_request(both, request, late)["amount"].to_pylist()
    assert (
        found
        == build_request(msgspec.structs.replace(both, streams=catalog.streams), request, late)[
            "amount"
        ].to_pylist()
    )


def test_rows_whose_entities_no_label_has_give_typed_nulls(catalog: Catalog) -> None:
    labels = pa.table({"id": [999], "event_timestamp": at(20)})
    request = Request((FeatureRefPlan("scores", ("score",)), FeatureRefPlan("windows", ())))
    found = build_request(catalog, request, labels)
    assert found["score"].to_pylist() == [None]
    assert found["score"].type == pa.float64()
    assert found["count_6h"].to_pylist() == [0]
    assert found["sum_6h"].to_pylist() == [None]
    empty = build_request(catalog, request, labels.slice(1))
    assert empty.num_rows == 0
    assert empty.schema == found.schema
