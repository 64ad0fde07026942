"""What a worker does about memory and compiled loops, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def said(program: str) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_after_a_warm_start_no_loop_of_the_stream_is_compiled_amid_events() -> None:
    told = said(
        """
        import numpy as np
        from headwater import arena
        from headwater.catalog import AggregationPlan, FieldPlan, ViewPlan
        from headwater.interning import texts
        from headwater.online.sinks import warm
        from headwater.states import WindowStates
        from headwater.windows import Column, EventBatch, WindowProgram

        LOOPS = [
            arena.fold, arena.settle, arena.relocate, arena.load, arena.sections,
            arena.section_sizes, arena.new_slots,
        ]
        warm()
        before = [len(loop.signatures) for loop in LOOPS]
        total = AggregationPlan("t", "x", "sum", 3_600_000_000, 60_000_000, "DOUBLE")
        view = ViewPlan("", "window", (), (FieldPlan("t", "DOUBLE"),), aggregations=(total,))
        states = WindowStates(WindowProgram.of(view), 7)
        n, now = 40_000, 7_200_000_000
        keys = [b"%d" % (i % 9_000) for i in range(n)]
        ts = np.linspace(now - 3_000_000_000, now + 1_000_000, n).astype(np.int64)
        x = Column(np.ones(n), np.ones(n, np.bool_))
        numbers, fresh = states.intern(texts(keys))
        states.load(fresh, [None] * len(fresh))
        batch = EventBatch(numbers, ts, np.arange(n), np.full(n, 7), ts, {"x": x})
        states.fold(numbers, batch, now)
        ahead = EventBatch(*(a[-9:] for a in (numbers, ts)), np.arange(n, n + 9),
                           np.full(9, 7), ts[-9:], {"x": Column(x.values[-9:], x.valid[-9:])})
        states.fold(numbers[-9:], ahead, now + 2_000_000)
        states.values(states.take_dirty())
        states.tidy(1 << 20)
        states.shrink()
        print(len(states), min(before), before == [len(loop.signatures) for loop in LOOPS])
        """
    )
    assert told == ["9", "1", "True"]


def test_what_is_free_goes_back_to_the_system() -> None:
    told = said(
        """
        from pathlib import Path
        from ingest import memory

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        memory.keep()
        held = [bytearray(1 << 20) for _ in range(100)]
        last = bytearray(1 << 20)  # above them: what is below is not the heap's top
        del held
        before = resident()
        memory.give_back()
        print(before - resident() > 90 << 20)
        """
    )
    assert told == ["True"]
