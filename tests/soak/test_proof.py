"""A million served values through faults of all kinds, each recomputed; run by `make soak`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults import scenarios
from tests.faults.proof import served, unequal, verified
from tests.faults.served import compare_served
from tests.faults.stages import MakeStage, make_stage, template
from tests.integration.test_proof import view_changed

__all__ = ["make_stage", "template"]

# kafka-python leaves the sockets to a killed broker to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
VALUES = 1_000_000


@pytest.mark.parametrize("seed", range(3))
def test_a_million_served_values_equal_the_offline_log(make_stage: MakeStage, seed: int) -> None:
    stage = make_stage(100 + seed)
    stage.send()
    stage.crew.start()
    stage.crew.working()
    features = 67
    with served(stage, seed, pause=0.01) as asker:
        view_changed(stage)
        while asker.vectors * features < 1.1 * VALUES:
            scenarios.anything(stage)
            stage.crew.check()
        stage.send()
        stage.crew.finish()
    report = verified(stage)
    reasons = sum((f.not_comparable for f in report.features.values()), Counter())
    print(f"{report.vectors:,} vectors, {report.compared:,} values, not compared {reasons}")  # noqa: T201
    assert not report.different, unequal(report)
    assert report.compared >= VALUES
    alone = compare_served(
        stage.crew.repo / "vectors" / "features", stage.kafka.bootstrap, 1000, seed
    )
    print(f"{alone:,} of them computed from the raw topics")  # noqa: T201
