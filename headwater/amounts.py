"""How lengths of time and sizes are written for people. Pure."""

from __future__ import annotations

_LENGTHS = ((86_400, "d"), (3600, "h"), (60, "min"))
_SIZES = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


def lasting(seconds: float | None) -> str:
    """A length of time in its largest fitting unit: "33 ms", "12 s", "2.5 h"; "" for none."""
    if seconds is None:
        return ""
    if 0 < abs(seconds) < 1:
        return f"{seconds * 1e3:.3g} ms"
    for size, unit in _LENGTHS:
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}" if abs(seconds) < 999 * size else (
                f"{seconds / size:,.0f} {unit}")  # fmt: skip
    return f"{seconds:.3g} s"


def size(count: float | None) -> str:
    """Bytes in their largest fitting unit: "512 B", "3.5 MB"; "" for none."""
    if count is None:
        return ""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def some(number: int, what: str) -> str:
    """A number of things: "1 view", "2,000 views"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
