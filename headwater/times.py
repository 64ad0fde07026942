"""Times as people and programs write them, to UTC microseconds. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

#: Before every time: a watermark before the first event, in microseconds.
NO_TIME = -(2**62)
#: The first and the last microsecond that RFC 3339 and Python can write: years 1 to 9999.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def epoch_us(moment: datetime) -> int:
    """Microseconds since 1970; a naive time is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def micros(value: int | float | str) -> int:
    """A time as microseconds: ISO 8601 text (naive is UTC), or an epoch number in s, ms, us or ns.

    The magnitude tells the unit. Raises ValueError for what is no time.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.lstrip("-").replace(".", "", 1).isdigit():
            return micros(float(text) if "." in text else int(text))
        return epoch_us(datetime.fromisoformat(text))
    size = abs(value)
    if size < 1e11:
        return round(value * 1_000_000) if isinstance(value, float) else value * 1_000_000
    if size < 1e14:
        return round(value * 1000) if isinstance(value, float) else value * 1000
    if size < 1e17:
        return int(value)
    if size < 1e20:
        return int(value // 1000)
    raise ValueError(value)
