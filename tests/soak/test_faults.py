"""Many faults in long runs; run by `make soak`, which shows with `-rP` what was compared."""

from __future__ import annotations

import pytest

from tests.faults import scenarios
from tests.faults.crashing_worker import STEPS
from tests.faults.stages import CLIENTS, MakeStage, compared, make_stage, template

__all__ = ["make_stage", "template"]

# kafka-python leaves the sockets to a killed broker to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ROUNDS = {
    "sigkill": 200, "zombie": 20, "rebalance": 30, "broker_restart": 10, "redis_restart": 20,
    "redis_emptied": 10, "redis_lost": 10, "redis_rewound": 10, "disk_full": 10, "clock_jump": 20,
    "broker_away": 1, "redis_frozen": 4,
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", [*scenarios.FAULTS, *scenarios.LONG_FAULTS])
def test_after_many_faults_everything_is_right(
    make_stage: MakeStage, fault: str, client: str
) -> None:
    stage = make_stage(2, client)
    stage.events = 500
    faults = {**scenarios.FAULTS, **scenarios.LONG_FAULTS}
    scenarios.run(faults[fault], stage, ROUNDS[fault])
    found = compared(stage)
    assert found.messages == stage.feed.sent


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("step", STEPS)
def test_after_crashes_at_one_step_everything_is_right(
    make_stage: MakeStage, step: str, client: str
) -> None:
    stage = make_stage(list(STEPS).index(step), client)
    stage.feed.send(1000)
    for nth in (1, 2, 3, 5, 9):
        scenarios.crash(stage, step, nth)
    stage.crew.finish()
    found = compared(stage)
    assert found.messages == stage.feed.sent


@pytest.mark.parametrize("seed", range(5))
def test_after_faults_of_all_kinds_everything_is_right(make_stage: MakeStage, seed: int) -> None:
    stage = make_stage(seed)
    scenarios.run(scenarios.anything, stage, 12)
    found = compared(stage)
    assert found.messages == stage.feed.sent
