"""Bad input of every kind gets a 4xx that says what is wrong: never a 500, never a hang.

`tests/soak/test_serving.py` does the same for longer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.serving import project
from tests.serving.fuzz import fuzz
from tests.serving.server import Running, serve


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Running]:
    repo = project.write(
        tmp_path_factory.mktemp("fuzz") / "repo", project.ours(redis_url), "fuzzed"
    )
    project.apply(repo)
    with serve(repo, redis_url) as server:
        server.fill(project.frames())
        yield server


def test_no_body_makes_a_500(running: Running) -> None:
    fuzz(running, 0, 2000)
    assert "Traceback" not in running.log.read_text()


def test_every_route_keeps_to_its_openapi_document(running: Running) -> None:
    """Schemathesis makes requests from the document, right and wrong ones."""
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
        "run", f"{running.url}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
        "--max-examples", "15", "--seed", "1", "--phases", "examples,coverage,fuzzing",
        "--workers", "1", "--request-timeout", "30", "--suppress-health-check", "all",
        "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in running.log.read_text()
