"""What `headwater status` shows: views against their objectives, partitions as workers see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from headwater.amounts import lasting, size, some
from headwater.quality.freshness import STAGES

Row = Mapping[str, Any]


def views_table(rows: Iterable[Row]) -> Table:
    table = Table("view", *(f"newest {stage}" for stage in STAGES), "age", "objective", "state")
    for row in rows:
        colour = {"fresh": "green", "stale": "red", "never loaded": "red"}.get(row["state"], "dim")
        if row["slo_seconds"] is None:
            colour = "dim"
        behind = f" (behind: {', '.join(row['behind'])})" if row["behind"] else ""
        table.add_row(
            row["feature_view"],
            *(_utc(row[f"{stage}_us"]) for stage in STAGES),
            lasting(row["age_seconds"]) if row["online_us"] else "-",
            lasting(row["slo_seconds"]) if row["slo_seconds"] else "-",
            f"[{colour}]{row['state']}[/]{behind}",
        )
    return table


def partitions_table(rows: Iterable[Row]) -> Table:
    table = Table()
    table.add_column("partition", no_wrap=True)
    for name in ("lag", "watermark", "events/s", "rejected", "state in memory", "committed"):
        table.add_column(name)
    for row in rows:
        rejected = ", ".join(f"{kind} {n:,}" for kind, n in sorted(row["rejected"].items()))
        lag = f"{row['lag_records']:,} ({lasting(row['lag_seconds'])})"
        behind = f"; {some(row['behind'], 'view')} behind" if row["behind"] else ""
        done = f"{row['committed']:,}" if row["committed"] is not None else "never"
        table.add_row(
            f"{row['topic']}-{row['partition']}",
            lag + behind + _ended(row),
            _utc(row["watermark_us"]),
            f"{row['events_per_second']:,.0f}",
            rejected or "0",
            f"{some(row['state_keys'], 'key')}, {size(row['state_bytes'])}",
            done,
        )
    return table


def _ended(row: Row) -> str:
    if row["running"]:
        return ""
    return "; stopped" if row["stopped"] else f" [red]{row['worker']} is gone[/]"


def _utc(us: int | None) -> str:
    if not us:
        return "never"
    return datetime.fromtimestamp(us // 1_000_000, UTC).isoformat(sep=" ")[:19]
