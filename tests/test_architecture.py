"""What the layout promises: imports point down, and DVC knows every file a stage stands on."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.join import code

ROOT = Path(__file__).parent.parent
PLUGINS = ("datasets", "methods", "students", "teachers")
SPEAKING = {
    "pipeline/__init__.py",
    "pipeline/datasets/__init__.py",
    "pipeline/errors.py",
    "pipeline/machine.py",
    "pipeline/progress.py",
    "stages/__init__.py",
}
"""Files that stages may import unseen by DVC: they can change what is said and where, never what is computed."""

LAYERS = [
    {"errors", "progress", "provenance", "schedules"},
    {"params", "packages", "balance"},
    {"store", "datasets", "machine"},
    {
        "prepared",
        "metrics",
        "weights",
        "splits",
        "survey",
        "twins",
        "kernels",
        "logme",
        "runs",
        "neighbours",
        "balance",
    },
    {"complementarity", "assessment", "recommendation", "logistic", "kernel_probe"},
    {"methods", "targets", "gates", "students", "teachers", "images", "probe", "comparison", "figures", "wording"},
    {"ranking"},
    {"checkpoints"},
    {"world"},
    {"guards"},
    {"prepare", "extract", "assess", "join", "train", "evaluate", "report"},
]
"""From the bottom up; a module imports from its own layer or from below. Plug-in folders and the store count as one."""


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
        for found in imports(ahead.pop()) - seen:
            seen.add(found)
            ahead.append(found)
    return seen


def layer(file: Path) -> int:
    name = file.parts[1].removesuffix(".py")
    return next(number for number, names in enumerate(LAYERS) if name in names)


def library() -> list[Path]:
    return [file for file in files() if file.parts[0] == "pipeline" and file != Path("pipeline/__init__.py")]


def test_every_module_of_the_library_has_a_layer():
    known = set().union(*LAYERS)
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
    for file in (ROOT / "pipeline" / kind).glob("*.py"):
        siblings = {p for p in imports(file.relative_to(ROOT)) if p.parts[1:2] == (kind,) and p.name != "__init__.py"}
        # Those a run's bundle knows of, so that a change in a part trains the whole again.
        bundled = {Path(path) for path, _ in code([f"{kind}/{file.stem}"])}
        assert siblings <= (bundled if kind == "methods" else set()), f"{file.name} imports {siblings}"


@pytest.mark.parametrize("name", ["train", "evaluate", "checkpoints", "probe", "assess", "report", "join"])
def test_what_follows_the_store_never_reaches_a_teacher(name: str):
    assert not [found for found in reach(Path(f"pipeline/{name}.py")) if "teachers" in found.parts]


@pytest.mark.parametrize("name", ["join", "prepare", "store", "report", "probe"])
def test_some_parts_do_without_torch(name: str):
    code = f"import sys, pipeline.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def stage_names() -> list[str]:
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


@pytest.mark.parametrize("name", stage_names())
def test_dvc_knows_every_file_that_a_stage_imports(name: str):
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    deps = stage.get("do", stage)["deps"]
    covered = SPEAKING | set(deps)
    unknown = []
    for file in reach(Path(f"stages/{name}.py")):
        within = {str(parent) for parent in file.parents}
        # A bundle holds the digests of the plug-ins that its run uses.
        bundled = "bundles/${key}.json" in deps and file.parts[1] in ("methods", "students")
        if not (str(file) in covered or within & covered or bundled):
            unknown.append(str(file))
    assert not unknown, f"dvc.yaml: stage {name} does not depend on {sorted(unknown)}"


@pytest.mark.parametrize("name", stage_names())
def test_dvc_depends_on_no_code_that_is_not_there(name: str):
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    code = [
        dep for dep in stage.get("do", stage)["deps"] if dep.startswith(("pipeline/", "stages/")) and "$" not in dep
    ]
    assert [dep for dep in code if not (ROOT / dep).exists()] == []
    assert code == sorted(code)
