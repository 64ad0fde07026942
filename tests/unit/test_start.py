"""What the two applications must not load when they start."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("application", ["service.app", "service.__main__", "ingest.__main__"])
def test_no_application_waits_for_feasts_import_at_its_start(application: str) -> None:
    script = f"import sys, {application}; sys.exit('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
