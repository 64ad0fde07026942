"""Pictures as SVG, drawn on the server: sparklines, windows on a time line, lineage. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from headwater.amounts import lasting
from headwater.changes import span

#: Lineage: a box's width and height, and the gaps between boxes.
_BOX, _TALL, _GAP, _SPACE = 200, 40, 56, 12
#: Boxes of a column beyond which the rest is told as a number.
_MOST = 8


def bars(counts: Sequence[int], width: int = 96, height: int = 22) -> Markup:
    """A histogram's counts as bars. Decoration of the figures beside it."""
    most, wide = max(counts, default=0) or 1, width / max(len(counts), 1)
    # What there is of is seen, however little.
    tall = [max(1.0, count / most * height) if count else 0.0 for count in counts]
    drawn = "".join(
        f'<rect x="{i * wide:.2f}" y="{height - size:.1f}" width="{max(wide - 0.6, 0.6):.2f}" '
        f'height="{size:.1f}"/>'
        for i, size in enumerate(tall)
        if size
    )
    return Markup(
        f'<svg class="bars" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true"><path class="base" d="M0 {height}H{width}"/>{drawn}</svg>'
    )


def sparkline(values: Sequence[float | None], width: int = 72, height: int = 18) -> Markup:
    """Ratios from 0 to 1 as a line; where one is None there is none. The scale ends at 1.

    Decoration of the number beside it, so that screen readers pass it over.
    """
    step, inner = (width - 4) / max(len(values) - 1, 1), height - 4
    parts, dots = [], []
    for i, value in enumerate(values):
        if value is None:
            continue
        x, y = 2 + i * step, 2 + (1 - min(value, 1.0)) * inner
        before = i > 0 and values[i - 1] is not None
        after = i + 1 < len(values) and values[i + 1] is not None
        parts.append(f"{'L' if before else 'M'}{x:.1f} {y:.1f}")
        if not before and not after:
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>')
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true"><path class="base" d="M2 {height - 2}H{width - 2}"/>'
        f'<path class="line" d="{"".join(parts)}"/>{"".join(dots)}</svg>'
    )


def windows(found: Sequence[tuple[int, int]], marked: tuple[int, int] | None = None) -> Markup:
    """Windows (length, hop) in microseconds as bars that end now; the marked one stands out.

    The time line goes by the logarithm, so that an hour shows beside a week.
    """
    if not found:
        return Markup("")
    ordered = sorted(set(found))
    left, right, row = 44, 290, 30
    longest, shortest = math.log(ordered[-1][0]), math.log(ordered[0][0])
    parts = []
    for i, (length, hop) in enumerate(ordered):
        depth = (math.log(length) - shortest) / max(longest - shortest, 1e-9)
        reach = (right - left) * (0.25 + 0.75 * depth if len(ordered) > 1 else 1.0)
        y, start = 8 + i * row, right - reach
        here = " here" if marked == (length, hop) else ""
        step = max(4.0, min(reach * hop / length * 4, reach / 3))
        parts.append(
            f'<g><rect class="bar{here}" x="{start:.1f}" y="{y}" width="{reach:.1f}" height="16" '
            f'rx="3"/><path class="hop" d="M{start + step:.1f} {y + 3}v10M{start + 2 * step:.1f} '
            f'{y + 3}v10"/><text x="{start - 8:.1f}" y="{y + 12.5}" text-anchor="end">'
            f'{span(length)}</text><text class="quiet" x="{right + 12}" y="{y + 12}">'
            f"in steps of {span(hop)}</text></g>"
        )
    axis = 8 + len(ordered) * row
    said = "; ".join(f"the last {span(length)}, in steps of {span(hop)}" for length, hop in ordered)
    return Markup(
        f'<svg class="picture" viewBox="0 0 400 {axis + 22}" width="400" role="img" '
        f'aria-label="Windows up to now: {said}">'
        f'<path class="axis" d="M8 {axis}H{right + 20}M{right} 2V{axis + 4}"/>'
        f'{"".join(parts)}<text x="{right}" y="{axis + 18}" text-anchor="middle">now</text></svg>'
    )


def tiles(starts: Sequence[int], now_us: int, longest_us: int) -> Markup:
    """The tiles of a state, each at its beginning, on a time line from the oldest to now.

    starts: microseconds, ascending, at least one; longest_us: the longest window, 0 for none.
    """
    oldest = min(starts[0], now_us - longest_us) if longest_us else starts[0]
    scale = 1000 / max(now_us - oldest, 1)
    marks = "".join(f"M{(start - oldest) * scale:.1f} 0v20" for start in starts)
    low = f"{lasting((now_us - oldest) / 1e6)} ago"
    return Markup(
        '<div class="tiles"><svg viewBox="0 0 1000 24" height="24" preserveAspectRatio="none" '
        f'role="img" aria-label="{len(starts)} tiles from {low} to now">'
        f'<path class="axis" d="M0 20H1000M1000 0v24"/><path class="tick" d="{marks}"/></svg>'
        f'<p class="ends"><span>{low}</span><span>now</span></p></div>'
    )


