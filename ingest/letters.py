"""Dead letters: how one is made of a message that cannot be applied, and read again."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from headwater.errors import MessageTooLargeError
from headwater.online.dead_letters import SHOWN_BYTES, Letter
from ingest.records import Committed, Consumer, DeadLetter, Original, Records, TopicPartition

SUFFIX = ".dead-letter"
OWN = "headwater-"
#: How large the value was of a letter that is only a message's beginning.
CUT = f"{OWN}cut"
#: Bytes that a letter is cut to where its topic takes no larger one: what a topic takes unless it
#: is told otherwise, then what any takes.
_FITTING = (1_000_000, 50_000)
#: The source that rejected a message; on one that is sent again, the only one to take it.
SOURCE = f"{OWN}source"


def dead_letter(records: Records, at: int, source: str, kind: str, reason: str) -> DeadLetter:
    """A message as it came, with headers that say where from, who rejected it and why."""
    original = records.original(at)
    own = {
        f"{OWN}reason": f"{kind}: {reason}",
        SOURCE: source,
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


def bury(
    consumer: Consumer, positions: Mapping[TopicPartition, Committed], dead: Sequence[DeadLetter]
) -> Sequence[DeadLetter]:
    """Commit with dead letters, as `Consumer.commit`, and return them as they were sent.

    A letter is larger than its message, by its headers, and its topic may take less than the
    message's own: it is cut then, for one message must not stop all that come after it.
    """
    for most in _FITTING:
        try:
            consumer.commit(positions, dead)
        except MessageTooLargeError:
            dead = [cut(letter, most) for letter in dead]
        else:
            return dead
    consumer.commit(positions, dead)
    return dead


def cut(letter: DeadLetter, most: int) -> DeadLetter:
    """A letter of more than `most` bytes without its producer's headers, and of key and value the
    beginnings.
    """
    key, value, headers = letter.original
    sizes = [len(part or b"") for part in (key, value)]
    if sum(sizes) + sum(len(name.encode()) + len(text or b"") for name, text in headers) <= most:
        return letter
    own = [one for one in headers if one[0].startswith(OWN)]
    if all(name != CUT for name, _ in own):
        own.append((CUT, str(sizes[1]).encode()))
    key = None if key is None else key[: most // 2]
    value = None if value is None else value[: most - len(key or b"")]
    return letter._replace(original=Original(key, value, own))


def replayed_for(records: Records) -> dict[int, str]:
    """The source for which messages were sent again, of those that were."""
    return {
        at: (value or b"").decode()
        for at in records.with_headers()
        for name, value in records.original(at).headers if name == SOURCE
    }  # fmt: skip


def letter_of(original: Original, time_ms: int, shown_bytes: int = SHOWN_BYTES) -> Letter:
    """What a dead letter says of itself; `time_ms` is when it was put aside."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in original.headers}
    kind, _, reason = headers.get(f"{OWN}reason", "").partition(": ")
    return Letter(
        topic=headers.get(f"{OWN}topic", ""),
        partition=_number(headers.get(f"{OWN}partition", ""), -1),
        offset=_number(headers.get(f"{OWN}offset", ""), -1),
        source=headers.get(SOURCE, ""),
        time=datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(),
        kind=kind,
        reason=reason,
        key=_shown(original.key, shown_bytes),
        value=_shown(original.value, shown_bytes),
        bytes=_number(headers.get(CUT, ""), len(original.value or b"")),
    )


def _number(text: str, otherwise: int) -> int:
    """A header's number; anybody may have put a message into the topic."""
    return int(text) if text.isascii() and text.isdigit() else otherwise


def _shown(data: bytes | None, most: int) -> str | None:
    """Text where it is text, else base64."""
    if data is None:
        return None
    try:
        data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data[:most]).decode()
    return data[:most].decode(errors="ignore")
