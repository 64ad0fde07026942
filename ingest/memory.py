"""What becomes of memory between two batches, with glibc's allocator."""

from __future__ import annotations

import contextlib
import ctypes
import gc

#: Parameters of mallopt: arenas; from which size on memory is mapped anew each time; how much that
#: is free is kept.
_MALLOC = {-8: 1, -3: 32 << 20, -1: 256 << 20}


def keep() -> None:
    """Batches are alike: one's memory is kept for the next one's arrays and objects."""
    # Tens of thousands of objects die with their batch: looking among them is wasted time.
    gc.freeze()
    gc.set_threshold(500_000, 10, 10)
    # Memory that is given back to the system has to be zeroed before it comes again.
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such call
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


def give_back() -> None:
    """Give what is free back to the system: what large batches took, small ones do not need."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