def pair(was: float, now: float, most: float) -> Markup:
    """Two shares as bars, the baseline above what it is now; `most` fills the width.

    Decoration of the numbers beside it.
    """
    drawn = "".join(
        f'<rect class="{kind}" y="{y}" height="8" width="{max(share / most * 100, 0.4):.1f}"/>'
        for kind, y, share in (("was", 0, was), ("now", 9, now))
        if share
    )
    return Markup(
        '<svg class="pair" viewBox="0 0 100 17" height="17" preserveAspectRatio="none" '
        f'aria-hidden="true">{drawn}</svg>'
    )


class Node(NamedTuple):
    """A box of the lineage; `inputs` are the boxes it is made from."""

    kind: str
    name: str
    address: str = ""
    inputs: tuple[str, ...] = ()


def lineage(columns: Sequence[Sequence[Node]], here: str) -> Markup:
    """Boxes in columns, from left to right, with a line from each box to what is made of it.

    here: the view that the page is about.
    """
    columns = [_cut(column) for column in columns if column]
    rows = max(map(len, columns))
    low = rows * (_TALL + _SPACE) + 4
    places: dict[str, tuple[int, float]] = {}
    boxes, lines, lanes = [], [], 0
    for at, column in enumerate(columns):
        top = (low - len(column) * (_TALL + _SPACE) + _SPACE) / 2
        for i, node in enumerate(column):
            y = top + i * (_TALL + _SPACE)
            places[f"{node.kind}:{node.name}"] = (at, y + _TALL / 2)
            boxes.append(_box(node, 2 + at * (_BOX + _GAP), y, _is(node, here)))
            for source in filter(places.__contains__, node.inputs):
                skips = at - places[source][0] > 1
                lanes += skips
                lane = low + 6 * lanes if skips else None
                lines.append(_edge(places[source], (at, y + _TALL / 2), lane))
    width, height = len(columns) * (_BOX + _GAP) - _GAP + 4, low + (6 * lanes + 4 if lanes else 4)
    said = ", then ".join(
        " and ".join(f"{node.kind} {node.name}" for node in column) for column in columns
    )
    return Markup(
        f'<svg class="picture" viewBox="0 0 {width} {height}" width="{width}" role="group" '
        f'aria-label="Lineage: {escape(said)}">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def _is(node: Node, view: str) -> bool:
    """Whether a box is that view's; a source or a service may have its name."""
    return node.name == view and node.kind.endswith("view")


def _cut(column: Sequence[Node]) -> list[Node]:
    if len(column) <= _MOST:
        return list(column)
    rest = column[_MOST - 1 :]
    inputs = tuple({source: None for node in rest for source in node.inputs})
    return [*column[: _MOST - 1], Node("and", f"{len(rest)} more", "", inputs)]


def _edge(a: tuple[int, float], b: tuple[int, float], lane: float | None) -> str:
    """A line from one box to another; past columns between them, below their boxes."""
    start, end, bend = 2 + a[0] * (_BOX + _GAP) + _BOX, 2 + b[0] * (_BOX + _GAP), _GAP / 2
    if lane is None:
        way = f"C{start + bend} {a[1]:.1f} {end - bend} {b[1]:.1f} {end} {b[1]:.1f}"
    else:
        way = (
            f"C{start + bend} {a[1]:.1f} {start + bend} {lane} {start + _GAP} {lane}"
            f"H{end - _GAP}C{end - bend} {lane} {end - bend} {b[1]:.1f} {end} {b[1]:.1f}"
        )
    return f'<path class="edge" d="M{start} {a[1]:.1f}{way}"/>'


def _box(node: Node, x: float, y: float, here: bool) -> str:
    shown = node.name if len(node.name) <= 27 else node.name[:26] + "…"
    box = (
        f'<rect class="node{" here" if here else ""}" x="{x}" y="{y:.1f}" width="{_BOX}" '
        f'height="{_TALL}" rx="5"/><text class="kind" x="{x + 10}" y="{y + 15:.1f}">'
        f'{escape(node.kind)}</text><text x="{x + 10}" y="{y + 31:.1f}">{escape(shown)}</text>'
    )
    said = f"<title>{escape(node.kind)} {escape(node.name)}</title>"
    if node.address and not here:
        return f'<a href="{escape(node.address)}">{said}{box}</a>'
    return f"<g>{said}{box}</g>"
