"""The sender of events goes by the same Kafka options as the worker."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest import replay


def test_a_wrong_option_in_kafkas_config_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events, config = tmp_path / "events.parquet", tmp_path / "kafka.properties"
    pq.write_table(pa.table({"topic": ["t"], "event_us": [1]}), events)
    config.write_text("security.protocoll=SASL_SSL\n")
    monkeypatch.setenv("HEADWATER_KAFKA_CONFIG", str(config))
    words = ["replay", "--servers", "127.0.0.1:1", "--events", str(events)]
    monkeypatch.setattr("sys.argv", words)
    assert replay.main() == 1
    said = capsys.readouterr().err
    assert "there is no option security.protocoll; it wants security.protocol" in said
