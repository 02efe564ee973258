"""A curve as plain text, for a terminal."""

from collections.abc import Sequence

from pipeline.reporting.text import count, number
from pipeline.terminal import columns

WIDTH, HEIGHT = 72, 12
"""Columns and lines of the area of a chart."""

NARROWEST = 16
"""The fewest columns of that area: two steps of six digits fit below it."""

MARK = "*"


def chart(title: str, points: Sequence[tuple[int, float]], width: int = WIDTH, height: int = HEIGHT) -> str:
    """A curve through points: a title, the curve between its lowest and highest value, and the steps below.

    Args:
        title: the first line.
        points: steps and finite values, one or more.
        width, height: of the area that the curve is in, in characters; less wide on a narrow terminal.
    """
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    scale = {0: number(high), height - 1: number(low)} if high > low else {height // 2: number(high)}
    margin = max(map(len, scale.values()))
    if (room := columns()) is not None:
        width = min(width, max(room - margin - 2, NARROWEST))
    lines = [[" "] * width for _ in range(height)]
    for step, value in points:
        column = round((step - first) / (last - first) * (width - 1)) if last > first else 0
        line = round((high - value) / (high - low) * (height - 1)) if high > low else height // 2
        lines[line][column] = MARK
    drawn = [f"{scale.get(row, ''):>{margin}} |{''.join(line).rstrip()}" for row, line in enumerate(lines)]
    ends = f"{count(first)}{count(last):>{width - len(count(first))}}" if last > first else count(first)
    return "\n".join([title, *drawn, f"{'':>{margin}} +{'-' * width}", f"{'':>{margin}}  {ends}"])
