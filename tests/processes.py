"""Headwater's real programs as processes, for the integration and end-to-end tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.local.process import free_ports, listens
from tests.waiting import until

_CONFIG = """
project: {project}
provider: local
registry: data/registry.db
online_store: {{type: headwater.online.RedisOnlineStore, connection_string: "{redis_url}"}}
offline_store: {{type: headwater.offline.DuckDBOfflineStore}}
entity_key_serialization_version: 3
"""


def feature_store(project: str, redis_url: str) -> str:
    """A project's `feature_store.yaml` with Headwater's own stores."""
    return _CONFIG.format(project=project, redis_url=redis_url)


class Programs:
    """Starts `headwater` commands on one repository with one environment."""

    def __init__(self, repo: Path, env: Mapping[str, str]) -> None:
        self.repo = repo
        port, metrics = free_ports(2)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")},
            "HEADWATER_PORT": str(port),
            "HEADWATER_METRICS_PORT": str(metrics),
            **env,
        }
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", module, *words]
        return subprocess.Popen(command, env=self.env)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever comes of it."""
        command = [sys.executable, "-P", "-m", "headwater.cli", *words, "--repo", str(self.repo)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def headwater(self, *words: str) -> str:
        """Run a command to its end; its standard output. Fails the test when it fails."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def ingest(self, *words: str) -> subprocess.Popen[bytes]:
        """A worker that shows its metrics, or has ended already."""
        worker = self.start("ingest", "--repo", str(self.repo), *words)
        port = int(self.env["HEADWATER_METRICS_PORT"])
        until(lambda: not port or listens(port) or worker.poll() is not None, 300)
        return worker

    def serve(self) -> subprocess.Popen[bytes]:
        server = self.start("service", "--repo", str(self.repo))

        def lives() -> None:
            assert server.poll() is None, "the service ended"

        until(lambda: listens(self._port), 300, "the service does not listen", lives)
        return server

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """(status, decoded JSON) of a request; None for an empty body."""
        return _call(self.url + path, json.dumps(body).encode())

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            text: str = answer.read().decode()
        return text


def _call(url: str, data: bytes) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, data, timeout=120) as answer:
            text, status = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read(), error.code
    return status, json.loads(text) if text else None
