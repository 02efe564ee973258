"""What the layout promises: imports point down, and DVC knows every file a stage stands on."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = ("datasets", "methods", "students", "teachers")
ROOMS = [
    {"errors", "progress", "provenance"},
    {"files", "params", "packages", "sources"},
    {"pretrained", "machine", "project", "records"},
    {"functional"},
    {"tasks"},
    {"datasets"},
    {"data"},
    {"store"},
    {"engines"},
    {"teachers"},
    {"extraction"},
    {"students"},
    {"probing"},
    {"methods"},
    {"runs"},
    {"training"},
    {"reporting"},
]
"""From the bottom up; a module imports from its own room or from those below."""


def files() -> list[Path]:
    return [p.relative_to(ROOT) for folder in ("pipeline", "stages") for p in sorted((ROOT / folder).rglob("*.py"))]


def module_file(name: str) -> Path | None:
    """The file of a dotted name within the project, if it is one of ours."""
    path = Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


@cache
def imports(file: Path) -> frozenset[Path]:
    """Our own files that a file imports, at its top or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found for name in names if (found := module_file(name)) and found != file)


def reach(file: Path) -> set[Path]:
    """Our own files that a file imports, however indirectly."""
    seen: set[Path] = set()
    ahead = [file]
    while ahead:
        here = ahead.pop()
        # A module that imports a neighbour runs their room's face first, and does not depend on what it gathers.
        for found in imports(here) - seen - {here.parent / "__init__.py"}:
            seen.add(found)
            ahead.append(found)
    return seen


def layer(file: Path) -> int:
    name = file.parts[1].removesuffix(".py")
    return next(number for number, names in enumerate(ROOMS) if name in names)


def library() -> list[Path]:
    return [file for file in files() if file.parts[0] == "pipeline" and file != Path("pipeline/__init__.py")]


def test_every_module_of_the_library_has_a_layer():
    known = set().union(*ROOMS)
    assert {file.parts[1].removesuffix(".py") for file in library()} <= known


@pytest.mark.parametrize("file", library(), ids=str)
def test_imports_point_down(file: Path):
    for other in imports(file) - {Path("pipeline/__init__.py")}:
        assert other.parts[0] == "pipeline", f"{file} imports {other}, which is above it"
        assert layer(other) <= layer(file), f"{file} imports {other}, which is above it"


@pytest.mark.parametrize("file", library(), ids=str)
def test_no_file_imports_itself_by_a_detour(file: Path):
    # A file of a package may name what the package's __init__ gathers from it.
    detours = {found for found in reach(file) if found.name != "__init__.py"}
    assert file not in detours or file.name == "__init__.py"


@pytest.mark.parametrize("kind", PLUGINS)
def test_plug_ins_never_import_one_another_but_for_methods_made_of_others(kind: str):
    for file in (ROOT / "pipeline" / kind).glob("[!_]*.py"):
        siblings = {p for p in imports(file.relative_to(ROOT)) if p.parts[1:2] == (kind,) and p.name[0] != "_"}
        assert not siblings or kind == "methods", f"{file.name} imports {siblings}"


@pytest.mark.parametrize("name", ["students", "probing", "methods", "runs", "training", "reporting"])
def test_what_follows_the_store_never_reaches_a_teacher(name: str):
    assert not [found for found in reach(Path(f"pipeline/{name}/__init__.py")) if "teachers" in found.parts]


@pytest.mark.parametrize("name", ["runs", "data", "store"])
def test_some_parts_do_without_torch(name: str):
    code = f"import sys, pipeline.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
