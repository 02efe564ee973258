"""Commands as a user types them, in this process: a process for each would spend its time on importing."""

import io
import os
import shlex
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from stages import entry
from stages.app import app


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        out, errors: what it printed to stdout and to stderr.
    """

    code: int
    out: str
    errors: str

    @property
    def refusals(self) -> list[str]:
        """The lines that say what is wrong; there is one, or none."""
        return [line.removeprefix("error: ") for line in self.errors.splitlines() if line.startswith("error: ")]


def aft(line: str, folder: Path) -> Ended:
    """Type `aft LINE` in a folder. Its output goes to no file: a limit on the size of files does not end it."""
    arguments, variables, code = sys.argv, dict(os.environ), None
    with chdir(folder), redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        sys.argv = ["aft", *shlex.split(line)]
        try:
            entry.run(app, "aft")
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = arguments
            # `--no-verify` sets one.
            os.environ.clear()
            os.environ.update(variables)
    return Ended(code if isinstance(code, int) else 0, out.getvalue(), errors.getvalue())
