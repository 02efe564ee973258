"""Commands that are ended while they write: what they leave is gone after the next call, or after `gc`."""

import os
import shutil
import signal
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.commands import aft
from tests.finished import COMMANDS, contents, remove
from tests.running import nobody_left, start

WRITES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
"""Events of Python's audit that change a folder, besides opening a file."""

CLEANING = ("features gc --delete", "trials --delete")

MOMENTS = 8
"""At how many moments each command is ended; half of them if it starts a process."""


def end_at(moment: int, number: int, folder: Path) -> None:
    """Send a signal to this process right before its n-th change below a folder.

    `folder/changes` has a letter for each change.
    """
    process, changes = os.getpid(), count(1)
    seen = os.open(folder / "changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if os.getpid() == process and (opened or event in WRITES) and _is_below(arguments[0], folder):
            os.write(seen, b".")
            if next(changes) == moment:
                os.kill(process, number)

    sys.addaudithook(hook)


def _is_below(path: object, folder: Path) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and Path(os.path.abspath(os.fsdecode(path))).is_relative_to(
        folder
    )


class Bench:
    """A copy of the finished project, with a cache and a folder for temporary files of its own."""

    def __init__(self, finished: Path, line: str, monkeypatch: pytest.MonkeyPatch):
        self.finished, self.line, self.folder = finished, line, finished.with_name("ended")
        self.project = self.folder / "project"
        monkeypatch.setenv("AFT_CACHE", str(self.folder / "cache"))
        monkeypatch.setenv("TMPDIR", str(self.folder / "tmp"))

    def ended(self, number: int, moment: int) -> tuple[int | None, str, int]:
        """Send a signal before a change, or never if 0: the exit code, what was said, and the number of changes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.finished, self.project)
        (self.folder / "tmp").mkdir()
        remove(self.project, self.line)
        said = self.folder / "said"
        running = start(self.line, self.project, said, partial(end_at, moment, number, self.folder))
        running.join()
        nobody_left(running.pid)
        return running.exitcode, said.read_text(), (self.folder / "changes").stat().st_size

    def names(self) -> set[str]:
        """All that is there after the usual cleaning."""
        for line in CLEANING:
            assert aft(line, self.project).code == 0
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        return {name for name in found if ".dvc" not in name}


QUICK = [("features export features/wise.zarr exported.npy", 2)]
SLOW = [
    pytest.param(line, MOMENTS // 2 if line.startswith(("export", "init")) else MOMENTS, marks=pytest.mark.slow)
    for line in COMMANDS
    if not line.startswith("run")
]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(("line", "moments"), [*QUICK, *SLOW])
def test_what_a_command_leaves_the_next_one_removes(
    finished: Path, monkeypatch: pytest.MonkeyPatch, line: str, moments: int, number: int
):
    bench = Bench(finished, line, monkeypatch)
    code, said, changes = bench.ended(number, 0)
    assert code == 0, said
    expected = bench.names()
    for step in range(moments):
        code, said, _ = bench.ended(number, 1 + (changes - 1) * step // (moments - 1))
        if number == signal.SIGINT:
            last = said.splitlines()[-1]
            assert code == 130 and last.startswith("interrupted; ") and f"run `aft {line}`" in last, said
            assert "Traceback" not in said and "Exception ignored" not in said, said
        else:
            assert code == -number
        again = aft(line, bench.project)
        assert again.code == 0, again.errors
        assert sorted(bench.names() - expected) == [], step
        assert contents(bench.project) == contents(finished)
