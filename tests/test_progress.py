import re
import sys

import pytest

from pipeline import progress as module
from pipeline.progress import NARROW, duration, progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("extract minilm", 9_000, "texts", start=1_000) as advance:
        for _ in range(24):
            clock.now += 1
            advance(200)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "extract minilm: 3,000/9,000, 200 texts/s, 30 s left",
        "extract minilm: 5,000/9,000, 200 texts/s, 20 s left",
    ]


def test_work_without_a_known_end_shows_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("look at the data", None, "rows") as advance:
        clock.now += 10
        advance(2_500)
    assert capsys.readouterr().err == "look at the data: 2,500, 250 rows/s\n"


def test_short_work_leaves_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("join", 10, "stores") as advance:
        clock.now += 9
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_a_slow_unit_is_counted_in_tenths(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 10, "runs") as advance:
        clock.now += 20
        advance(1)
    assert capsys.readouterr().err == "train: 1/10, 0.05 runs/s, 3 min left\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("extract", 100, "images") as advance:
        advance(100)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100/100" in err


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 160])
def test_on_a_narrow_terminal_no_number_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    note = "54% of the bare model, held up by reading rows"
    with progress("extract minilm", 30_000, "texts") as advance:
        advance(30_000, note)
    *_, last = capsys.readouterr().err.split("\x1b[2K")
    line = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).split())
    assert "30,000/30,000" in line and "left 0:00:00" in line and "…" not in line
    assert width < NARROW or set(note.split()) <= set(line.split())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (48.2, "48 s"), (99.4, "99 s"), (120.0, "2 min"), (719.0, "12 min"), (11_100.0, "3 h 05 min")],
)
def test_durations_are_written_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
