"""What earlier runs of `headwater up` left: logs whose offsets another Kafka gave."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from headwater import catalog_cache
from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.offline.replay import LogReader


def refuse_foreign_logs(catalog: Catalog, kafka: str) -> None:
    """Raises HeadwaterError where a log has events, and Kafka (as described) begins at offset 0.

    The worker knows by an event's offset whether the log has it: it would leave new ones out.
    """
    for stream in catalog.streams.values():
        log = LogReader.open(stream)
        ends = log.ends() if log else {}
        for (topic, partition), end in sorted(ends.items()):
            raise HeadwaterError(
                f"the offline log {stream.log_path} holds {topic}-{partition} up to offset {end} "
                f"of another Kafka, and this one begins at offset 0 ({kafka}), so that new events "
                "would pass for those. Go on with the Kafka of the log, or begin anew with "
                "`headwater up --fresh`, which moves the log aside"
            )


def _logs(repo: Path) -> list[str]:
    """Where the logs of the registered streams are; none where nothing was registered yet."""
    try:
        catalog = catalog_cache.load(repo)
    except HeadwaterError:
        return []
    return [stream.log_path for stream in catalog.streams.values()]


def set_aside(repo: Path, now: datetime) -> list[Path]:
    """Move logs and what the local Redis and Kafka held to `data/before-<time>`; what was moved.

    Raises HeadwaterError for a log that is not in the project's folder.
    """
    data = repo / "data"
    aside = data / f"before-{now:%Y%m%d-%H%M%S}"
    wanted = []
    for log in _logs(repo):
        if "://" in log or not Path(log).resolve().is_relative_to(repo.resolve()):
            raise HeadwaterError(
                f"the log {log} is not in the project's folder; move it away yourself"
            )
        wanted.append(Path(log))
    moved = []
    for path in [*wanted, data / "stack"]:
        if path.exists():
            target = aside / path.resolve().relative_to(repo.resolve())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            moved.append(path)
    return moved
