"""Waiting for what comes true by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], seconds: float = 30, failure: str = "it never came true",
    meanwhile: Callable[[], object] = lambda: None,
) -> float:  # fmt: skip
    """Wait for a condition; the seconds that it took. Fails the test when it never comes true.

    meanwhile: what is looked at between two tries, such as that a worker still lives.
    """
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, failure
        meanwhile()
        time.sleep(0.01)
    return time.monotonic() - start
