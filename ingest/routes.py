"""The Kafka sources of a catalogue, by the topics that they read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from headwater.catalog import Catalog
from headwater.errors import HeadwaterError
from headwater.online.commands import Commands
from headwater.online.progress import Place
from headwater.online.sinks import Sink
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from headwater.times import NO_TIME
from ingest.metrics import Metrics
from ingest.records import TopicPartition
from ingest.route import StreamRoute


class Routes:
    """One route a source; raises HeadwaterError where there is none, or no one broker."""

    def __init__(
        self, catalog: Catalog, writer: OnlineWriter, settings: Settings, metrics: Metrics
    ) -> None:
        self._routes = [
            StreamRoute(catalog, stream, writer, settings, metrics)
            for stream in catalog.streams.values()
        ]
        self._of: dict[str, list[StreamRoute]] = defaultdict(list)
        for route in self._routes:
            for topic in route.stream.topics:
                self._of[topic].append(route)
        if not self._routes:
            raise HeadwaterError("the catalogue has no Kafka source; there is nothing to ingest")
        self.servers = settings.kafka_bootstrap_servers or self._one_broker()
        self._sinks = {sink.prefix: sink for route in self._routes for sink in route.sinks}

    def _one_broker(self) -> str:
        servers = {route.stream.bootstrap_servers for route in self._routes}
        if len(servers) > 1:
            raise HeadwaterError(
                f"the Kafka sources name different brokers, {sorted(servers)}; one worker reads "
                "from one: set KAFKA_BOOTSTRAP_SERVERS"
            )
        return servers.pop()

    def __iter__(self) -> Iterator[StreamRoute]:
        return iter(self._routes)

    @property
    def topics(self) -> list[str]:
        return sorted(self._of)

    def of(self, tp: TopicPartition) -> Sequence[StreamRoute]:
        """The sources that read a partition; none where the catalogue no longer has its topic."""
        return self._of.get(tp.topic, ())

    @property
    def sinks(self) -> list[Sink]:
        return list(self._sinks.values())

    def sink(self, place: Place) -> Sink | None:
        return self._sinks.get(place.prefix)

    def view(self, place: Place) -> str:
        """The name of the view whose state is there."""
        sink = self._sinks.get(place.prefix)
        return sink.view.name if sink is not None else "?"

    def log_ends(self, tp: TopicPartition) -> dict[Place, int]:
        """Each online view of a partition, and the offset before which its log is complete."""
        ends: dict[Place, int] = {}
        for route in self.of(tp):
            end = route.log_end(tp)
            ends.update({Place(sink.prefix, *tp): end for sink in route.sinks})
        return ends

    def clocks(self, stage: str) -> dict[tuple[str, str], int]:
        """(stage, view) -> the newest event time that was taken in, microseconds."""
        return {
            (stage, view.name): route.newest_us
            for route in self._routes
            for view in route.views
            if route.newest_us > NO_TIME and (view.online or stage != "online")
        }

    def take(self) -> list[Commands]:
        """What brings Redis up to what was folded."""
        return [commands for sink in self.sinks for commands in sink.take()]

    def forget(self, tp: TopicPartition | None = None) -> None:
        """Drop what waits of a partition, or of all."""
        for route in self._routes if tp is None else self.of(tp):
            route.forget(tp)
