"""Flink SQL: tumbling windows over a topic, to nowhere or to another topic. No Python touches data.

Runs in an environment of its own (flink.txt, and the Kafka connector's jar):

    python flink_tiles.py SERVERS TOPIC OUTPUT EVENTS TILE_MS GRACE_MS PARALLELISM JAR FOLDER

OUTPUT "" discards the result. FOLDER takes checkpoints, and `done`: the number of events taken in.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path
from string import Template
from typing import TextIO

servers, source, output = sys.argv[1:4]
total, tile_ms, grace_ms, parallelism = map(int, sys.argv[4:8])
jar, folder = Path(sys.argv[8]), Path(sys.argv[9])
#: Read by the JVM that pyflink starts.
os.environ["JVM_ARGS"] = "-Xms1536m -Xmx1536m -XX:+UseParallelGC"

from pyflink.common import Configuration  # noqa: E402 (reads JVM_ARGS)
from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: E402

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
SETTINGS = {
    "rest.port": str(PORT),
    "rest.bind-port": str(PORT),
    "metrics.fetcher.update-interval": "200",
    "pipeline.jars": jar.as_uri(),
    "pipeline.object-reuse": "true",
    "parallelism.default": str(parallelism),
    "taskmanager.memory.managed.size": "512m",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
    "state.backend.type": "hashmap",
    "table.local-time-zone": "UTC",
    # A tile has hardly more than one event, so aggregating before the shuffle only costs.
    "table.optimizer.agg-phase-strategy": "ONE_PHASE",
}
KAFKA_SINK = (
    f"'connector' = 'kafka', 'topic' = '{output}', "
    f"'properties.bootstrap.servers' = '{servers}', 'format' = 'json'"
)


def main() -> None:
    config = Configuration()
    for key, value in SETTINGS.items():
        config.set_string(key, value)
    settings = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(config)
    tables = TableEnvironment.create(settings.build())
    text = Template(Path(__file__).with_suffix(".sql").read_text()).substitute(
        servers=servers,
        topic=source,
        sink=KAFKA_SINK if output else "'connector' = 'blackhole'",
        tile_s=tile_ms // 1000,
        grace_s=grace_ms // 1000,
    )
    for statement in text.split(";"):
        result = tables.execute_sql(statement)
    job = result.get_job_client().get_job_id()
    with (folder / "done").open("w") as progress:
        while (read := handed_on(job)) is not None:
            note(progress, min(read, total - 1))
            time.sleep(0.2)
        result.wait()  # raises where the job has failed
        note(progress, total)


def handed_on(job: object) -> int | None:
    """Events that the source has handed on; None once the job, and so its cluster, is gone."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/jobs/{job}", timeout=10) as answer:
            return int(json.load(answer)["vertices"][0]["metrics"]["write-records"])
    except OSError:
        return None


def note(progress: TextIO, count: int) -> None:
    progress.seek(0)
    progress.write(f"{count}\n")
    progress.flush()


if __name__ == "__main__":
    main()
