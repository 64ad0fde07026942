"""Runs a server that must not outlive the process that started it; a script of its own.

    python -I guard.py FOLDER COMMAND...

Standard input is the lifeline: nothing is ever written to it, and the operating system closes it
when the parent ends, however it ends (also on every system where no signal tells of that). Then
the server is stopped and FOLDER, which nobody can need any more, is removed ("" keeps it).
SIGTERM stops the server and keeps the folder, so that it can be started again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 10.0


def main(folder: str, command: list[str]) -> int:
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    orphaned = threading.Event()

    def watch() -> None:
        # Read past Python's buffer: its lock would be held when the interpreter exits.
        while os.read(0, 1024):
            pass
        orphaned.set()
        server.terminate()

    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            status = server.wait(GRACE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if orphaned.is_set():
                server.kill()
    if orphaned.is_set() and folder:
        shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]) and 1)
