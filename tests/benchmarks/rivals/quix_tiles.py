"""Quix Streams: tumbling windows over a topic's prefix, written to another topic.

Runs in an environment of its own (quix.txt):

    python quix_tiles.py SERVERS TOPIC OUTPUT EVENTS TILE_MS GRACE_MS FOLDER

FOLDER takes RocksDB's state, and `done`: the number of events taken in so far.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

servers, source, output = sys.argv[1:4]
total, tile_ms, grace_ms = map(int, sys.argv[4:7])
folder = Path(sys.argv[7])
progress = (folder / "done").open("w")
seen = 0


def event_time(value: Any, headers: Any, timestamp: int, kind: Any) -> int:
    """The event's time; counts it as well, and ends the run with the last wanted one."""
    global seen
    seen += 1
    if seen % 2_000 == 0 and seen < total:
        progress.seek(0)
        progress.write(f"{seen}\n")
        progress.flush()
    if seen == total:
        app.stop()
    return int(value["at"])


app = Application(
    broker_address=servers,
    consumer_group=uuid.uuid4().hex,
    auto_offset_reset="earliest",
    state_dir=folder / "state",
    auto_create_topics=True,
    loglevel="WARNING",
)
orders = app.topic(source, value_deserializer="json", timestamp_extractor=event_time)
frame = app.dataframe(orders)
frame = (
    frame.tumbling_window(tile_ms, grace_ms=grace_ms)
    .agg(
        count=Count("amount"), total=Sum("amount"), mean=Mean("amount"),
        least=Min("amount"), most=Max("amount"),
    )
    .final(closing_strategy="partition")
)  # fmt: skip
frame.to_topic(app.topic(output, value_serializer="json"))
app.run()
progress.seek(0)
progress.write(f"{total}\n")  # committed and flushed
progress.flush()
