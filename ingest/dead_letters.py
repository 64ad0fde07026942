"""`headwater dead-letters`: lists what workers rejected, and sends it to its topics again."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from headwater import catalog_cache
from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.settings import Settings
from ingest.clients import open_consumer, read_options
from ingest.letters import CUT, OWN, SOURCE, SUFFIX, letter_of
from ingest.records import Committed, Consumer, DeadLetter, Original, Records, TopicPartition

#: How often a letter has been sent again.
REPLAYS = "headwater-replays"
JOIN_SECONDS = 30.0


class Letters:
    """The dead letters of a project's topics, as a member of a group."""

    def __init__(self, repo: Path, settings: Settings, group: str, topic: str | None) -> None:
        catalog = catalog_cache.load(repo)
        self.sources = set(catalog.streams)
        topics = _topics(catalog, topic)
        servers = settings.kafka_bootstrap_servers or next(
            s.bootstrap_servers for s in catalog.streams.values() if topics[0] in s.topics
        )
        config = settings.kafka_config
        name = settings.group or f"headwater-{catalog.project}"
        self.consumer: Consumer = open_consumer(
            settings.kafka_client, servers, f"{name}-{group}",
            read_options(Path(config)) if config else {},
        )  # fmt: skip
        #: The topics whose letters these are, and the partitions that each has now.
        self.topics = {t: {tp.partition for tp in self.consumer.partitions(t)} for t in topics}
        partitions = [tp for t in topics for tp in self.consumer.partitions(t + SUFFIX)]
        self._ends = self.consumer.ends(partitions) if partitions else {}

    def batches(self) -> Iterator[Records]:
        """What lay in the topics when this began, from the group's committed offsets on.

        Raises HeadwaterError where another process of the group holds the partitions.
        """
        left = self._left()
        if not left:
            return
        self.consumer.subscribe(sorted({tp.topic for tp in left}))
        until = time.monotonic() + JOIN_SECONDS
        while left:
            for records in self.consumer.poll(0.1, 1000):
                yield records
                if left.get(records.tp, 0) <= records.next_offset:
                    left.pop(records.tp, None)
                until = time.monotonic() + JOIN_SECONDS
            if time.monotonic() > until:
                raise HeadwaterError(
                    f"no dead letters come from {sorted(left)}; is another replay running?"
                )

    def _left(self) -> dict[TopicPartition, int]:
        parts = list(self._ends)
        if not parts:
            return {}
        begins, held = self.consumer.beginnings(parts), self.consumer.committed(parts)
        return {
            tp: end
            for tp, end in self._ends.items()
            if end > max(begins[tp], at.offset if (at := held[tp]) is not None else 0)
        }


def _topics(catalog: Catalog, topic: str | None) -> list[str]:
    known = sorted({t for stream in catalog.streams.values() for t in stream.topics})
    if topic is not None and topic not in known:
        raise HeadwaterError(f"no source reads topic {topic!r}; topics: {', '.join(known)}")
    if not known:
        raise HeadwaterError("the catalogue has no Kafka source, so there are no dead letters")
    return [topic] if topic is not None else known


def described(records: Records, at: int) -> dict[str, Any]:
    """One letter: where it came from, why it is here, and its bytes."""
    original = records.original(at)
    whole = max(len(original.key or b""), len(original.value or b""))
    letter = letter_of(original, int(records.timestamp_ms[at]), whole)
    place = f"{records.tp.topic}-{records.tp.partition}@{records.offset[at]}"
    return {"dead_letter": place, **msgspec.structs.asdict(letter)}


def list_letters(letters: Letters, kind: str, limit: int, as_json: bool) -> None:
    shown = 0
    for records in letters.batches():
        for at in range(len(records)):
            letter = described(records, at)
            if kind and letter["kind"] != kind:
                continue
            if as_json:
                print(json.dumps(letter))  # noqa: T201 (the command's output)
            else:
                value = (letter["value"] or "(no value)")[:120]
                print(  # noqa: T201 (the command's output)
                    f"{letter['topic']}-{letter['partition']}@{letter['offset']}  {letter['time']}"
                    f"\n  {letter['kind']}: {letter['reason']}\n  {value}"
                )
            shown += 1
            if shown == limit:
                return
    if not shown and not as_json:
        print("No dead letters.")  # noqa: T201 (the command's output)


def replay(letters: Letters, kind: str, as_json: bool) -> None:
    """Send letters to the partitions they came from, each once: with them the group's offset moves.

    Letters of other kinds, of sources that are no more, and those that are only a message's
    beginning go to the end of their topic, where another replay finds them.
    """
    sent = kept = 0
    for records in letters.batches():
        out = []
        for at in range(len(records)):
            letter, original = described(records, at), records.original(at)
            known = not letter["source"] or letter["source"] in letters.sources
            whole = all(name != CUT for name, _ in original.headers)
            held = letters.topics.get(letter["topic"])
            if held and known and whole and (not kind or letter["kind"] == kind):
                # A topic that was made anew may have fewer partitions: its key tells which then.
                partition = letter["partition"] if letter["partition"] in held else None
                out.append(_again(original, letter["topic"], partition))
                sent += 1
            else:
                out.append(DeadLetter(records.tp.topic, original))
                kept += 1
        letters.consumer.commit({records.tp: Committed(records.next_offset, "")}, out)
    if as_json:
        print(json.dumps({"replayed": sent, "kept": kept}))  # noqa: T201 (the command's output)
    else:
        rest = f"; {kept} of other kinds or sources, or cut, stay" if kept else ""
        print(f"{sent} sent to their topics again{rest}.")  # noqa: T201 (the command's output)


def _again(original: Original, topic: str, partition: int | None) -> DeadLetter:
    said = next((v for name, v in original.headers if name == REPLAYS and v), b"")
    times = int(said) if said.isdigit() else 0
    # Another source of the topic has taken it; the one that has not still knows it is meant.
    headers = [
        (name, value) for name, value in original.headers
        if name == SOURCE or not name.startswith(OWN)
    ]  # fmt: skip
    headers.append((REPLAYS, str(times + 1).encode()))
    return DeadLetter(topic, Original(original.key, original.value, headers), partition)


def main() -> int:
    parser = argparse.ArgumentParser(prog="headwater dead-letters", description=__doc__)
    parser.add_argument("action", choices=["list", "replay"])
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"))
    parser.add_argument("--topic")
    parser.add_argument("--kind", default="")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    words = parser.parse_args()
    try:
        settings = Settings.from_env(os.environ)
        group = "dead-letters"
        if words.action == "list":
            group = f"list-{uuid.uuid4()}"  # reads all, and commits nothing
        letters = Letters(words.repo.resolve(), settings, group, words.topic)
        try:
            if words.action == "list":
                list_letters(letters, words.kind, words.limit, words.as_json)
            else:
                replay(letters, words.kind, words.as_json)
        finally:
            letters.consumer.close()
    except HeadwaterError as error:
        sys.stderr.write(f"headwater dead-letters: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
