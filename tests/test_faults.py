"""Stages where no file may grow, as under `ulimit -f`: one line, exit code 2, and they complete when it may again."""

import io
import resource
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cli
from stages import command

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


@pytest.mark.slow
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
