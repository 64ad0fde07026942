"""Load from wrk: requests a second, latencies, and the errors that would make them worthless."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Random entities in every request; `delay` paces a connection for the latency at a given rate.
_LUA = """
local head, tail, n, entities, pause = [[%(head)s]], [[%(tail)s]], %(n)d, %(entities)d, %(pause)f
function init(args)
  math.randomseed(os.time() + tonumber(tostring({}):match("0x(%%x+)"), 16) %% 1000003)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "%(accept)s"
end
function request()
  local ids = {}
  for i = 1, n do ids[i] = math.random(0, entities - 1) end
  return wrk.format(nil, "/get-online-features", nil, head .. table.concat(ids, ",") .. tail)
end
%(delay)s
function done(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""
_DELAY = """
function delay() return math.floor(pause * 2 * math.random() + 0.5) end
"""


class Load(NamedTuple):
    """Requests a second; latencies in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def body(features: Sequence[str], **more: Any) -> tuple[str, str]:
    """The request's text before and after the list of entities."""
    text = json.dumps({"features": list(features), **more, "entities": {"customer_id": ["@"]}})
    head, tail = text.split('"@"')
    return head, tail


def run(
    url: str, features: Sequence[str], n: int, entities: int, connections: int, seconds: int,
    rate: float | None = None, accept: str = "application/json", **more: Any,
) -> Load:  # fmt: skip
    """One run. With a rate, each connection pauses so that together they send about that rate.

    accept: the header; more: other members of the request.
    """
    head, tail = body(features, **more)
    pause = connections / rate * 1000 if rate else 0.0
    script = _LUA % {
        "head": head, "tail": tail, "n": n, "entities": entities, "pause": pause,
        "delay": _DELAY if rate else "", "accept": accept,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder) / "load.lua"
        lua.write_text(script)
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency",
             "-s", str(lua), url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(done.stdout + done.stderr)
    requests, duration, p50, p99, status, broken = map(int, found.groups())
    if status or broken:
        raise RuntimeError(f"{status} answers were no 200, {broken} broke")
    return Load(requests / duration * 1e6, p50 / 1000, p99 / 1000)


def run_rpc(address: str, method: str, message: bytes, connections: int, seconds: int) -> Load:
    """One run of gRPC calls, by h2load: always the same message, since it can send but one."""
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "message", Path(folder) / "log"
        data.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        done = subprocess.run(
            ["h2load", "-t1", f"-c{connections}", f"-D{seconds}", f"-d{data}",
             "-Hcontent-type: application/grpc", "-Hte: trailers", f"--log-file={log}",
             f"http://{address}{method}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if not rows or any(row[1] != "200" for row in rows):
        raise RuntimeError(done.stdout + done.stderr)
    times = sorted(int(row[2]) / 1000 for row in rows)
    return Load(len(rows) / seconds, times[len(times) // 2], times[len(times) * 99 // 100])


def median(runs: Sequence[Load]) -> Load:
    return Load(*(statistics.median(values) for values in zip(*runs, strict=True)))


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")
