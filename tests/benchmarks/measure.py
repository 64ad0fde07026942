"""What a benchmark measures of a process, and how it says so: samples, medians, tables, files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

#: Results land here; git ignores it.
RESULTS = Path(__file__).parents[2] / "bench"
CORES = 2
_TICK = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """A process tree at a moment: seconds, events done so far, CPU seconds, resident MB."""

    at: float
    done: int
    cpu: float
    mb: float


@dataclass(frozen=True)
class Run:
    """One process from its start to its end. `samples` starts with its first finished event."""

    events: int
    wall: float
    peak_mb: float
    samples: tuple[Sample, ...]

    @property
    def rate(self) -> float:
        """Events per second from the first one seen done to the end, commits included."""
        return self._between(self.samples[0])[0]

    @property
    def cpu_rate(self) -> float:
        """Events per CPU-second over the same time."""
        return self._between(self.samples[0])[1]

    def warm(self, after: float = 0.25) -> tuple[float, float]:
        """(events/s, events per CPU-second) once a part of the events is done: no warm-up."""
        return self._between(next(s for s in self.samples if s.done >= after * self.events))

    def memory(self, parts: int = 5) -> list[float]:
        """Resident MB when each of so many parts of the events was done."""
        return [
            next(s.mb for s in self.samples if s.done >= (part + 1) / parts * self.events)
            for part in range(parts)
        ]

    def _between(self, start: Sample) -> tuple[float, float]:
        end = self.samples[-1]
        done = self.events - start.done
        return done / (end.at - start.at), done / max(end.cpu - start.cpu, 1 / _TICK)


def use_cores(count: int = CORES) -> None:
    """This process and whatever it starts (servers, workers) share the first `count` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def run(
    commands: Sequence[Sequence[str]],
    envs: Sequence[Mapping[str, str]],
    done: Callable[[], int],
    events: int,
    *,
    log: Path,
    every: float = 0.25,
    outlives: bool = False,
) -> Run:
    """Run processes side by side to their end; `done()` tells how many events they have finished.

    The measured end is the processes' own, or, where they outlive their work (a JVM that shuts
    down), when `done()` says `events`. Raises RuntimeError where a process fails.
    """
    started = time.monotonic()
    with log.open("wb") as out:
        alive = {
            process.pid: process
            for process in (
                subprocess.Popen(command, env=dict(env), stdout=out, stderr=subprocess.STDOUT)
                for command, env in zip(commands, envs, strict=True)
            )
        }
    samples: list[Sample] = []
    cpu: dict[int, float] = {}
    peak = reaped = 0.0
    try:
        while alive:
            resident = sum(_observe(pid, cpu) for pid in alive)
            peak = max(peak, resident)
            if count := done():
                samples.append(Sample(time.monotonic(), count, sum(cpu.values()), resident))
            time.sleep(every if samples else 0.02)
            for process in list(alive.values()):
                reaped += _reap(process, log)
                if process.returncode is not None:
                    del alive[process.pid]
    finally:
        for process in alive.values():
            process.kill()
            process.wait()
    ended = time.monotonic()
    resident = samples[-1].mb if samples else 0.0
    finished = Sample(ended, events, max(sum(cpu.values()), reaped), resident)
    if outlives:
        finished = next((s for s in samples if s.done >= events), finished)
    kept = [s for s in samples if s.done < events]
    assert kept, f"{events} events were done before they could be seen; take more"
    return Run(events, ended - started, peak, (*kept, finished))


def _reap(process: subprocess.Popen[bytes], log: Path) -> float:
    """The CPU seconds of a process that has ended; 0 while it runs."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not pid:
        return 0.0
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{tail}")
    return usage.ru_utime + usage.ru_stime


def _observe(root: int, cpu: dict[int, float]) -> float:
    """Note the CPU seconds of a process tree by pid; its resident MB."""
    resident, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            children = "".join(
                path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")
            )
        except (OSError, IndexError):  # it has just ended
            continue
        cpu[pid] = (int(stat[11]) + int(stat[12])) / _TICK
        resident += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        todo += [int(child) for child in children.split()]
    return resident


def tree_cpu(root: int) -> float:
    """CPU seconds so far of a process and its descendants."""
    cpu: dict[int, float] = {}
    _observe(root, cpu)
    return sum(cpu.values())


def cpu_seconds(name: str) -> float:
    """CPU seconds so far of our own descendants whose command line holds a name."""
    cpu: dict[int, float] = {}
    _observe(os.getpid(), cpu)
    total = 0.0
    for pid, seconds in cpu.items():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        total += seconds if name in line and pid != os.getpid() else 0.0
    return total


def counter(url: str, name: str) -> int:
    """A counter of a /metrics page, over all its labels; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def environment(*packages: str) -> str:
    """One line: cores, CPU, Python, the versions that matter."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Python {platform.python_version()}, {versions}"


class Report:
    """A titled Markdown table and the numbers behind it, printed and written to `bench/`."""

    def __init__(self, name: str, title: str, environment: str, columns: Sequence[str]) -> None:
        self.name, self.title, self.environment = name, title, environment
        self.columns, self.rows, self.notes = list(columns), [], []
        self.data: dict[str, Any] = {}

    rows: list[list[str]]
    notes: list[str]

    def row(self, *cells: Any) -> None:
        self.rows.append([cell if isinstance(cell, str) else f"{cell:,.0f}" for cell in cells])
        print("  " + " | ".join(self.rows[-1]), flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        """Print the table; write it and the data as `bench/NAME.md` and `bench/NAME.json`."""
        widths = [
            max(len(row[i]) for row in [self.columns, *self.rows]) for i in range(len(self.columns))
        ]
        rule = ["-" * width for width in widths]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in [self.columns, rule, *self.rows]
        ]
        notes = [f"- {note}" for note in self.notes]
        text = "\n".join(
            [f"## {self.title}", "", self.environment, "", *lines, *([""] if notes else []), *notes]
        )
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.md").write_text(text + "\n")
        kept = {"title": self.title, "environment": self.environment, **self.data}
        (RESULTS / f"{self.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(f"\n{text}\n", flush=True)


def middle(runs: Sequence[float]) -> float:
    return statistics.median(runs)
