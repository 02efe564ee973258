"""Commands that are killed while they write: what they leave is gone after the next call, or after `gc`."""

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

MOMENTS = 12
"""At how many moments each command is killed."""


def kill_at(moment: int, folder: Path) -> None:
    """Kill this process right before its n-th change below a folder; `folder/changes` has a letter for each change."""
    process, number = os.getpid(), count(1)
    seen = os.open(folder / "changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if os.getpid() == process and (opened or event in WRITES) and _is_below(arguments[0], folder):
            os.write(seen, b".")
            if next(number) == moment:
                os.kill(process, signal.SIGKILL)

    sys.addaudithook(hook)


def _is_below(path: object, folder: Path) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and Path(os.path.abspath(os.fsdecode(path))).is_relative_to(
        folder
    )


class Bench:
    """A copy of the finished project, with a cache and a folder for temporary files of its own."""

    def __init__(self, finished: Path, line: str, monkeypatch: pytest.MonkeyPatch):
        self.finished, self.line, self.folder = finished, line, finished.with_name("killed")
        self.project = self.folder / "project"
        monkeypatch.setenv("AFT_CACHE", str(self.folder / "cache"))
        monkeypatch.setenv("TMPDIR", str(self.folder / "tmp"))

    def killed(self, moment: int) -> int:
        """Kill the command before a change; how many it has made, or all if there are fewer."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.finished, self.project)
        (self.folder / "tmp").mkdir()
        remove(self.project, self.line)
        said = self.folder / "said"
        running = start(self.line, self.project, said, partial(kill_at, moment, self.folder))
        running.join()
        assert running.exitcode == (-signal.SIGKILL if moment else 0), said.read_text()
        nobody_left(running.pid)
        return (self.folder / "changes").stat().st_size

    def names(self) -> set[str]:
        """All that is there after the usual cleaning."""
        for line in CLEANING:
            assert aft(line, self.project).code == 0
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        return {name for name in found if ".dvc" not in name}


@pytest.mark.parametrize(
    ("line", "moments"),
    [
        ("extract wise", 2),
        ("train aft", 3),
        ("features export features/wise.zarr exported.npy", 2),
        *(pytest.param(line, MOMENTS, marks=pytest.mark.slow) for line in COMMANDS if not line.startswith("run")),
    ],
)
def test_what_a_killed_command_leaves_the_next_one_removes(
    finished: Path, monkeypatch: pytest.MonkeyPatch, line: str, moments: int
):
    bench = Bench(finished, line, monkeypatch)
    changes = bench.killed(0)
    expected = bench.names()
    for number in range(moments):
        bench.killed(1 + (changes - 1) * number // (moments - 1))
        ended = aft(line, bench.project)
        assert ended.code == 0, ended.errors
        assert sorted(bench.names() - expected) == [], number
        assert contents(bench.project) == contents(finished)
