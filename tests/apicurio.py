"""Apicurio Registry, a real schema registry with Confluent's API, fetched once with Maven."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from headwater.errors import HeadwaterError
from headwater.local import apache
from headwater.local.process import HOST, Server, free_ports

VERSION = "3.0.9"
#: This old one takes the archive alone; newer ones want the descriptors of its parents as well.
_GET = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_API = "/apis/ccompat/v7"


class Apicurio:
    """A registry in memory. Raises HeadwaterError where Java or Maven is missing."""

    def __init__(self) -> None:
        if missing := apache.missing():
            raise HeadwaterError(f"Apicurio Registry cannot run here: {missing}")
        folder = _fetch()
        (port,) = free_ports(1)
        self._command = [
            "java", "-Xmx384m", "-XX:+UseSerialGC", f"-Dquarkus.http.host={HOST}",
            f"-Dquarkus.http.port={port}", "-jar",
            str(folder / f"apicurio-registry-app-{VERSION}-runner.jar"),
        ]  # fmt: skip
        self._server = Server("apicurio", port, None)
        self.url = f"http://{HOST}:{port}{_API}"

    def start(self) -> None:
        self._server.start(self._command, self._answers)

    def close(self) -> None:
        self._server.close()

    def register(self, subject: str, schema: Any) -> int:
        """The id of an Avro schema, registered as a new version of a subject."""
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        request = urllib.request.Request(
            f"{self.url}/subjects/{subject}/versions",
            body,
            {"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: int = json.load(answer)["id"]
        return found

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False


def _fetch() -> Path:
    """The folder with its jars, there whole or not at all."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "headwater" / f"apicurio-{VERSION}"
    if cache.is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="apicurio-", dir=cache.parent))
    try:
        own = fetched / "repository"
        one = [f"-Dartifact={_ARTIFACT}", "-Dtransitive=false", f"-Dmaven.repo.local={own}"]
        _run(["mvn", "-q", "-B", _GET, *one])
        archive = next(own.rglob("apicurio*.tar.gz"))
        _run(["tar", "-xzf", str(archive), "-C", str(fetched)])
        shutil.rmtree(own)
        try:
            fetched.rename(cache)
        except OSError:
            if not cache.is_dir():  # else another process was sooner, which is as good
                raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return cache


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise HeadwaterError(f"{command[0]} cannot fetch Apicurio Registry: {lines[0]}")
