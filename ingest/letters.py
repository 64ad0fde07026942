"""Dead letters: how one is made of a message that cannot be applied, and read again."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from headwater.online.dead_letters import SHOWN_BYTES, Letter
from ingest.records import DeadLetter, Original, Records

SUFFIX = ".dead-letter"
OWN = "headwater-"


def dead_letter(records: Records, at: int, kind: str, reason: str) -> DeadLetter:
    """A message as it came, with headers that say where from and why."""
    original = records.original(at)
    own = {
        f"{OWN}reason": f"{kind}: {reason}",
        f"{OWN}topic": records.tp.topic,
        f"{OWN}partition": str(records.tp.partition),
        f"{OWN}offset": str(records.offset[at]),
    }
    headers = [
        *[(name, value) for name, value in original.headers if name not in own],
        *[(name, text.encode()) for name, text in own.items()],
    ]
    letter = Original(original.key, original.value, headers)
    return DeadLetter(records.tp.topic + SUFFIX, letter)


def letter_of(original: Original, time_ms: int, shown_bytes: int = SHOWN_BYTES) -> Letter:
    """What a dead letter says of itself; `time_ms` is when it was put aside."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in original.headers}
    kind, _, reason = headers.get(f"{OWN}reason", "").partition(": ")
    return Letter(
        topic=headers.get(f"{OWN}topic", ""),
        partition=int(headers.get(f"{OWN}partition", -1)),
        offset=int(headers.get(f"{OWN}offset", -1)),
        time=datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(),
        kind=kind,
        reason=reason,
        key=_shown(original.key, shown_bytes),
        value=_shown(original.value, shown_bytes),
        bytes=len(original.value or b""),
    )


def _shown(data: bytes | None, most: int) -> str | None:
    """Text where it is text, else base64."""
    if data is None:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data[:most]).decode()
    return data[:most].decode(errors="ignore")
