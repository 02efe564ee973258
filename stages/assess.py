"""Stage `assess`: all teachers' features and the labels -> assessments/teachers.json, which teachers to use and why."""

import sys
from typing import TYPE_CHECKING

from stages import command

if TYPE_CHECKING:
    from pipeline.probing.assessment import Assessment


def main(params: command.File = command.PARAMS, overrides: command.Set = None, as_json: command.Json = False) -> None:
    """Score the teachers, alone and together.

    Probe, neighbours, LogME and kernels; recommends teachers by validation rows.
    """
    from pipeline.probing.subsets import assess

    with command.log("assess"):
        found = assess(command.settings(params, overrides))
    if sys.stdout.isatty() and not as_json:
        _draw(found)
    command.show(found, as_json)


def _draw(found: "Assessment") -> None:
    """The subsets as a table, the recommended one in bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    caption = "probe, kNN: % of validation rows right; test: the probe, for the reader only"
    table = Table("teachers", box=box.SIMPLE, caption=caption)
    for column in ("probe", "kNN", "LogME", "width", "B/row", "rows/s", "test"):
        table.add_column(column, justify="right", no_wrap=True)
    for subset in found.subsets:
        error, test, rate = subset.error("val_accuracy"), subset.test_accuracy, subset.rows_per_second
        cells = [f"{100 * subset.val_accuracy:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")]
        cells += [f"{100 * subset.mean('knn_val_accuracy'):.1f}", f"{subset.mean('logme'):.3f}", f"{subset.width:,}"]
        cells += [f"{subset.bytes_per_row:,.0f}", "—" if rate is None else f"{rate:,.0f}"]
        cells.append("—" if test is None else f"{100 * test:.1f}")
        table.add_row(subset.name, *cells, style="bold" if subset.teachers == found.recommended else None)
    Console().print(table)


if __name__ == "__main__":
    command.single(main)
