"""Numbers and their nouns: `1 row`, `2 rows`, `12,000 rows`; everywhere by `pipeline.errors.count`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import count

ROOT = Path(__file__).parent.parent
FILES = sorted([ROOT / "cli.py", *(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])

NOUN = re.compile(r" (?!(?:of|in|at|for|and|to|with|by) )(?:[a-z]+ )?([a-z]+s)\b(?!/)")
"""A plural after a number, with one word between at most."""

OTHERS = {"bytes", "pixels", "exceeds", "minus", "has", "is"}
"""Words that end as plurals do; bytes, of which there is hardly ever one; and the pixels of a width and a height."""


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(1, "row", "1 row"), (0, "row", "0 rows"), (12_000, "row", "12,000 rows"), (2, "class", "2 classes")],
)
def test_a_number_and_its_noun(number: int, noun: str, expected: str):
    assert count(number, noun) == expected


def plurals(tree: ast.AST) -> Iterator[str]:
    """The f-strings in which a number, known by its commas or a `len`, has a plural after it whatever it is."""
    for node in ast.walk(tree):
        for number, words in zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ():
            if not (isinstance(number, ast.FormattedValue) and isinstance(words, ast.Constant)):
                continue
            grouped = number.format_spec is not None and ast.unparse(number.format_spec) == "f','"
            size = ast.unparse(number.value)
            found = NOUN.match(str(words.value))
            if (grouped or size.startswith("len(")) and not size.isupper() and found and found[1] not in OTHERS:
                yield f"{{{size}}}{found[0]}"


def test_a_plural_that_is_always_one_is_found():
    assert list(
        plurals(ast.parse('f"{rows:,} rows", f"{len(x)} new classes", f"{rows:,} of {count(n, \'row\')}"'))
    ) == [
        "{rows} rows",
        "{len(x)} new classes",
    ]


def test_no_message_says_1_rows():
    found = {str(path.relative_to(ROOT)): list(plurals(ast.parse(path.read_text()))) for path in FILES}
    assert {path: places for path, places in found.items() if places} == {}, "use pipeline.errors.count"
