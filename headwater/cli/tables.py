"""What `headwater status` shows: views against their objectives, partitions as workers see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from headwater.catalog import Catalog
from headwater.online import ingest_status
from headwater.online.progress import Progress
from headwater.online.writer import OnlineWriter
from headwater.quality.freshness import STAGES

Row = Mapping[str, Any]
#: A worker speaks every second; one that was silent for so long is gone.
SILENT_SECONDS = 10.0


def partitions(catalog: Catalog, writer: OnlineWriter, now: float) -> list[dict[str, Any]]:
    """One row a (topic, partition) that a worker of the project has taken in.

    behind: how many of the views that read the topic are whole only up to an earlier offset than
    the worker has reached: they are being rebuilt, or wait for it.
    """
    progress = Progress(writer.client, catalog.project).all()
    known = {topic for stream in catalog.streams.values() for topic in stream.topics}
    rows = []
    for (topic, partition), status in sorted(ingest_status.read(writer).items()):
        if topic not in known:
            continue
        whole = [at for p, at in progress.items() if p[1:] == (topic, partition)]
        rows.append(
            {
                "topic": topic,
                "partition": partition,
                "worker": status.worker,
                "running": not status.stopped and now - status.updated_at < SILENT_SECONDS,
                "stopped": status.stopped,
                "position": status.position,
                "lag_records": status.lag_records,
                "lag_seconds": round(status.lag_seconds(now), 3),
                "watermark_us": status.watermark_us,
                "events_per_second": round(status.rate, 1),
                "applied": status.applied,
                "rejected": status.rejected,
                "behind": sum(at < (status.committed or 0) for at in whole),
                "state_keys": status.state_keys,
                "state_bytes": status.state_bytes,
                "committed": status.committed,
                "committed_at": status.committed_at,
            }
        )
    return rows


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
            f"{row['age_seconds']:,.0f} s" if row["online_us"] else "-",
            f"{row['slo_seconds']:,.0f} s" if row["slo_seconds"] else "-",
            f"[{colour}]{row['state']}[/]{behind}",
        )
    return table


def partitions_table(rows: Iterable[Row]) -> Table:
    table = Table()
    table.add_column("partition", no_wrap=True)
    for name in ("lag", "watermark", "events/s", "rejected", "state", "committed"):
        table.add_column(name)
    for row in rows:
        rejected = ", ".join(f"{kind} {n:,}" for kind, n in sorted(row["rejected"].items()))
        lag = f"{row['lag_records']:,} ({row['lag_seconds']:,.1f} s)"
        behind = f"; {row['behind']} views behind" if row["behind"] else ""
        done = f"{row['committed']:,}" if row["committed"] is not None else "never"
        table.add_row(
            f"{row['topic']}-{row['partition']}",
            lag + behind + _ended(row),
            _utc(row["watermark_us"]),
            f"{row['events_per_second']:,.0f}",
            rejected or "0",
            f"{row['state_keys']:,} keys, {row['state_bytes'] / 1e6:,.0f} MB",
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
