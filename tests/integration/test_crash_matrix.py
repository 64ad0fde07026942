"""A worker that dies at any step of its work, and one that goes on: every value is right."""

from __future__ import annotations

import pytest

from tests.faults.crashing_worker import STEPS
from tests.faults.crew import Worker, until
from tests.faults.stages import MakeStage, compared, make_stage, template

__all__ = ["make_stage", "template"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_loses_and_doubles_nothing(make_stage: MakeStage, step: str) -> None:
    stage = make_stage(list(STEPS).index(step))
    stage.feed.send(1000)
    # The first call, and one amid the work; what the first left behind meets the second.
    for nth in (1, stage.chance.randrange(2, 9)):
        worker = stage.crew.start(f"{step}:{nth}")

        def more(worker: Worker = worker) -> bool:
            stage.feed.send(50)
            return worker.poll() is not None

        until(more, f"the worker never came to {step}:{nth}")
        assert worker.returncode == -9, "the worker ended by itself"
        stage.crew.kill(worker)
    stage.crew.finish()
    found = compared(stage)
    assert found.messages == stage.feed.sent
