"""A million served values through faults of all kinds, each recomputed; run by `make soak`."""

from __future__ import annotations

import pytest

from tests.faults import scenarios
from tests.faults.proof import served, unequal, verified
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
    with served(stage, seed) as asker:
        view_changed(stage)
        while asker.vectors * features < VALUES:
            scenarios.anything(stage)
            stage.crew.check()
        stage.send()
        stage.crew.finish()
    report = verified(stage)
    print(f"{report.vectors:,} vectors, {report.compared:,} values, not compared "  # noqa: T201
          f"{report.not_comparable:,}")  # fmt: skip
    assert not report.different, unequal(report)
    assert report.compared >= VALUES // 2
