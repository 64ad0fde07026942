"""A model's quality by the definitions, and predictions that meet their outcomes in any order."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.catalog import Catalog
from headwater.errors import BadRequestError
from headwater.offline.drift import Asked, report
from headwater.offline.predictions import DAY_US, path_of, quality, records_of, write
from headwater.offline.sketch_table import SketchTable
from headwater.offline.sketching import update
from headwater.quality import model_quality

DAY = 20_000 * DAY_US


def test_regression_is_measured_by_its_errors() -> None:
    found = model_quality.regression(np.array([3.0, 5.0]), np.array([2.0, 7.0]))
    assert found == {"mae": 1.5, "rmse": pytest.approx(2.5**0.5), "bias": -0.5}


def test_probabilities_are_measured_as_by_counting_pairs() -> None:
    random = np.random.default_rng(1)
    probability = np.round(random.random(400), 1)  # with ties
    outcome = random.random(400) < probability
    found = model_quality.binary(probability, outcome)
    wins = probability[outcome][:, None] - probability[~outcome][None, :]
    assert found["auc"] == pytest.approx(((wins > 0) + (wins == 0) / 2).mean())
    assert found["brier"] == pytest.approx(np.mean((probability - outcome) ** 2))
    assert found["calibration_error"] < 0.1
    assert sum(n for _, _, n in found["calibration"]) == 400
    wrong = model_quality.binary(1 - probability, outcome)
    assert wrong["log_loss"] > 2 * found["log_loss"]
    assert wrong["calibration_error"] > 0.3
    assert model_quality.binary(np.array([0.2]), np.array([True]))["auc"] is None


def test_a_rare_class_counts_as_much_in_the_balanced_accuracy() -> None:
    found = model_quality.multiclass(np.array(list("aaaa")), np.array(list("aaab")))
    assert found == {"accuracy": 0.75, "balanced_accuracy": 0.5}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ([], "the body is"),
        ({"prediction": []}, "the body is"),
        ({"predictions": [{"version": "1", "prediction": 1}]}, '"model" must be text'),
        ({"predictions": [{"model": "m", "version": "1", "prediction": None}]}, "a number or text"),
        ({"predictions": [{"model": "m", "version": "1", "prediction": 1, "x": 1}]}, "unknown"),
        ({"outcomes": [{"model": "m", "outcome": 1}]}, "prediction_id"),
        ({"outcomes": [{"model": "m", "prediction_id": "1", "outcome": [1]}]}, "true or false"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_what_would(body: Any, wrong: str) -> None:
    with pytest.raises(BadRequestError, match=wrong):
        records_of(body, 0, lambda: "id")


def log(catalog: Catalog, at: int, **body: Any) -> None:
    ids = count()
    write(path_of(catalog), records_of(body, at, lambda: str(next(ids))))


def test_predictions_meet_their_outcomes_by_version_and_day(tmp_path: Path) -> None:
    catalog = Catalog("p", "1", "", str(tmp_path))
    assert quality(path_of(catalog), 0, 2 * DAY) == []

    def made(version: str, name: int, value: Any, day: int = 0) -> dict[str, Any]:
        return {"model": "eta", "version": version, "prediction_id": str(name),
                "prediction": value, "timestamp": (DAY + day * DAY_US) // 1_000_000}  # fmt: skip

    def came(name: int, value: Any) -> dict[str, Any]:
        return {"model": "eta", "prediction_id": str(name), "outcome": value}

    log(catalog, DAY, outcomes=[came(1, 9.0)])  # before its prediction
    log(catalog, DAY + 1, predictions=[made("1", 1, 10.0), made("1", 2, 20.0), made("2", 3, 5.0)])
    log(catalog, DAY + 2, predictions=[made("1", 1, 99.0), made("1", 4, 7.0, day=1)])
    log(catalog, DAY + 3, outcomes=[came(2, 0.0), came(3, 5.0), came(77, 1.0)])
    log(catalog, DAY + 4, outcomes=[came(2, 23.0)])  # it was corrected
    found = quality(path_of(catalog), DAY, DAY + 2 * DAY_US, "eta")
    assert [(d["version"], d["day"], d["predictions"], d["outcomes"]) for d in found] == [
        ("1", "2024-10-04", 2, 2), ("1", "2024-10-05", 1, 0), ("2", "2024-10-04", 1, 1),
    ]  # fmt: skip
    assert (found[0]["task"], found[0]["mae"], found[0]["bias"]) == ("regression", 2.0, -1.0)
    assert found[1]["task"] is None
    assert quality(path_of(catalog), DAY, DAY + DAY_US, "other") == []


def test_predictions_drift_by_model_version_and_their_files_are_made_few(tmp_path: Path) -> None:
    catalog = Catalog("p", "1", "", str(tmp_path))
    table, random = SketchTable(catalog), np.random.default_rng(2)

    def predict(first: int, day: int, shift: float, n: int = 300) -> None:
        rows = [
            {"model": "eta", "version": version, "prediction": float(value),
             "prediction_id": f"{version}-{first + i}", "timestamp": (DAY + day * DAY_US) // 10**6}
            for version, by in (("1", 0.0), ("2", shift))
            for i, value in enumerate(random.normal(by, 1, n))
        ]  # fmt: skip
        log(catalog, DAY, predictions=rows)

    for day in range(3):
        predict(1000 * day, day, 0.0)
    assert update(catalog, table, {})["predictions"] == 1800
    for batch in range(60):
        predict(10_000 + batch * 10, 3, 1.0, n=10)
    assert update(catalog, table, {})["predictions"] == 1200
    assert update(catalog, table, {})["predictions"] == 0
    predict(99_000, 3, 1.0, n=10)
    assert update(catalog, table, {})["predictions"] == 20
    asked = Asked("predictions", from_us=DAY + 3 * DAY_US, until_us=DAY + 4 * DAY_US)
    found = report(catalog, table, asked, tmp_path)
    assert found["views"][0]["rows"] == 1220
    assert {alarm["feature"] for alarm in found["alarms"]} == {"2"}
    assert {alarm["feature_view"] for alarm in found["alarms"]} == {"eta"}
