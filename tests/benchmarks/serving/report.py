"""The figures of `bench_serving.py` as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: name, entities a request, connections of the load generator
SHAPES = [("1x30", 1, 16), ("100x30", 100, 8)]
#: Requests that the service takes at once (HEADWATER_MAX_CONCURRENT_REQUESTS by default).
BOUND = 256
#: Feast's Go server over HTTP with statuses, requests/s on two such cores: measured once, by hand,
#: with the same shapes; none is built here.
GO = {"1x30": 5_463, "100x30": 272}
_TITLES = {"1x30": "1 entity, 30 features", "100x30": "100 entities, 30 features"}
_BEGIN, _END = "<!-- bench_serving: begin -->", "<!-- bench_serving: end -->"


def _times(ratio: float) -> str:
    return f"x {ratio:.0f}" if ratio >= 100 else f"x {ratio:.2g}"


def whole(found: dict[str, Any]) -> str:
    """Every table."""
    parts = [summary(found), _loads(found)]
    if "stages" in found:
        parts.append(_stages(found["stages"]))
    if "overload" in found:
        parts.append(_overload(found["overload"]))
    return "\n".join(parts)


def put_into(file: Path, text: str) -> None:
    """Write a text between the file's two marks."""
    before, rest = file.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    file.write_text(f"{before}{_BEGIN}\n{text}{_END}{after}")


def summary(found: dict[str, Any]) -> str:
    """What was measured of Feast and of Headwater, and how they compare."""
    lines = [
        f"{found['environment']}, load generator and Redis included; {found['at'][:10]}; "
        f"{found['entities']:,} entities; medians of {found['runs']} runs of "
        f"{found['seconds']:g} s.", "",
        "| | Feast | Headwater | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    lines += [f"| {' | '.join(row)} |" for row in (*_compared(found), *_alone(found))]
    return "\n".join(lines) + "\n"


def _compared(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of what both servers do: a title, Feast's figure, ours, the ratio."""
    both = ("feast", "headwater")

    def row(title: str, figures: Sequence[float | None], form: str = ",.0f") -> tuple[str, ...]:
        theirs, ours = figures
        ratio = _times(ours / theirs) if theirs and ours else ""
        return (title, *(format(one, form) if one else "" for one in figures), ratio)

    def of(shape: str, key: str, more: str = "") -> list[float | None]:
        return [found.get(f"{server}{more}", {}).get(shape, {}).get(key) for server in both]

    def plain(key: str) -> list[float | None]:
        return [found.get(server, {}).get(key) for server in both]

    for shape, title in _TITLES.items():
        rates = of(shape, "rate")
        yield row(f"{title}: `feast serve`, requests/s", rates)
        yield row(f"{title}: Feast's Go server, requests/s", (GO[shape], rates[1]))
        yield row(f"{title}: p99 at half of the load, ms", of(shape, "half_p99_ms"), ".1f")
        yield row(f"{title}: gRPC (`feast listen`), calls/s", of(shape, "rate", " gRPC"))
    yield row("bytes in Redis for each (entity, view of 10 floats)", plain("bytes"))
    yield row("seconds from start to the first vector", plain("start_seconds"), ".1f")
    yield row("resident memory, MB", plain("rss_mb"))


def _alone(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of what only ours does."""
    if "windows" in found:
        for shape, title in _TITLES.items():
            rate = found["windows"][shape]["rate"]
            share = rate / found["headwater"][shape]["rate"]
            yield f"{title}, windows: requests/s", "", f"{rate:,.0f}", f"{share:.2f} of the rows'"
    if "batch" in found:
        json, arrow = (found["batch"][form]["rate"] for form in ("JSON", "Arrow"))
        title = "1,000 entities, 30 features"
        yield f"{title}: JSON, requests/s", "", f"{json:,.0f}", ""
        yield f"{title}: Arrow, requests/s", "", f"{arrow:,.0f}", f"x {arrow / json:.2g} JSON's"
    if "outage" in found:
        gone, back = (
            statistics.median(run[key] for run in found["outage"])
            for key in ("refused_ms", "back_ms")
        )
        yield "Redis gone: a 503 within, ms", "", f"{gone:,.0f}", ""
        yield "Redis started again: vectors after, ms", "", f"{back:,.0f}", ""


def _loads(found: dict[str, Any]) -> str:
    lines = [
        "| server | shape | requests/s | p50 ms | p99 ms | CPU us a request | at half load: req/s "
        "| p50 ms | p99 ms |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for server in ("feast", "headwater", "windows", "feast gRPC", "headwater gRPC"):
        for shape, _, _ in SHAPES:
            if server in found:
                f = found[server][shape]
                half = (
                    f"{f['half_rate']:,.0f} | {f['half_p50_ms']:.2f} | {f['half_p99_ms']:.2f}"
                    if "half_rate" in f
                    else "| |"
                )
                lines.append(
                    f"| {server} | {shape} | {f['rate']:,.0f} | {f['p50_ms']:.2f} | "
                    f"{f['p99_ms']:.2f} | {f['cpu_us']:,.0f} | {half} |"
                )
    return "\n".join(lines) + "\n"


def _stages(found: dict[str, dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for taken in found.values() for name in taken))
    lines = [f"| us in our own code | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for name, taken in found.items():
        cells = [f"{taken[stage]:.1f}" if stage in taken else "" for stage in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _overload(found: dict[str, Any]) -> str:
    lines = [
        "| shape | load | sent/s | vectors/s | p50 ms | p99 ms | 503/s | p99 ms of a 503 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for shape, loads in found.items():
        for load, f in loads.items():
            lines.append(
                f"| {shape} | {load} | {f['accepted'] + f['refused']:,.0f} | "
                f"{f['accepted']:,.0f} | {f['accepted_p50_ms']:.1f} | "
                f"{f['accepted_p99_ms']:.1f} | {f['refused']:,.0f} | {f['refused_p99_ms']:.1f} |"
            )
    return "\n".join(lines) + "\n"
