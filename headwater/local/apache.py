"""Apache Kafka on this machine, in KRaft mode: its jars, its settings and its process."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from headwater.errors import HeadwaterError
from headwater.local.process import HOST, Server, free_ports, listens

KAFKA_VERSION = "4.1.0"
JAVA_VERSION = 17
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class ApacheKafka:
    """One broker that is its own controller; it keeps its port and folder over a restart."""

    def __init__(self, jars: Path, folder: Path | None) -> None:
        """Raises HeadwaterError where the folder cannot be formatted."""
        # The serial collector: a small broker that is up soon and takes few threads.
        self._java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{jars}/*"]
        port, controller = free_ports(2)
        self._server = Server("kafka", port, folder)
        self.bootstrap = f"{HOST}:{port}"
        self._config = self._configure(controller)
        if not (self._server.folder / "log" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        format_folder = ["kafka.tools.StorageTool", "format"]
        _run(
            # With "=", for an id may begin with a dash and would pass for an option.
            [*self._java, *format_folder, f"--cluster-id={cluster}", "-c", str(self._config)],
            "Kafka's folder cannot be formatted",
        )

    def start(self) -> None:
        """Blocks until it can be connected to. Raises HeadwaterError where that never comes."""
        self._server.start(
            [*self._java, "kafka.Kafka", str(self._config)], lambda: listens(self._server.port)
        )

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def close(self) -> None:
        self._server.close()

    def _configure(self, controller: int) -> Path:
        folder = self._server.folder.resolve()
        path = folder / "server.properties"
        path.write_text(
            (files("headwater.local") / "server.properties").read_text()
            + f"\nlisteners=PLAINTEXT://{self.bootstrap},CONTROLLER://{HOST}:{controller}\n"
            + f"advertised.listeners=PLAINTEXT://{self.bootstrap}\n"
            + f"controller.quorum.voters=1@{HOST}:{controller}\n"
            + f"log.dirs={folder / 'log'}\n"
        )
        return path


def missing() -> str:
    """What this machine lacks for it; "" for nothing."""
    version = _java_version()
    if version is None:
        return f"there is no Java (install {JAVA_VERSION} or newer)"
    if version < JAVA_VERSION:
        return f"Java is {version} (install {JAVA_VERSION} or newer)"
    if not _cache().is_dir() and shutil.which("mvn") is None:
        return "there is no Maven to fetch it with (apt-get install maven)"
    return ""


def fetch(say: Callable[[str], None]) -> Path:
    """The folder of its jars, fetched once. Raises HeadwaterError where Maven cannot."""
    cache = _cache()
    if cache.is_dir():
        return cache
    say(f"Fetching Apache Kafka {KAFKA_VERSION} with Maven, once (43 MB) ...")
    cache.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache.parent))
    try:
        with as_file(files("headwater.local") / "pom.xml") as pom:
            into = ["-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
            _run(
                ["mvn", "-q", "-B", "-C", "-f", str(pom), _COPY_JARS, *into],
                "Maven cannot fetch Apache Kafka",
            )
        try:
            fetched.rename(cache)  # there whole or not at all
        except OSError:
            if not cache.is_dir():  # else another process was sooner, which is as good
                raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return cache


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "headwater" / f"kafka-{KAFKA_VERSION}"


def _java_version() -> int | None:
    if shutil.which("java") is None:
        return None
    # It is asked, for macOS has a `java` that only says where to get one.
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise HeadwaterError(f"{failure}: {lines[0]}")
