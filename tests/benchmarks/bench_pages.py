"""How long the service takes for a page, of a catalogue of 1,000 features in 100 views.

Every feature of half of the views is served first, so that there are nulls to draw. Writes
`bench/pages.json` and `pages.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from tests.benchmarks.measure import RESULTS
from tests.serving import many, project
from tests.serving.server import Running, serve

PAGES = {
    "catalogue": "/ui/",
    "catalogue, found by a word": "/ui/?q=team-3",
    "catalogue, one feature found": "/ui/?q=feature_42_7",
    "catalogue, its last part": "/ui/?start=900",
    "view": "/ui/views/view_10",
    "feature": "/ui/features/view_10/feature_10_3",
    "look up, chosen": "/ui/lookup?of=service:model",
    "look up, 500 features": "/ui/lookup?of=service:model&entity.customer_id=ada",
    "sign-in": "/ui/sign-in",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    requests = 20 if arguments.quick else arguments.requests
    store = LocalRedis()
    store.start()
    with contextlib.closing(store), tempfile.TemporaryDirectory() as folder:
        repo = many.make(Path(folder) / "many", project.ours(store.url))
        with serve(repo, store.url) as running:
            for _ in range(50):
                asked = {"customer_id": ["ada", "nobody"]}
                assert running.features("model", asked, full_feature_names=True).status == 200
            time.sleep(12)  # the history looks every ten seconds
            found = {name: measure(running, path, requests) for name, path in PAGES.items()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pages.json").write_text(json.dumps(found, indent=2))
    (RESULTS / "pages.md").write_text(markdown(found))
    print(markdown(found))


def measure(running: Running, path: str, requests: int) -> dict[str, Any]:
    times = []
    for _ in range(requests):
        start = time.perf_counter()
        answer = running.get(path)
        times.append((time.perf_counter() - start) * 1e3)
        assert answer.status == 200, path
    times.sort()
    return {
        "kilobytes": len(answer.body) / 1024, "slowest_ms": times[-1],
        "median_ms": statistics.median(times), "p95_ms": times[int(len(times) * 0.95)],
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    lines = ["| page | KB | median ms | p95 ms | slowest ms |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {f['kilobytes']:.0f} | {f['median_ms']:.1f} | {f['p95_ms']:.1f} | "
        f"{f['slowest_ms']:.1f} |"
        for name, f in found.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
