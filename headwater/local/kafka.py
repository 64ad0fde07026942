"""The local Kafka: the one that KAFKA_BOOTSTRAP_SERVERS names, else Apache Kafka, else a mock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from headwater.errors import HeadwaterError
from headwater.local import apache
from headwater.local.apache import ApacheKafka
from headwater.local.mock import MockKafka


class LocalKafka:
    """`bootstrap` is where it is, `kind` what it is; both are certain once it is started.

    A given cluster is used as it is. The mock is librdkafka's cluster in memory, for machines
    without Java: enough for a first look, but it forgets old events.
    """

    kind: Literal["given", "apache", "mock"]

    def __init__(
        self,
        given: str = "",
        folder: Path | None = None,
        *,
        allow_mock: bool = True,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Raises HeadwaterError where Java or Maven is missing and `allow_mock` is false."""
        self.bootstrap = given
        self._folder, self._say, self._allow_mock = folder, say, allow_mock
        self._apache: ApacheKafka | None = None
        self._mock: MockKafka | None = None
        self.kind = "given" if given else "apache"
        if not given and (missing := apache.missing()):
            self._make_do(HeadwaterError(f"Apache Kafka cannot run here: {missing}"))

    @property
    def description(self) -> str:
        """One line that a person can read."""
        if self.kind == "given":
            return f"Kafka: {self.bootstrap}, which KAFKA_BOOTSTRAP_SERVERS names"
        if self.kind == "apache":
            return f"Kafka: Apache Kafka {apache.KAFKA_VERSION} on {self.bootstrap}"
        return (
            f"Kafka: librdkafka's mock cluster on {self.bootstrap}, not a real broker. {self._why}"
        )

    def start(self) -> None:
        """Blocks until it can be connected to. Raises HeadwaterError where that never comes."""
        if self.kind == "apache" and self._apache is None:
            try:
                jars = apache.fetch(self._say)
            except HeadwaterError as error:
                self._make_do(error)
            else:
                self._apache = ApacheKafka(jars, self._folder)
                self.bootstrap = self._apache.bootstrap
        if self._apache is not None:
            self._apache.start()
        elif self.kind == "mock":
            self._mock = MockKafka()
            self.bootstrap = self._mock.bootstrap

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Makes topics on the mock; a broker makes a topic itself when it is first named."""
        if self._mock is not None:
            for topic, count in partitions.items():
                self._mock.create_topic(topic, count)

    def stop(self) -> None:
        """An orderly end; `start` brings back topics, events and committed offsets."""
        self._real("stop").stop()

    def kill(self) -> None:
        """What a power cut does (SIGKILL)."""
        self._real("kill").kill()

    def restart(self) -> None:
        """The same port and folder."""
        self._real("restart").stop()
        self.start()

    def close(self) -> None:
        """The end for good; a folder that was not given goes as well."""
        for part in (self._apache, self._mock):
            if part is not None:
                part.close()

    def _make_do(self, error: HeadwaterError) -> None:
        if not self._allow_mock:
            raise error
        self.kind, self._why = "mock", f"{error}"

    def _real(self, verb: str) -> ApacheKafka:
        if self._apache is None:
            raise HeadwaterError(f"only a local Apache Kafka can {verb}; this is {self.kind}")
        return self._apache
