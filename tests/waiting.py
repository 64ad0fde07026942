"""Waiting for what comes true by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx


def until(
    condition: Callable[[], Any], seconds: float = 120,
    failure: str | Callable[[], object] = "it never came true",
    meanwhile: Callable[[], object] = lambda: None,
) -> float:  # fmt: skip
    """Wait for a condition; the seconds that it took. Fails the test when it never comes true.

    failure: what is said then, or what gives it once the time is over.
    meanwhile: what is looked at between two tries, such as that a worker still lives.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise AssertionError(failure if isinstance(failure, str) else failure())
        meanwhile()
        time.sleep(0.01)
    return time.monotonic() - start


def answers(url: str) -> bool:
    """Whether a server gives a page: many listen before they can be asked."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
