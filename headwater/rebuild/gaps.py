"""Where the state of views in Redis is behind their logs, or without their histories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headwater.catalog import Catalog, StreamSourcePlan, ViewPlan
from headwater.codec import key_prefix
from headwater.errors import HeadwaterError
from headwater.offline.replay import LogReader, count_history
from headwater.online.progress import Place, Progress, history
from headwater.times import NO_TIME

#: A history counts before the log's first event time, its cut: this while the log has no event.
NO_CUT = 2**61


class Gap(NamedTuple):
    """What a view's state lacks: offsets [held, end) of a partition, or its history up to `end`."""

    view: str
    place: Place
    held: int | None
    end: int

    @property
    def is_history(self) -> bool:
        return not self.place.topic


def stream_views(catalog: Catalog, names: Iterable[str] | None = None) -> list[ViewPlan]:
    """The views whose state comes from a Kafka source; of these the named ones.

    Raises HeadwaterError for a name that is none of them.
    """
    found = {v.name: v for _, v in sorted(catalog.views.items()) if v.stream and v.online}
    wanted = list(found) if names is None else list(names)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        known = ", ".join(found) or "none"
        raise HeadwaterError(f"no online view of a Kafka source: {unknown}; there are: {known}")
    return [found[name] for name in wanted]


def by_stream(
    catalog: Catalog, views: Sequence[ViewPlan]
) -> list[tuple[StreamSourcePlan, list[ViewPlan]]]:
    """The views by the Kafka source that feeds them."""
    found: dict[str, list[ViewPlan]] = {}
    for view in views:
        found.setdefault(view.stream, []).append(view)
    return [(catalog.streams[name], members) for name, members in sorted(found.items())]


def history_cut(stream: StreamSourcePlan, log: LogReader | None) -> int | None:
    """The time before which a source's history counts, microseconds; None without a history."""
    if stream.history is None:
        return None
    first = log.first_event_us() if log else None
    return NO_CUT if first is None else first


def holds_still(stream: StreamSourcePlan, held: int, cut: int) -> bool:
    """Whether a history that was folded up to one cut is what it would be up to another.

    The cut moves with the log's first event; where no row lies between, nothing is to be folded.
    """
    return held > NO_TIME and not count_history(stream, min(held, cut), max(held, cut))


def missing(
    catalog: Catalog, progress: Progress | None, views: Iterable[str] | None = None
) -> list[Gap]:
    """What the state of the views lacks, as of the newest version of each log.

    progress: None where Redis is out of reach; then everything is taken to be lacking.
    """
    held = progress.all() if progress is not None else {}
    gaps: list[Gap] = []
    for stream, members in by_stream(catalog, stream_views(catalog, views)):
        log = LogReader.open(stream)
        ends, cut = log.ends() if log else {}, history_cut(stream, log)
        for view in members:
            prefix = key_prefix(catalog.project, view)
            wanted = {Place(prefix, topic, number): end for (topic, number), end in ends.items()}
            for place, end in wanted.items():
                at = held.get(place)
                if at is None or at < end:
                    gaps.append(Gap(view.name, place, at, end))
            if cut is not None and held.get(history(prefix)) != cut:
                gaps.append(Gap(view.name, history(prefix), held.get(history(prefix)), cut))
    return gaps


def events_behind(catalog: Catalog, gaps: Sequence[Gap]) -> dict[str, int]:
    """Of each view with gaps, how many events are to be folded to close them.

    Counted in whole cells of the log's plan where some of a partition is done already.
    """
    views = {view.name: view for view in stream_views(catalog)}
    found: dict[str, int] = {}
    for stream, members in by_stream(catalog, [views[n] for n in sorted({g.view for g in gaps})]):
        log, names = LogReader.open(stream), {view.name for view in members}
        plan = log.plan(1) if log else {}
        for gap in (g for g in gaps if g.view in names):
            if gap.is_history:
                stays = gap.held is not None and holds_still(stream, gap.held, gap.end)
                rows = 0 if stays else count_history(stream, -NO_CUT, gap.end)
            else:
                windows = plan.get((gap.place.topic, gap.place.partition), [])
                rows = sum(w.rows for w in windows if w.last >= (gap.held or 0))
            found[gap.view] = found.get(gap.view, 0) + rows
    return found
