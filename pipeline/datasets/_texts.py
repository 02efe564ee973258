"""Texts of a table: one column, or several joined by a template."""

import string

from pipeline.datasets import RowContent
from pipeline.datasets._columns import Content, digest, text, undecoded
from pipeline.datasets._rows import TableRow
from pipeline.errors import UserError


def text_content(column: str, template: str | None) -> tuple[list[str], Content]:
    """The columns to read, and a function that gives the text of a row.

    Args:
        column: the column of texts, if there is no template.
        template: text with column names in braces.

    Raises:
        UserError: the template names no column, or has more than a name in its braces.
    """
    parts = [("", column)] if template is None else _parts(template)
    columns = list(dict.fromkeys(name for _, name in parts if name))

    def content(row: TableRow) -> tuple[str, str, str | None]:
        cells = {name: text(row, name) or "" for name in columns}
        found = "".join(before + cells.get(name, "") for before, name in parts)
        problem = undecoded(found, row)
        if problem is None and len(columns) > 1:
            empty = [name for name in columns if not cells[name].strip()]
            problem = f"nothing in column {empty[0]!r}" if empty else None
        return "" if problem else found, digest(found), problem

    return columns, content


def paired(first: tuple[list[str], Content], column: str | None) -> tuple[list[str], Content]:
    """The columns to read, and what makes a pair of a row; `first` itself where there is no second column.

    Args:
        first: the columns, and what makes the first content of a row.
        column: of the texts that are the second.
    """
    if column is None:
        return first
    (first_columns, make_first), (second_columns, make_second) = first, text_content(column, None)

    def content(row: TableRow) -> tuple[RowContent, str, str | None]:
        (one, key, problem), (other, other_key, other_problem) = make_first(row), make_second(row)
        assert not isinstance(one, tuple) and not isinstance(other, tuple)
        return (one, other), f"{key}-{other_key}", problem or other_problem

    return [*first_columns, *second_columns], content


def _parts(template: str) -> list[tuple[str, str]]:
    """A template as pairs of text and the column that follows it; the last column may be empty."""
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"dataset.source.template: {error}; write a brace of the text twice") from None
    columns = [column for _, column, _, _ in found if column is not None]
    if not all(columns) or not columns or any(how or as_ for _, _, how, as_ in found):
        raise UserError("dataset.source.template: write names of columns in braces, such as {premise} {hypothesis}")
    return [(before, column or "") for before, column, _, _ in found]
