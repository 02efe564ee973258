"""Every row of the table of bad inputs: one line, exit code 2, no traceback, and nothing that was there is lost."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import cli
from stages import command
from tests.errors import CASES, HELD, Case, page

ROOT = Path(__file__).parent.parent


@pytest.fixture
def type_aft(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Types a command in the folder of the project: its exit code, and what it prints to stdout and stderr.

    All in this process: a process for each row would spend its time on importing.
    """

    def typed(line: str) -> tuple[object, str, str]:
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["aft", *shlex.split(line)])
        capfd.readouterr()
        with monkeypatch.context() as kept, pytest.raises(SystemExit) as end:
            kept.setattr(sys, "stdout", sys.stdout)
            command.run(cli.app, "aft")
        printed = capfd.readouterr()
        return end.value.code, printed.out, printed.err

    return typed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.wrong.replace(" ", "-"))
def test_what_is_wrong_is_said_in_one_line(case: Case, project: Path, type_aft):
    case.change(project)
    code, _, said = type_aft(case.command)
    while HELD:
        HELD.pop().close()
    *before, line = said.splitlines()
    assert re.fullmatch(_pattern(case.answer), line), said
    assert code == 2
    assert not [earlier for earlier in before if earlier.startswith(("Traceback", "error: "))], said


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "errors.md").read_text() == page(), "run `make docs`"


def test_no_two_rows_are_alike():
    assert len({(case.about, case.wrong) for case in CASES}) == len(CASES)


def _pattern(answer: str) -> str:
    return "error: " + ".+".join(re.escape(part) for part in re.split(r"<[a-z ]+>", answer))
