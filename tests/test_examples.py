"""The lines of `examples/` and of docs/scale.md that start aft are commands that it takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stages.app import app

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
REFUSED = typer.BadParameter.__mro__[1]
"""`UsageError`, which typer does not name."""

LINE = re.compile(r"(?:^|(?:^|\s)(?:&&|srun.*?|torchrun.*?)\s)\s*(aft [a-z].*)$")


def lines(text: str) -> list[str]:
    """The commands in a script or page, without comments."""
    code = [re.sub(r"(^|\s)# .*", "", line).strip() for line in text.splitlines()]
    return [found[1] for line in code if (found := LINE.search(line.removeprefix("entrypoint: ")))]


def parsed(line: str) -> tuple[str, dict[str, object]]:
    """The command that a line starts, and its parameters. Raises `REFUSED` if aft would."""
    arguments = shlex.split(re.sub(r"\$\{1:\?[^}]*\}", "NAME", line))[1:]
    group: Any = typer.main.get_command(app)
    with group.make_context("aft", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, arguments)
        with command.make_context(name, rest, parent=context) as inner:
            return name, inner.params


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_line_of_an_example_is_a_command(path: Path):
    (line,) = lines(path.read_text())
    name, options = parsed(line)
    assert name == "extract" and options["teacher"] in ("NAME", "TEACHER")
    assert options["engine"] == ("ray" if path.suffix == ".yaml" else None)


def test_the_lines_of_the_page_are_commands():
    text = "\n".join(line for line in (ROOT / "docs" / "scale.md").read_text().splitlines() if line.startswith("    "))
    found = lines(text)
    assert len(found) == 6 and {parsed(line)[0] for line in found} == {"extract", "plan"}


@pytest.mark.parametrize("wrong", ["aft extract NAME --engines ray", "aft extract", "aft extracts NAME"])
def test_a_line_that_is_wrong_would_be_found(wrong: str):
    with pytest.raises(REFUSED):
        parsed(wrong)


def test_the_examples_are_yaml_and_shell():
    for path in EXAMPLES:
        if path.suffix == ".yaml":
            job = yaml.safe_load(path.read_text())
            assert job["kind"] == "RayJob" and job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        else:
            assert path.read_text().startswith("#!/bin/bash\n")
