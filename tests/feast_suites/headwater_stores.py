"""Feast's own tests on Headwater's stores: a pytest plugin, and Feast's FULL_REPO_CONFIGS_MODULE.

README.md beside this file says how to run them. SUITE is one of

    plugin   Headwater's online and offline stores
    served   `headwater serve` where the tests start Feast's feature server
    stock    Feast's own stores and server, to tell whose a failure is
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SUITE = os.environ.get("SUITE", "plugin")
REDIS = os.environ.get("SUITE_REDIS", "localhost:6379")
OURS = SUITE != "stock"
ONLINE = (
    {"type": "headwater.online.RedisOnlineStore", "connection_string": REDIS}
    if OURS
    else {"type": "redis", "connection_string": f"{REDIS},db=0"}
)


def pytest_sessionstart() -> None:
    """Before the tests are imported, and with them what they start servers by."""
    if SUITE == "served":
        import feast.feature_server
        from feast import FeatureStore
        from tests.utils import auth_permissions_util

        auth_permissions_util.start_feature_server = _start_feature_server
        stock_app = feast.feature_server.get_app
        # A mock in a store's place is for the tests of Feast's own code.
        feast.feature_server.get_app = lambda store: (
            Remote(store) if isinstance(store, FeatureStore) else stock_app(store)
        )


def _start_feature_server(
    repo_path: str, server_port: int, metrics: bool = False, tls_key_path: str = "",
    tls_cert_path: str = "", ca_trust_store_path: str = "",
) -> Iterator[str]:  # fmt: skip
    """In place of Feast's function of that name."""
    _serve(Path(repo_path), server_port, tls_key_path, tls_cert_path)
    return iter([f"{'https' if tls_key_path else 'http'}://localhost:{server_port}"])


def _serve(repo: Path, port: int, key: str = "", cert: str = "") -> None:
    """Start `headwater serve` for a repository, whose online store becomes Headwater's."""
    file = repo / "feature_store.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"online_store": ONLINE}))
    env = os.environ | {
        "HEADWATER_PORT": str(port), "HEADWATER_TLS_KEY": key, "HEADWATER_TLS_CERT": cert,
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "service", "--repo", str(repo)]
    process = subprocess.Popen(command, env=env)
    atexit.register(process.kill)
    until = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("localhost", port)).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)


class Remote:
    """An ASGI application whose requests go to a running service, for Starlette's TestClient."""

    def __init__(self, store: Any) -> None:
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        _serve(store.repo_path, port)
        self._url = f"http://localhost:{port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from feast.errors import FeastError

        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = urllib.request.Request(
            self._url + scope["path"], body or None, headers, method=scope["method"]
        )
        try:
            with urllib.request.urlopen(asked) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, text = refusal.code, refusal.read()
            # A TestClient raises what its application raises, and so do Feast's remote clients.
            error = FeastError.from_error_detail(yaml.safe_load(text)) if status < 500 else None
            if error is not None:
                raise error from None
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text})


def pytest_collection_finish() -> None:
    # True while modules are imported, or they want the clouds' clients; then some tests do nothing.
    os.environ["FEAST_IS_LOCAL_TEST"] = "False"


def __getattr__(name: str) -> Any:
    """What Feast's tests ask for by name; not made before, since pytest loads plugins first."""
    if name == "AVAILABLE_OFFLINE_STORES":
        from tests.universal.feature_repos.universal.data_sources import file

        if OURS:
            from headwater.offline import DuckDBOfflineStoreConfig

            file.FileDataSourceCreator.create_offline_store_config = lambda _: (
                DuckDBOfflineStoreConfig()
            )
        return [("local", file.FileDataSourceCreator)]
    if name == "AVAILABLE_ONLINE_STORES":
        # Some tests are for stores of these names only.
        return dict.fromkeys(("redis", "sqlite", "mongodb"), (ONLINE, None))
    raise AttributeError(name)
