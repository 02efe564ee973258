"""The reference of params.yaml: complete, up to date, and the same on the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from pipeline.errors import UserError
from pipeline.params import Settings
from pipeline.plugins import plugin, plugins
from pipeline.reference import Key, keys, page, plugin_keys

ROOT = Path(__file__).parent.parent
PLUGINS = [
    (kind, name)
    for kind in ("datasets", "views", "augmentations", "teachers", "students", "methods")
    for name in plugins(kind)
]


class Base(Settings):
    """A base.

    Attributes:
        low, high: bounds | of a range.
    """

    low: float = Field(default=0.5, ge=0, lt=1)
    high: float | None = Field(default=None, gt=0)


class Example(Base):
    """An example.

    Attributes:
        name: what it is called; two lines
            are one meaning. None: nothing.
        form: `a`, or `b`.

    Notes:
        later: is no key.
    """

    name: str
    form: Literal["a", "b"] | None = None
    sizes: list[int] = Field(default=[1, 2], min_length=1)
    amount: Annotated[int | float, "anything"] = 3


def test_keys_have_type_default_and_meaning_those_of_the_base_first():
    assert keys(Example, without=["amount"]) == [
        Key("low", "number >= 0, < 1", "0.5", "bounds | of a range."),
        Key("high", "number > 0 or null", "null", "bounds | of a range."),
        Key("name", "text", "required", "what it is called; two lines are one meaning. null: nothing."),
        Key("form", "`a` or `b` or null", "null", "`a`, or `b`."),
        Key("sizes", "list of whole numbers (at least one)", "[1, 2]", ""),
    ]
    assert keys(Example)[-1] == Key("amount", "whole number or number", "3", "")


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "params.md").read_text() == page(), "run `python -m pipeline.reference > docs/params.md`"


def test_no_key_of_the_page_lacks_a_meaning():
    rows = [line.replace("\\|", "/").split("|")[1:-1] for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if len(row) != 4 or not row[3].strip()] == []


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_the_page_has_every_key_of_every_plug_in(kind: str, name: str):
    lines = page().splitlines()
    fields = plugin(kind, name).Settings.model_fields
    assert [key.name for key in plugin_keys(kind, name)] == list(fields)
    for key in plugin_keys(kind, name):
        assert any(line.startswith(f"| `{key.name}` | {key.type} |") for line in lines)


def test_an_unknown_plug_in_is_refused():
    with pytest.raises(UserError, match="no 'tim' in pipeline/students/"):
        plugin_keys("students", "tim")


def test_the_command_line_prints_the_keys_of_one_plug_in():
    command = [sys.executable, "-m", "cli", "list", "students", "bag_of_words"]
    text, data = (
        subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for more in ([], ["--json"])
    )
    assert "width: whole number >= 1; default 64\n    width of the word vectors and of the features.\n" in text
    assert [Key(**key) for key in json.loads(data)] == plugin_keys("students", "bag_of_words")
