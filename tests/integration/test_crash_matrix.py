"""Workers that die at every step of their work, and one that goes on: every value is right."""

from __future__ import annotations

import pytest

from tests.faults.crashing_worker import FAILURES, STEPS
from tests.faults.scenarios import crash, fail
from tests.faults.stages import CLIENTS, MakeStage, compared

# What one crash left behind meets the next; `tests/soak` has each step alone.
GROUPS = {
    "reading": ["poll", "decode", "before-fold", "after-fold"],
    "redis": ["before-redis", "amid-redis", "after-redis", "before-progress", "after-progress"],
    "log": ["before-log", "amid-log", "after-log"],
    "commit": ["before-commit", "after-commit"],
    "dead letters": ["before-dead-letters", "amid-dead-letters", "after-dead-letters"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_crash_at_any_step_loses_and_doubles_nothing(make_stage: MakeStage, group: str) -> None:
    stage = make_stage(list(GROUPS).index(group))
    stage.feed.send(1000)
    for step in GROUPS[group]:
        crash(stage, step, stage.chance.choice([1, 2, 5]))
    stage.crew.finish()
    found = compared(stage)
    assert found.messages == stage.feed.sent


@pytest.mark.parametrize(
    ("step", "client"), [*((step, CLIENTS[0]) for step in FAILURES), ("commit-fails", CLIENTS[1])]
)
def test_a_worker_that_is_stopped_as_a_step_fails_commits_nothing_more(
    make_stage: MakeStage, step: str, client: str
) -> None:
    """What failed is gone from its memory: a later commit would pass it by for good."""
    stage = make_stage(list(FAILURES).index(step), client)
    stage.feed.send(1000)
    fail(stage, step, 1)
    stage.crew.finish()
    found = compared(stage)
    assert found.messages == stage.feed.sent
    assert found.dead > 0


def test_every_step_is_in_some_group() -> None:
    assert sorted(step for steps in GROUPS.values() for step in steps) == sorted(STEPS)
