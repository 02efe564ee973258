"""Child processes that end soon after their parent, however it ended."""

import os
import threading
import time

PAUSE = 0.5
"""Seconds between two checks that the parent process is still there."""

_WATCHED: set[int] = set()


def end_with(parent: int) -> None:
    """End this process soon after its parent: a parent that is killed cannot end its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    if parent not in _WATCHED:
        _WATCHED.add(parent)
        threading.Thread(target=watch, daemon=True, name="aft-parent").start()
