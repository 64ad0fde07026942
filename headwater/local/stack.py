"""A Redis and a Kafka for as long as a `with` block runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from headwater.local.kafka import LocalKafka
from headwater.local.redis import LocalRedis
from headwater.settings import Settings


class LocalStack:
    """Says what it started, and ends it with the block, or with this process.

    `env` is what a child process needs in its environment to find both.
    """

    def __init__(
        self, settings: Settings, say: Callable[[str], None], folder: Path | None = None
    ) -> None:
        """With a `folder` the data outlive the stack; without, they go with it."""
        self._say = say
        self._exits = ExitStack()
        redis_folder = folder / "redis" if folder else None
        kafka_folder = folder / "kafka" if folder else None
        self.redis = LocalRedis(settings.redis_url, redis_folder, append_only=True)
        self.kafka = LocalKafka(settings.kafka_bootstrap_servers, kafka_folder, say=say)

    @property
    def env(self) -> dict[str, str]:
        return {"REDIS_URL": self.redis.url, "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap}

    def __enter__(self) -> LocalStack:
        with ExitStack() as undo:
            # One after the other: Redis is up before Java has read its first jar.
            for part in (self.redis, self.kafka):
                undo.callback(part.close)
                part.start()
                self._say(part.description)
            self._exits = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()
