"""A share of a core for a process, by the kernel's control groups; needs to be root on Linux."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PERIOD_US = 20_000
_ROOT = Path("/sys/fs/cgroup")


@contextmanager
def limited(commands: Sequence[Sequence[str]], cores: float) -> Iterator[list[list[str]]]:
    """The commands, each to run with at most so many cores. Raises OSError where that cannot be."""
    quota = str(int(cores * _PERIOD_US))
    first = (_ROOT / "cpu").is_dir()  # version 1 of the groups, else version 2
    groups = [
        _ROOT / ("cpu" if first else "") / f"headwater-bench-{os.getpid()}-{at}"
        for at in range(len(commands))
    ]
    try:
        for group in groups:
            group.mkdir()
            if first:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(quota)
            else:
                (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        yield [
            ["sh", "-c", enter, str(group), *command]
            for group, command in zip(groups, commands, strict=True)
        ]
    finally:
        for group in groups:
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()


def refusal() -> str:
    """Why processes cannot be limited here; empty where they can."""
    try:
        with limited([[]], 1.0):
            return ""
    except OSError as error:
        return str(error)
