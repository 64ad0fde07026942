"""A service beside the workers of a stage, asked all the while, whose every answer is verified."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater import catalog_cache
from headwater.offline.feature_log import FeatureLog
from headwater.offline.verify import Report, verify
from tests.faults.feed import DEVICES, USERS
from tests.faults.scenarios import Stage
from tests.serving.server import Running, serve

#: Entities of one request.
ASKED = 40


class Asker:
    """Asks for everything about random entities until it is told to stop."""

    def __init__(self, running: Running, repo: Path, seed: int, pause: float) -> None:
        self._running, self._repo, self._chance = running, repo, random.Random(seed)
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers = self.vectors = 0
        self.failure = ""

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            catalog = catalog_cache.load(self._repo)
            features = [f"{v.name}:{f}" for v in catalog.views.values() for f in v.feature_names]
            n = self._chance.choice([1, ASKED])
            body: dict[str, Any] = {
                "features": features, "full_feature_names": True,
                "entities": {
                    "user_id": [self._chance.randrange(USERS + 2) for _ in range(n)],
                    "device_id": [f"d{self._chance.randrange(DEVICES + 1)}" for _ in range(n)],
                },
            }  # fmt: skip
            found = self._running.post("/get-online-features", body)
            if found.status == 200:
                self.answers += 1
                self.vectors += n
            elif found.status not in {503, 404, 422}:
                # Redis away, or a view that the service does not know yet (or any more).
                self.failure = f"{found.status} {found.body[:300]!r}"

    @contextmanager
    def asking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
        assert not self.failure


@contextmanager
def served(stage: Stage, seed: int = 1, pause: float = 0.05) -> Iterator[Asker]:
    """A service that is asked all the while; what it served is in the log at the end.

    pause: seconds between an answer and the next request.
    """
    repo = stage.crew.repo
    settings = {"HEADWATER_FEATURE_LOG": str(repo / "vectors"),
                "HEADWATER_FEATURE_LOG_SECONDS": "2"}  # fmt: skip
    with serve(repo, stage.redis.url, **settings) as running:
        asker = Asker(running, repo, seed, pause)
        with asker.asking():
            yield asker


def verified(stage: Stage) -> Report:
    """Every vector that was served; the workers must have taken everything in."""
    repo = stage.crew.repo
    return verify(catalog_cache.load(repo), [FeatureLog(str(repo / "vectors" / "features"))])


def unequal(report: Report) -> list[Any]:
    """Examples of what differs, for a test to show."""
    return [
        (f.view, f.feature, dict(f.causes), f.examples[:2])
        for f in report.features.values()
        if f.different
    ]
