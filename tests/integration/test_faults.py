"""Faults of workers, broker, store, disk and clock: nothing is lost and nothing doubled."""

from __future__ import annotations

import pytest

from tests.faults import scenarios
from tests.faults.stages import CLIENTS, MakeStage, compared

#: All of them run on this client in `tests/soak`.
CONFLUENT = ["sigkill", "rebalance"]
ROUNDS = {"sigkill": 4, "zombie": 1, "rebalance": 2, "clock_jump": 2}


# kafka-python leaves the sockets to a killed broker to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("fault", "client"),
    [*((fault, CLIENTS[0]) for fault in scenarios.FAULTS), *((f, CLIENTS[1]) for f in CONFLUENT)],
)
def test_after_faults_every_window_row_log_row_and_dead_letter_is_right(
    make_stage: MakeStage, fault: str, client: str
) -> None:
    stage = make_stage(1, client)
    scenarios.run(scenarios.FAULTS[fault], stage, ROUNDS.get(fault, 1))
    found = compared(stage)
    assert found.messages == stage.feed.sent
    assert min(found.windows, found.rows, found.logged, found.dead) > 0
