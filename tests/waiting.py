"""Waiting for what other processes do: until it happens, not for as long as it takes on a quiet machine.

A hang ends after `faulthandler_timeout` of pyproject.toml, with the stacks of all threads.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_until(happened: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Return once `happened()` is true.

    Args:
        happened: asked a hundred times a second.
        process: a `Popen` that has to be at work until then.
    """
    while not happened():
        assert process is None or process.poll() is None, "the process ended too early"
        time.sleep(0.01)
