"""Where commands write to: a terminal, or a pipe, in which nothing is cut or wrapped."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress, ProgressColumn

#: Rich takes 80 for what is no terminal, and cuts the names in tables at that.
_PIPE_WIDTH = 1000


def console(stderr: bool = False) -> Console:
    """Standard output, or standard error for notes and progress."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if is_terminal else _PIPE_WIDTH)


def progress(*columns: ProgressColumn) -> Progress:
    """A bar on standard error while the block lasts; nothing where that is no terminal."""
    shown = console(stderr=True)
    return Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
