"""Tables and curves in terminals of any width: nothing is cut, and nothing is wider than the terminal."""

import sys

import pytest

from pipeline import terminal
from pipeline.reporting.chart import chart
from pipeline.terminal import columns, draws, table

NAMES, RIGHT = ("run", "train.learning_rate", "validation"), (False, True, True)
ROWS = (("none", "0.01", "0.6667"), ("a name of some letters", "1e-05", "0.7333"))


def shown(monkeypatch: pytest.MonkeyPatch, columns: int | None) -> str:
    monkeypatch.setattr(terminal, "columns", lambda: columns)
    return table(NAMES, ROWS, RIGHT)


def test_a_table_is_aligned_where_it_fits(monkeypatch: pytest.MonkeyPatch):
    aligned = [
        "run                     train.learning_rate  validation",
        "none                                   0.01      0.6667",
        "a name of some letters                1e-05      0.7333",
    ]
    assert shown(monkeypatch, None).splitlines() == shown(monkeypatch, 55).splitlines() == aligned


def test_cells_have_lines_of_their_own_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    assert shown(monkeypatch, 54).splitlines() == [
        "run                  none",
        "train.learning_rate  0.01",
        "validation           0.6667",
        "",
        "run                  a name of some letters",
        "train.learning_rate  1e-05",
        "validation           0.7333",
    ]


@pytest.mark.parametrize(("columns", "longest"), ((200, 79), (60, 60), (40, 40), (3, 23)))
def test_a_chart_is_as_wide_as_the_terminal_at_most(monkeypatch: pytest.MonkeyPatch, columns: int, longest: int):
    monkeypatch.setattr("pipeline.reporting.chart.columns", lambda: columns)
    lines = chart("loss", [(0, 1.13), (1, 0.677), (20_000, 0.9)]).splitlines()
    assert max(map(len, lines)) == longest
    assert lines[-1].split() == ["0", "20,000"] and lines[1].startswith(" 1.13 |*")


def test_the_width_is_that_of_the_terminal_and_a_pipe_has_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "44")
    assert columns() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert columns() == 44


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, able in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", name)
        assert draws(sys.stdout) == able
    monkeypatch.delenv("TERM")
    assert draws(sys.stdout)
