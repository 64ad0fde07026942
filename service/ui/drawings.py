"""Pictures as SVG, drawn on the server: sparklines, windows on a time line, lineage. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup


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
    parts, drawn = [], False
    for i, value in enumerate(values):
        if value is None:
            drawn = False
            continue
        x, y = 2 + i * step, 2 + (1 - min(value, 1.0)) * inner
        # A point on its own is a dot: a line of no length with round ends.
        parts.append(f"{'L' if drawn else 'M'}{x:.1f} {y:.1f}" + ("" if drawn else "h0"))
        drawn = True
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true"><path class="base" d="M2 {height - 2}H{width - 2}"/>'
        f'<path class="line" d="{"".join(parts)}"/></svg>'
    )
