"""What the terminal of a command can show, and tables that fit into it."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any


def draws(stream: Any) -> bool:
    """Whether a stream is shown by a terminal where a line can be drawn again, as a `dumb` one cannot."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def columns() -> int | None:
    """The columns of the terminal that shows standard output; None for a pipe or a file, which have no end."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Cells under the names of their columns. On a terminal that is too narrow for a line, each cell has its own, after
    the name of its column, and an empty line divides rows. So nothing is cut.

    Args:
        names: of the columns.
        rows: the cells.
        right: which columns are aligned to the right, as numbers are.
    """
    lines = [names, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    room = columns()
    if room is not None and sum(widths) + 2 * (len(widths) - 1) > room:
        width = max(map(len, names))
        each = ["\n".join(f"{name:<{width}}  {cell}" for name, cell in zip(names, row, strict=True)) for row in rows]
        return "\n\n".join(each)
    aligned = (
        [f"{cell:{'>' if r else '<'}{w}}" for cell, w, r in zip(line, widths, right, strict=True)] for line in lines
    )
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)
