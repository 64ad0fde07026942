"""A running service for the tests, its project applied and its data written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater.local.process import free_ports, listens

ROOT = Path(__file__).parents[2]


class Answer:
    def __init__(self, status: int, body: bytes, headers: Any) -> None:
        self.status, self.body, self.headers = status, body, headers

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    def columns(self) -> dict[str, dict[str, list[Any]]]:
        """name -> values, statuses, event_timestamps."""
        assert self.status == 200, self.body
        names = self.json["metadata"]["feature_names"]
        return dict(zip(names, self.json["results"], strict=True))


class Running:
    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return call(urllib.request.Request(self.url + path, data, headers or {}), timeout)

    def fill(self, frames: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """Write the columns of each view."""
        for view, columns in frames.items():
            body = {"feature_view_name": view, "df": columns}
            assert self.post("/write-to-online-store", body).status == 200

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return call(urllib.request.Request(self.url + path, None, headers or {}), 30)

    def features(self, features: Any, entities: Any, **more: Any) -> Answer:
        asked = {"feature_service": features} if isinstance(features, str) else {
            "features": features
        }  # fmt: skip
        return self.post("/get-online-features", {**asked, "entities": entities, **more})


def call(request: urllib.request.Request, timeout: float, context: Any = None) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(), error.headers)


@contextmanager
def serve(repo: Path, redis_url: str, **settings: str) -> Iterator[Running]:
    (port,) = free_ports(1)
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    env |= {"REDIS_URL": redis_url, "HEADWATER_PORT": str(port), **settings}
    log = repo / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service", "--repo", str(repo)],
            env=env, stderr=out, stdout=out,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 300
            while not listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the service does not listen"
                time.sleep(0.05)
            scheme = "https" if "HEADWATER_TLS_CERT" in settings else "http"
            yield Running(f"{scheme}://127.0.0.1:{port}", process, log)
        finally:
            process.terminate()
            process.wait(30)
