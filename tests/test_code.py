"""Digests of code change with every file that a result depends on, and with nothing else."""

import ast
import shutil
from pathlib import Path

import pytest

from pipeline.code import IMPORTS_ALL, NO_RESULT_DEPENDS_ON, Code, digests, plugins_of_run
from pipeline.params import Params
from pipeline.plugins import LIBRARY

from .conftest import PARAMS

ROOT = LIBRARY.parent


def write(root: Path, **files: str) -> Code:
    """A library of a few files; `__` in a name is a folder."""
    for name, text in files.items():
        path = root / "pipeline" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.parents:
            if folder == root:
                break
            (folder / "__init__.py").touch()
    return Code(root)


def files(code: Code, *modules: str) -> list[str]:
    return [name.removeprefix("pipeline/").removesuffix(".py") for name in code.files(*modules)]


def test_imports_are_followed_wherever_they_are_and_however_they_are_written(tmp_path: Path):
    code = write(
        tmp_path,
        start="import numpy\nimport pipeline.plain\ndef f():\n    from pipeline import late\nfrom .near import x",
        plain="from pipeline.deep.er import y",
        late="",
        near="",
        deep__er="",
        unused="",
    )
    assert files(code, "pipeline.start") == ["deep/__init__", "deep/er", "late", "near", "plain", "start"]


