"""Redis over TLS, its certificate signed by an authority of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import redis

from headwater.errors import StoreUnavailableError
from headwater.local import LocalKafka
from headwater.local.process import HOST, Server, free_ports
from headwater.online.connect import connect
from tests.faults import project, truth
from tests.faults.compare import compare
from tests.faults.crew import Crew
from tests.faults.feed import Feed
from tests.integration.test_redis_cluster import assert_served


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def certificate(folder: Path) -> tuple[Path, Path, Path]:
    """An authority made here, and what it signed for this host: (authority, certificate, key)."""
    authority, signing = folder / "ca.pem", folder / "ca.key"
    request, cert, key = folder / "request", folder / "cert.pem", folder / "key.pem"
    names = folder / "names"
    names.write_text(f"subjectAltName=IP:{HOST}")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    _openssl(*new, "-x509", "-subj", "/CN=authority", "-keyout", signing, "-out", authority)
    _openssl(*new, "-subj", "/CN=redis", "-keyout", key, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", authority, "-CAkey", signing,
             "-CAcreateserial", "-extfile", names, "-out", cert)  # fmt: skip
    return authority, cert, key


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis that speaks TLS alone; Debian's, for the embedded one has no TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        assert not os.environ.get("CI"), "redis-server is missing, which .ci/run installs"
        pytest.skip("there is no redis-server, and the embedded one has no TLS")
    authority, cert, key = certificate(tmp_path_factory.mktemp("tls"))
    (port,) = free_ports(1)
    url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority}"
    server = Server("redis-tls", port, None)
    options = {
        "bind": HOST, "port": "0", "tls-port": str(port), "tls-cert-file": str(cert),
        "tls-key-file": str(key), "tls-ca-cert-file": str(authority), "tls-auth-clients": "no",
        "dir": str(server.folder), "save": "",
    }  # fmt: skip

    def answers() -> bool:
        try:
            with redis.Redis.from_url(url, retry=None) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        server.start([binary, *flags], answers)
        yield url
    finally:
        server.close()


def test_worker_and_service_use_a_redis_over_tls(
    template: Path, tmp_path: Path, secured: str, kafka: LocalKafka
) -> None:
    run = f"t{uuid.uuid4().hex[:8]}"
    repo = project.copy(template, tmp_path / run, run)
    crew = Crew(repo, kafka.bootstrap, secured, run)
    with (
        closing(crew), closing(Feed(kafka.bootstrap, run, 5)) as feed, connect(secured) as client
    ):  # fmt: skip
        feed.send(1000)
        crew.start()
        crew.finish()
        found = compare(repo, partial(truth.read_topic, kafka.bootstrap), client)  # type: ignore[arg-type]
        assert found.messages == feed.sent
        assert min(found.windows, found.rows) > 0
        assert_served(repo, secured, client)


def test_a_server_of_an_unknown_authority_is_not_trusted(secured: str) -> None:
    with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
        connect(secured.partition("?")[0], 1.0)
