"""While everything goes wrong, every value that is served equals what the offline log says."""

from __future__ import annotations

import pytest

from tests.faults import project, scenarios
from tests.faults.proof import served, unequal, verified
from tests.faults.scenarios import Stage
from tests.faults.served import compare_served
from tests.faults.stages import MakeStage

#: Vectors that are computed from the raw topics as well.
SAMPLE = 400


def view_changed(stage: Stage) -> None:
    """A windowed view gets another hop and is filled from the log, a row view another feature."""
    repo = stage.crew.repo
    project.define(repo, f"{repo.name}-")
    place = repo / "definitions.py"
    text = place.read_text()
    other = text.replace('"amount", 2 * HOUR, 5 * MINUTE', '"amount", 2 * HOUR, 4 * MINUTE')
    other = other.replace(
        'schema=[USER, DEVICE, Field(name="amount", dtype=Float64)],',
        'schema=[USER, DEVICE, Field(name="amount", dtype=Float64), '
        'Field(name="label", dtype=String)],',
    )
    assert other.count("4 * MINUTE") == 1
    assert len(other) > len(text)
    place.write_text(other)
    stage.send()
    stage.crew.programs.headwater("apply")
    stage.send()
    stage.crew.working()


# kafka-python leaves the sockets to a killed broker to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_served_through_faults_and_changes_equals_the_offline_log(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(7)
    stage.events = 300
    stage.send()
    stage.crew.start()
    stage.crew.working()
    with served(stage) as asker:
        for fault in (scenarios.sigkill, scenarios.rebalance, view_changed, scenarios.redis_lost):
            fault(stage)
            for worker in list(stage.crew.workers)[1:]:
                stage.crew.kill(worker)
        stage.send()
        # A worker that is killed amid a rebuild leaves its lock, for a quarter of a minute.
        stage.crew.whole()
        stage.crew.finish()
    report = verified(stage)
    assert not report.different, unequal(report)
    assert asker.vectors > 0
    assert report.vectors >= asker.vectors
    compared = {f.view: f.compared for f in report.features.values()}
    assert len(compared) == 9
    assert min(compared.values()) > 0
    log = stage.crew.repo / "vectors" / "features"
    alone = compare_served(log, stage.kafka.bootstrap, SAMPLE)
    assert alone > 50 * SAMPLE
    print(report.vectors, report.compared, report.not_comparable, alone)  # noqa: T201
