"""What a worker saves beside an offset is read, whatever a client gives behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ingest.clients.confluent import _metadata
from ingest.worker import Saved, _read, _saved

WATERMARKS, COUNTS = {"rides": 1_700_000_000_000_000}, {"applied": 3}


@pytest.mark.parametrize("behind", ["", "x", '{"a":1}', "}\x01", "\u00e9"])
def test_what_is_behind_the_saved_text_is_left_out(behind: str) -> None:
    assert _read(_saved(WATERMARKS, COUNTS) + behind) == Saved(WATERMARKS, COUNTS)
    assert _read("") == Saved()


def test_bytes_behind_it_that_are_no_text_are_left_out() -> None:
    class Partition:
        @property
        def metadata(self) -> str:
            return (_saved(WATERMARKS, COUNTS).encode() + b"\xff\xfe").decode()

    assert _read(_metadata(Partition())) == Saved(WATERMARKS, COUNTS)
    nothing: Any = SimpleNamespace(metadata=None)
    assert _metadata(nothing) == ""
