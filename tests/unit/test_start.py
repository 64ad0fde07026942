"""What the two applications must not load when they start."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("application", ["service.app", "service.__main__", "ingest.__main__"])
def test_no_application_waits_for_heavy_imports_at_its_start(application: str) -> None:
    unwanted = ["feast"]
    if application.startswith("service"):
        unwanted += ["pandas", "duckdb", "deltalake", "grpc"]
    script = f"import sys, {application}; found = sys.modules.keys() & {{*{unwanted}}}"
    script += "; sys.exit(f'{found} are imported' if found else 0)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
