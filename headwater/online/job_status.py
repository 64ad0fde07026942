"""How jobs of a project went (materialize, check, ...): a hash in Redis that the service shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from headwater.errors import StoreUnavailableError
from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter

#: The job that loads batch sources.
MATERIALIZE = "materialize"
#: The job that compares features with their baselines.
DRIFT = "drift"
#: The job that tidies up offline logs; its subjects are Kafka sources.
COMPACT = "compact"


class JobStatus(msgspec.Struct):
    """One job on one subject (a view). Seconds; `seconds` and `error` are of the last run."""

    ok: int = 0
    failed: int = 0
    rows: int = 0
    seconds: float = 0.0
    last_success: float = 0.0
    last_failure: float = 0.0
    error: str = ""


class Run:
    """A run under way; set `rows` before it ends."""

    rows = 0


def _key(project: str) -> str:
    return f"headwater:{project}:jobs"


@contextmanager
def running(writer: OnlineWriter, job: str, subject: str) -> Iterator[Run]:
    """Takes note of how the run inside went; what it raises goes on."""
    run, start = Run(), time.monotonic()
    try:
        yield run
    except Exception as error:
        try:
            _note(writer, f"{job}|{subject}", run, time.monotonic() - start, str(error) or "?")
        except StoreUnavailableError:
            raise error from None  # the reason why it failed is the better one to tell
        raise
    _note(writer, f"{job}|{subject}", run, time.monotonic() - start, "")


def _note(writer: OnlineWriter, field: str, run: Run, seconds: float, error: str) -> None:
    with store_errors():
        pipe: Any = writer.client.pipeline()
        key = _key(writer.project)
        pipe.hincrby(key, f"{field}|{'failed' if error else 'ok'}", 1)
        pipe.hincrby(key, f"{field}|rows", run.rows)
        pipe.hset(key, f"{field}|seconds", repr(seconds))
        pipe.hset(key, f"{field}|error", error)
        end = "last_failure" if error else "last_success"
        pipe.hset(key, f"{field}|{end}", repr(time.time()))
        pipe.execute()


def read(writer: OnlineWriter) -> dict[tuple[str, str], JobStatus]:
    """(job, subject) -> how its runs went."""
    with store_errors():
        found: Any = writer.client.hgetall(_key(writer.project))
    jobs: dict[tuple[str, str], JobStatus] = {}
    for field, value in found.items():
        of, _, name = field.decode().rpartition("|")
        job, _, subject = of.partition("|")
        status = jobs.setdefault((job, subject), JobStatus())
        kind = type(getattr(status, name))
        setattr(status, name, kind(value.decode()))
    return jobs
