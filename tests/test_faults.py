"""Stages where no file may grow, as under `ulimit -f`, and stages that run twice at once."""

import io
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cli
from pipeline.verified import checksums
from stages import command

ROOT = Path(__file__).parent.parent
STAGES = ("prepare", "probe wise", "assess", "join", "train none", "evaluate none", "report")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes. Python ignores the signal, so writing fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def typed(line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[object, str]:
    """Type a command: its exit code, and what it prints to stderr, which is no file here: the limit holds for that."""
    with monkeypatch.context() as kept, pytest.raises(SystemExit) as end:
        kept.setattr(sys, "stdout", io.StringIO())
        kept.setattr(sys, "stderr", said := io.StringIO())
        kept.setattr(sys, "argv", ["aft", *shlex.split(line)])
        command.run(cli.app, "aft")
    return end.value.code, said.getvalue()


def test_a_stage_that_cannot_write_says_so_in_one_line_and_completes_later(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project)
    small = "-S train.steps=3 -S train.seeds=[0,1]"
    for stage in STAGES:
        line = stage if stage in ("prepare", "probe wise", "assess") else f"{stage} {small}"
        for size in (0, 300):
            with largest_file(size):
                code, said = typed(line, monkeypatch)
            errors = [each for each in said.splitlines() if each.startswith("error: ")]
            assert code == 2 and len(errors) == 1, f"{stage}, {size} bytes: {code} {said}"
            assert "a file as large as this is not allowed" in errors[0], f"{stage}, {size} bytes: {said}"
            assert "Traceback" not in said
        code, said = typed(line, monkeypatch)
        assert code == 0, f"{stage}: {said}"


@pytest.mark.parametrize(("stage", "folder"), [("prepare", "data"), ("probe wise", "probes/wise")])
def test_two_processes_at_once_leave_what_one_leaves(
    project: Path, monkeypatch: pytest.MonkeyPatch, stage: str, folder: str
):
    monkeypatch.chdir(project)
    for line in ("prepare", "probe wise"):
        assert typed(line, monkeypatch)[0] == 0
    alone = checksums(project / folder)
    shutil.rmtree(project / folder)
    command_line, environment = [sys.executable, "-m", "cli", *stage.split()], os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) in ([0, 0], [0, 2]), said
    assert "Traceback" not in "".join(said)
    assert checksums(project / folder) == alone
