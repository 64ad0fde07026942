"""Training sets, windows at label times, materialization and profiles against their rivals.

Each engine runs in a process of its own, so that its peak memory is its own; the answers are
compared value by value. Seconds are the median of several calls where a first call stands beside
them, else of one. Beside the clock stand the processor seconds of the engine's threads, which
tell more on a busy machine. `--scale 0.1` is a tenth of the rows, `--case rows` one case, `--long`
adds 100M events and 10M labels. Prints Markdown; `--out DIR` writes it there, and JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import offline_engines as engines
import pyarrow.parquet as pq

CASES = {
    "rows": ["headwater", "plugin", "feast", "polars"],
    "windows": ["headwater", "duckdb", "duckdb_zoneless", "duckdb_numbers", "numpy"],
    "materialize": ["headwater", "feast"],
    "profile": ["headwater"],
}
LONG = {"long": ["headwater", "reading"], "long_tenth": ["headwater", "reading"]}


def run(case: str, engine: str, folder: Path, scale: float) -> dict[str, Any]:
    command = [sys.executable, engines.__file__, case, engine, str(folder), str(scale)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case} by {engine} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def assert_equal(case: str, folder: Path, names: list[str]) -> None:
    """Every engine's answer is the first one's, row for row, to 1e-9 relative."""
    files = {name: folder / f"{case}.{name}.parquet" for name in names}
    made = [name for name, file in files.items() if file.exists()]
    if len(made) < 2:
        return
    first, *others = made
    wanted = pq.read_table(files[first])
    for name in others:
        found = pq.read_table(files[name]).select(wanted.column_names)
        assert found.num_rows == wanted.num_rows, (name, found.num_rows, wanted.num_rows)
        for column in wanted.column_names:
            a = wanted[column].cast("float64").to_numpy()
            b = found[column].cast("float64").to_numpy()
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=f"{name}: {column}")


def report(case: str, found: dict[str, dict[str, Any]]) -> list[str]:
    ours = found["headwater"]
    lines = [f"### {case}", "",
             "| engine | seconds | processor seconds | peak MB | times ours | first call | note |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, one in found.items():
        times = one["seconds"] / ours["seconds"]
        first = f"{one['first']:.2f}" if "first" in one else ""
        lines.append(
            f"| {name} | {one['seconds']:.2f} | {one['cpu']:.2f} "
            f"| {one['peak_mb']:,.0f} | {times:.2f} | {first} "
            f"| {one.get('note', '')} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=[*CASES, *LONG])
    parser.add_argument("--engine", action="append", help="only these engines")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--data", type=Path, help="folder to keep the input in")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    cases = CASES | (LONG if given.long or set(given.case or ()) & LONG.keys() else {})
    everything: dict[str, Any] = {}
    text: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for case, names in cases.items():
            if given.case and case not in given.case:
                continue
            names = [n for n in names if not given.engine or n in given.engine]
            engines.make(case, folder, given.scale)
            found = {name: run(case, name, folder, given.scale) for name in names}
            assert_equal(case, folder, names)
            everything[case] = found
            if "headwater" in found:
                lines = report(case, found)
                print("\n".join(lines), flush=True)
                text += lines
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "offline.json").write_text(json.dumps(everything, indent=2))
        (given.out / "offline.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
