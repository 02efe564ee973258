"""Every row of the table of bad inputs: one line, exit code 2, no traceback, and nothing that was there is lost."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.errors import CASES, HELD, Case, page

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.wrong.replace(" ", "-"))
def test_what_is_wrong_is_reported_in_one_line(case: Case, project: Path, aft: Callable[..., Any]):
    case.change(project)
    done = aft(*shlex.split(case.command))
    while HELD:
        HELD.pop().close()
    *before, line = done.stderr.splitlines()
    assert re.fullmatch(_pattern(case.answer), line), done.stderr
    assert done.returncode == 2
    assert not [earlier for earlier in before if earlier.startswith(("Traceback", "error: "))], done.stderr


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "errors.md").read_text() == page(), "run `make docs`"


def test_no_two_rows_are_alike():
    assert len({(case.about, case.wrong) for case in CASES}) == len(CASES)


def _pattern(answer: str) -> str:
    return "error: " + ".+".join(re.escape(part) for part in re.split(r"<[a-z ]+>", answer))
