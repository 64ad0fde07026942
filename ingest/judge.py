"""What decides about an event: its time against its record's and its partition's watermark. Pure.

Nothing here knows the wall clock: whoever reads a partition again decides the same of each event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from headwater.times import NO_TIME
from headwater.windows import Bool, Int64

#: (position of the message among those given, kind, reason)
Rejected = tuple[int, str, str]


class Verdict(NamedTuple):
    """accepted: positions of the events that count. watermark: int64 [events], at each event.

    A rejected event leaves the watermark where it is. rejected: (position, kind, reason).
    """

    accepted: Int64
    watermark: Int64
    rejected: list[Rejected]


def judge(
    ts: Int64,
    record_us: Int64,
    watermark: int,
    max_future_us: int,
    is_late: Callable[[Int64, Int64], Bool],
) -> Verdict:
    """Judge events in offset order; all times in microseconds.

    ts: event times [n]. record_us: when Kafka got each record [n]; negative where it does not
    say. watermark: the partition's before them. is_late: (ts, watermark at each) -> [n].
    """
    ahead = (ts - record_us > max_future_us) & (record_us >= 0)
    marks = np.maximum.accumulate(np.where(ahead, NO_TIME, ts)) if len(ts) else ts
    marks = np.maximum(marks, watermark)
    late = is_late(ts, marks) & ~ahead
    rejected: list[Rejected] = [
        (
            int(i),
            "future",
            f"its event time {_utc(ts[i])} is ahead of its record's time {_utc(record_us[i])} "
            f"by more than {max_future_us / 1e6:g} s",
        )
        for i in np.flatnonzero(ahead)
    ]
    rejected += [
        (
            int(i),
            "late",
            f"its event time {_utc(ts[i])} is behind what its partition's watermark "
            f"{_utc(marks[i])} allows",
        )
        for i in np.flatnonzero(late)
    ]
    return Verdict(np.flatnonzero(~ahead & ~late), marks, rejected)


def _utc(us: int) -> str:
    return f"{np.datetime64(int(us), 'us')}Z"
