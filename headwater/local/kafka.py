"""A Kafka of one's own: `KAFKA_BOOTSTRAP_SERVERS`, else Apache Kafka, else librdkafka's mock."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import uuid
from importlib.resources import files
from pathlib import Path

from headwater.errors import HeadwaterError
from headwater.local import process

VERSION = "4.1.0"
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/logs
num.partitions=4
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
"""


class LocalKafka:
    """One broker on a free port; `kind` says which broker it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._controller = process.free_port(), process.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        if self.bootstrap:
            self.kind = "Kafka (given)"
        elif has_java():
            self.kind = f"Apache Kafka {VERSION} (real, KRaft)"
        else:
            self.kind = "librdkafka's mock cluster (no Java 17 with Maven here)"

    @property
    def real(self) -> bool:
        return not self.kind.startswith("librdkafka")

    def start(self) -> None:
        if self.bootstrap and self._process is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.real:
            self._start_apache()
        else:
            self._start_mock()

    def _start_apache(self) -> None:
        jars = f"{_jars()}/*"
        config = self.folder / "server.properties"
        config.write_text(
            _PROPERTIES.format(port=self.port, controller=self._controller, folder=self.folder)
        )
        log = self.folder / "kafka.log"
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", jars]
        if not (self.folder / "logs").exists():
            identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            with log.open("ab") as out:
                subprocess.run(
                    [*java, "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(config),
                     "--ignore-formatted"], check=True, stdout=out, stderr=out,
                )  # fmt: skip
        self._process = process.start([*java, "kafka.Kafka", str(config)], log)
        process.wait_for(lambda: process.listens(self.port), self._process, log, "Kafka")
        self.bootstrap = f"127.0.0.1:{self.port}"

    def _start_mock(self) -> None:
        log = self.folder / "mock.log"
        address = self.folder / "mock.address"
        address.unlink(missing_ok=True)
        self._process = process.start(
            [sys.executable, "-P", "-m", "headwater.local.mock_kafka", str(address)], log
        )
        process.wait_for(address.exists, self._process, log, "librdkafka's mock cluster")
        self.bootstrap = address.read_text()

    def stop(self) -> None:
        process.stop(self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def has_java() -> bool:
    """Whether Java 17 or newer and Maven are here."""
    if not shutil.which("mvn") or not shutil.which("java"):
        return False
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr)
    return bool(found) and int(found[1]) >= 17 if found else False


def _jars() -> Path:
    """Kafka's jars, fetched once from Maven Central into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "headwater" / f"kafka-{VERSION}"
    if folder.exists():
        return folder
    work = folder.with_name(f"{folder.name}.{os.getpid()}")
    work.mkdir(parents=True)
    (work / "pom.xml").write_text((files("headwater.local") / "pom.xml").read_text())
    done = subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={work}",
         "-DincludeScope=runtime"], cwd=work, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(work)
        raise HeadwaterError(
            f"Maven could not fetch Kafka: {done.stdout[-300:]}; set KAFKA_BOOTSTRAP_SERVERS"
        )
    try:
        work.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(work)
    return folder
