"""The profile of a view's past: what each feature held, in one pass over its columns."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headwater.catalog import Catalog, ViewPlan
from headwater.offline.scan import open_view
from headwater.offline.sources import EVENT
from headwater.quality.profiles import ColumnProfile


def profile_view(catalog: Catalog, view: ViewPlan, limit: int | None = None) -> dict[str, Any]:
    """Rows, first and last event time (microseconds), and each feature's profile.

    Of a windowed view, its columns before the windows. limit: the first rows only. Raises
    HeadwaterError where the view's past cannot be read.
    """
    scan = open_view(catalog, view)
    names = list(view.feature_names)
    if view.kind == "window":
        names = sorted({a.column for a in view.aggregations if a.column not in {"", "*"}})
    columns = {name: ColumnProfile() for name in names}
    times, rows = ColumnProfile(), 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for batch in scan.batches([*names, EVENT]):
            batch = batch.slice(0, None if limit is None else limit - rows)
            rows += batch.num_rows
            adding = [
                threads.submit(profile.add, batch.column(i))
                for i, profile in enumerate([*columns.values(), times])
            ]
            for done in adding:
                done.result()
            if limit is not None and rows >= limit:
                break
    found = times.result()
    return {
        "view": view.name,
        "rows": rows,
        "first_event_us": int(found["min"]) if rows else None,
        "last_event_us": int(found["max"]) if rows else None,
        "features": {name: profile.result() for name, profile in columns.items()},
    }