def test_what_only_a_type_checker_imports_is_not_followed(tmp_path: Path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline.a\nelse:\n    import pipeline.b"
    assert files(write(tmp_path, start=text, a="", b=""), "pipeline.start") == ["b", "start"]


def test_of_a_package_only_what_is_asked_for_is_followed(tmp_path: Path):
    code = write(
        tmp_path,
        one="from pipeline.room import first",
        both="from pipeline import room",
        room__a="first = 1",
        room__b="second = 2",
        room__c="used = 3",
    )
    face = "from pipeline.room.a import first\nfrom pipeline.room.b import second\nfrom pipeline.room.c import used\n"
    (tmp_path / "pipeline" / "room" / "__init__.py").write_text(
        face + "third = used + 1\n__all__ = ['first', 'second']"
    )
    assert files(code, "pipeline.one") == ["one", "room/__init__", "room/a", "room/c"]
    assert files(code, "pipeline.both") == ["both", "room/__init__", "room/a", "room/b", "room/c"]


def test_templates_and_style_sheets_belong_to_the_room_that_has_them(tmp_path: Path):
    code = write(tmp_path, start="import pipeline.room.page", room__page="", other__page="")
    for name in ("room/page.html", "room/sections/style.css", "other/page.html"):
        path = tmp_path / "pipeline" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    (tmp_path / "pipeline" / "room" / "__pycache__").mkdir()
    (tmp_path / "pipeline" / "room" / "__pycache__" / "page.pyc").write_text("")
    found = [name for name in code.files("pipeline.start") if not name.endswith(".py")]
    assert found == ["pipeline/room/page.html", "pipeline/room/sections/style.css"]


def test_a_circle_of_imports_ends(tmp_path: Path):
    assert files(write(tmp_path, a="import pipeline.b", b="import pipeline.a"), "pipeline.a") == ["a", "b"]


def test_an_unknown_module_is_an_error(tmp_path: Path):
    with pytest.raises(ModuleNotFoundError, match=r"pipeline\.absent"):
        write(tmp_path, a="").files("pipeline.absent")


def test_a_digest_depends_on_names_and_contents_and_not_on_the_place_or_line_endings(tmp_path: Path):
    there, here = tmp_path / "there", tmp_path / "here"
    first = write(there, a="import pipeline.b\n", b="x = 1\n").digest("pipeline.a")
    assert write(here, a="import pipeline.b\n", b="x = 1\n").digest("pipeline.a") == first
    (here / "pipeline" / "b.py").write_bytes(b"x = 1\r\n")
    assert Code(here).digest("pipeline.a") == first
    (here / "pipeline" / "b.py").write_text("x = 2\n")
    assert Code(here).digest("pipeline.a") != first
    assert write(there / "c", a="import pipeline.c\n", c="x = 1\n").digest("pipeline.a") != first


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library, for tests to edit."""
    root: Path = tmp_path_factory.mktemp("library")
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def before(library: Path) -> dict[str, str]:
    """Its digests."""
    return digests(PROJECT, Code(library))


def changed_by_editing(library: Path, before: dict[str, str], file: str) -> set[str]:
    """The digests that change with one file of the library, which is then as before."""
    path = library / "pipeline" / file
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    after = digests(PROJECT, Code(library))
    path.write_bytes(content)
    return {name for name in before if before[name] != after[name]}


RUNS = {
    "none": {"student": "bag"},
    "kd": {"student": "bag", "teachers": ["wise"], "methods": {"kd": {"weight": 1.0}}},
    "plus": {"student": "bag", "teachers": ["wise"], "methods": {"aft_plus": {"weight": 1.0}}},
    "probe": {"student": "linear", "teachers": ["wise"]},
}
STUDENTS = PARAMS["students"] | {"linear": {"family": "linear_probe"}}
PROJECT = Params(PARAMS | {"runs": RUNS, "students": STUDENTS})
WITH_METHODS = {"join", "train/kd", "train/plus"}
TRAINED = {f"train/{run}" for run in RUNS}
EVALUATED = {f"evaluate/{run}" for run in RUNS}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("methods/kd.py", {"join", "train/kd"}),
        # A method that another one is made of, and a helper that only methods import.
        ("methods/logit_kd.py", {"join", "train/plus"}),
        ("methods/_gates.py", {"join", "train/plus"}),
        ("students/bag_of_words.py", {"assess", "join", *(TRAINED | EVALUATED) - {"train/probe", "evaluate/probe"}}),
        ("students/_images.py", set()),
        ("students/__init__.py", {"assess", "join", *TRAINED, *EVALUATED}),
        ("functional/logme.py", {"assess"}),
        ("teachers/timm.py", set()),
        ("teachers/transformers.py", {"extract/wise", "extract/loud"}),
        ("teachers/__init__.py", {"extract/wise", "extract/loud"}),
        ("datasets/text_table.py", {"prepare"}),
        ("datasets/mnist.py", set()),
        ("reporting/sections/style.css", {"report"}),
        ("errors.py", set()),
        ("progress.py", set()),
        ("checks.py", set()),
        ("code.py", set()),
    ],
)
def test_an_edited_file_changes_the_digests_of_what_depends_on_it_alone(
    library: Path, before: dict[str, str], file: str, changed: set[str]
):
    assert changed_by_editing(library, before, file) == changed


def test_an_edited_methods_package_changes_every_run(library: Path, before: dict[str, str]):
    """Also plain training: the loop that all runs share imports from the package."""
    assert changed_by_editing(library, before, "methods/__init__.py") == {"join", *TRAINED}


def test_a_head_that_a_run_names_as_a_teacher_is_assessed():
    runs = RUNS | {"cls": {"student": "bag", "teachers": ["wise", "wise/cls"]}}
    before, after = digests(PROJECT), digests(Params(PROJECT.values | {"runs": runs}))
    assert {name for name in before if before[name] != after[name]} == {"assess"}


def test_the_plug_ins_of_a_run_are_its_task_its_student_and_its_methods():
    assert plugins_of_run(PROJECT, "plus") == [
        "pipeline.tasks.classification",
        "pipeline.students.bag_of_words",
        "pipeline.methods.aft_plus",
    ]


def test_files_that_no_result_depends_on_are_there():
    assert all((ROOT / name).is_file() for name in NO_RESULT_DEPENDS_ON)


def test_no_other_module_imports_by_a_name_that_is_only_known_when_it_runs():
    """Such imports cannot be followed: plug-ins and live teachers are added from params.yaml, formats of files belong
    to no stage, and what users wrote is in the digests of rows and trials. The `exec` in stages/entry.py is of an
    empty string."""
    known = {
        "pipeline/plugins.py",
        "pipeline/store/interchange/__init__.py",
        "pipeline/training/session.py",
        "stages/entry.py",
        *IMPORTS_ALL,
    }
    found = set()
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if names & {"import_module", "__import__", "exec", "eval"} or attributes & {"import_module", "exec_module"}:
            found.add(path.relative_to(ROOT).as_posix())
    assert found == known


def test_what_reads_a_store_depends_on_every_backend():
    backends = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline/store/backends").glob("*.py")}
    assert backends <= set(Code().files("stages.probe"))
