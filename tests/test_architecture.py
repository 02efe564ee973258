"""What the layout promises: one ordered list of rooms, imports that point down, and plug-ins that stay apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = [
    "errors",
    "terminal",
    "progress",
    "ahead",
    "processes",
    "forks",
    "files",
    "locks",
    "objects",
    "ids",
    "parquet",
    "hdf5",
    "provenance",
    "checksum",
    "verified",
    "images",
    "plugins",
    "strict_yaml",
    "specs",
    "params",
    "conditions",
    "packages",
    "sources",
    "machine",
    "project",
    "code",
]
"""Modules that know no room."""

ROOMS = [
    "functional",
    "pretrained",
    "records",
    "tasks",
    "datasets",
    "data",
    "views",
    "augmentations",
    "store",
    "engines",
    "teachers",
    "extraction",
    "students",
    "probing",
    "methods",
    "runs",
    "changed",
    "trackers",
    "training",
    "sweeping",
    "reporting",
    "exports",
    "predict",
    "serving",
    "checks",
    "estimate",
    "plan",
    "doctor",
    "reference",
]
ORDER = [*BASE, *ROOMS, "stages", "cli"]
"""From the bottom up: a file imports from its own place and from those before it."""

PLUGINS = [
    "tasks",
    "datasets",
    "views",
    "augmentations",
    "engines",
    "teachers",
    "students",
    "methods",
    "exports",
    "trackers",
]
"""Rooms whose files are plug-ins, but for those that start with an underscore."""

SHARED = {"tasks", "datasets", "views", "augmentations"}
"""Plug-in rooms whose face other plug-in rooms may import: what a label, a row, a view, an augmentation are."""

WORKS_ON = {"exports": "students"}
"""Plug-in rooms that are about another one, and import its face: an export is of a student."""

LIBRARIES = ["functional", "pretrained"]
"""Rooms whose modules are imported by name: formulas, and models of libraries that take seconds to import."""

BELOW_TEACHERS = ["students", "probing", "methods", "runs", "training", "sweeping", "reporting", "exports", "predict"]
"""Rooms that work from the feature stores alone."""


LIVE = "pipeline.training.live"
"""The one module after the store that knows teachers: it runs them in every step of a run that asks for it."""


class Layout:
    """The imports of a source tree, plug-ins included.

    Args:
        root: the folder with `pipeline/`, `stages/` and `cli.py`.
    """

    def __init__(self, root: Path = ROOT):
        self.root = root

    @cached_property
    def files(self) -> list[str]:
        """All modules by dotted name; a package by its own."""
        found = [*self.root.glob("cli.py"), *self.root.glob("pipeline/**/*.py"), *self.root.glob("stages/*.py")]
        parts = [path.relative_to(self.root).with_suffix("").parts for path in found]
        return sorted(".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts)

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Per module, the modules that it imports: at its top, in functions, by `import_module`, or as a plug-in."""
        return {name: set(self._imports(name)) - {name, "pipeline"} for name in self.files}

    def tree(self, name: str) -> ast.Module:
        path = self.root.joinpath(*name.split("."))
        return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())

    def face(self, room: str) -> set[str]:
        """What a room offers: the names in `__all__`."""
        for node in self.tree(f"pipeline.{room}").body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == "__all__"
            ):
                return set(ast.literal_eval(node.value))
        return set()

    def plugins(self, room: str) -> set[str]:
        modules = [name for name in self.files if name.startswith(f"pipeline.{room}.")]
        return {name for name in modules if name.count(".") == 2 and not name.rpartition(".")[2].startswith("_")}

    def _imports(self, name: str) -> Iterator[str]:
        for node in ast.walk(self.tree(name)):
            if isinstance(node, ast.Import):
                yield from (found for alias in node.names if (found := self._module(alias.name)))
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    package = name if self.root.joinpath(*name.split(".")).is_dir() else name.rpartition(".")[0]
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    module = ".".join(filter(None, [*above, module]))
                for alias in node.names:
                    found = self._module(f"{module}.{alias.name}")
                    # A submodule that a room offers by name is part of its face.
                    offered = module.startswith("pipeline.") and alias.name in self.face_of(module)
                    yield from {found} - {None} if found and not offered else {self._module(module)} - {None}
        yield from {self._module(module) for module in self._called(name, "import_module", "__import__")} - {None}
        yield from self.looked_up(name)

    def looked_up(self, name: str) -> set[str]:
        """The plug-ins that a module may look up: all of the kinds that it asks for."""
        kinds = self._called(name, "plugin", "read_plugin") & set(PLUGINS)
        return {plugin for kind in kinds for plugin in self.plugins(kind)}

    def _called(self, name: str, *functions: str) -> set[str]:
        """The texts with which a module calls functions."""
        found = set()
        for node in ast.walk(self.tree(name)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found |= {str(node.args[0].value)} if called in functions else set()
        return found

    def face_of(self, module: str) -> set[str]:
        return self.face(module.split(".")[1]) if module.count(".") == 1 and module in self.files else set()

    def _module(self, name: str) -> str | None:
        """The longest beginning of a dotted name that is a module of ours."""
        while name:
            if name in self.files:
                return name if name != "pipeline" else None
            name = name.rpartition(".")[0]
        return None

    def reach(self, name: str, without: str = "") -> set[str]:
        """The modules that a module imports, however indirectly, and not by way of the one named `without`."""
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            for found in self.imports[ahead.pop()] - seen - {without}:
                seen.add(found)
                ahead.append(found)
        return seen


def place(name: str) -> str:
    """Where a module is in ORDER."""
    first, *rest = name.split(".")
    return rest[0] if first == "pipeline" and rest else first


def upwards(layout: Layout) -> list[str]:
    """Imports from a place further up."""
    return [
        f"{name} imports {other}, which is above it"
        for name, others in layout.imports.items()
        for other in sorted(others)
        if place(name) != "pipeline" and ORDER.index(place(other)) > ORDER.index(place(name))
    ]


def circles(layout: Layout) -> list[str]:
    """Modules that import themselves by a detour. A face gathers what its own modules define, which is none."""
    found = []
    for name in layout.files:
        room = f"pipeline.{place(name)}"
        # A module of a room may import the contract from the room's face.
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            for other in layout.imports[ahead.pop()] - seen - {room}:
                seen.add(other)
                ahead.append(other)
        if name in seen and name != room:
            found.append(f"{name} imports itself by a detour")
    return found


def past_faces(layout: Layout) -> list[str]:
    """Imports of a module inside another room, but for those of `LIBRARIES`."""
    return [
        f"{name} imports {other}, past the face of its room"
        for name, others in layout.imports.items()
        for other in sorted(others - layout.looked_up(name))
        if other.count(".") == 2 and other.startswith("pipeline.") and place(other) not in (place(name), *LIBRARIES)
    ]


def private(layout: Layout) -> list[str]:
    """Imports of a file that starts with an underscore from outside its folder."""
    return [
        f"{name} imports {other}, which is private"
        for name, others in layout.imports.items()
        for other in sorted(others)
        if any(part.startswith("_") for part in other.split(".")) and place(name) != place(other)
    ]


def plugins_together(layout: Layout) -> list[str]:
    """Plug-ins that import a plug-in of another kind, or the face of one whose contract is not shared."""
    found = []
    for name, others in layout.imports.items():
        if place(name) in PLUGINS and name.startswith("pipeline."):
            for other in sorted(others):
                if place(other) in PLUGINS and place(other) != place(name):
                    known = place(other) in SHARED or WORKS_ON.get(place(name)) == place(other)
                    shared = known and other == f"pipeline.{place(other)}"
                    found += [] if shared else [f"{name} imports {other}: plug-ins of two kinds"]
    return found


def siblings(layout: Layout) -> list[str]:
    """Plug-ins that import a plug-in of their own kind. A method may be made of methods, a student of pairs of two."""
    return [
        f"{name} imports {other}: two plug-ins of one kind"
        for room in PLUGINS
        if room != "methods"
        for name in sorted(layout.plugins(room) - {"pipeline.students.pair"})
        for other in sorted(layout.imports[name] & layout.plugins(room))
    ]


def teachers_after_the_store(layout: Layout) -> list[str]:
    """Modules that work from the stores, and reach a teacher."""
    return [
        f"{name} reaches {other}"
        for name in layout.files
        if place(name) in BELOW_TEACHERS and name != LIVE
        for other in sorted(layout.reach(name, without=LIVE))
        if place(other) in ("teachers", "extraction")
    ]


RULES = [upwards, circles, past_faces, private, plugins_together, siblings, teachers_after_the_store]


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout()


def test_every_module_has_a_place(layout: Layout):
    assert {place(name) for name in layout.files} - {"pipeline"} <= set(ORDER)


def test_no_two_classes_have_one_name(layout: Layout):
    """But for `Settings`, which every plug-in has: one word, one meaning."""
    nodes = (node for name in layout.files for node in ast.walk(layout.tree(name)))
    names = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert {name for name in names if names.count(name) > 1} == {"Settings"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_layout_keeps_its_rules(layout: Layout, rule):
    assert rule(layout) == []


@pytest.mark.parametrize(
    ("file", "text", "rule", "message"),
    [
        ("pipeline/methods/new.py", "from pipeline.teachers import Teacher", plugins_together, "plug-ins of two kinds"),
        ("pipeline/methods/new.py", "def f():\n    import pipeline.students.timm", plugins_together, "plug-ins of two"),
        (
            "pipeline/methods/new.py",
            "import_module('pipeline.datasets.mnist')",
            plugins_together,
            "plug-ins of two kinds",
        ),
        ("pipeline/methods/new.py", "plugin('teachers', 'timm')", plugins_together, "plug-ins of two kinds"),
        (
            "pipeline/methods/new.py",
            "from pipeline.teachers import timm",
            teachers_after_the_store,
            "reaches pipeline.t",
        ),
        ("pipeline/training/new.py", "read_plugin('teachers', {}, '')", teachers_after_the_store, "reaches pipeline.t"),
        (
            "pipeline/training/new.py",
            "from pipeline.extraction import x",
            teachers_after_the_store,
            "reaches pipeline.e",
        ),
        ("pipeline/data/new.py", "from pipeline import training", upwards, "which is above it"),
        ("pipeline/errors.py", "from pipeline.files import x", upwards, "which is above it"),
        ("pipeline/training/new.py", "from ..reporting import x", upwards, "which is above it"),
        ("pipeline/data/new.py", "from pipeline.data import other", circles, "imports itself by a detour"),
        ("pipeline/training/new.py", "from pipeline.data.new import x", past_faces, "past the face of its room"),
        ("pipeline/training/new.py", "from pipeline.students import _hidden", private, "which is private"),
        ("pipeline/students/new.py", "from pipeline.students import timm", siblings, "two plug-ins of one kind"),
    ],
)
def test_every_rule_catches_what_it_is_for(tmp_path: Path, file: str, text: str, rule, message: str):
    for room in ("data", "extraction", "teachers", "students", "datasets", "methods", "training", "reporting"):
        (tmp_path / "pipeline" / room).mkdir(parents=True)
        (tmp_path / "pipeline" / room / "__init__.py").touch()
    for name in ("files", "errors", "teachers/timm", "students/timm", "students/_hidden", "datasets/mnist", "data/new"):
        (tmp_path / "pipeline" / f"{name}.py").touch()
    (tmp_path / "pipeline" / "data" / "other.py").write_text("import pipeline.data.new")
    assert [line for one in RULES for line in one(Layout(tmp_path))] == []
    (tmp_path / file).write_text(text)
    assert [line for line in rule(Layout(tmp_path)) if message in line]


@pytest.mark.parametrize("name", ["runs", "data", "store"])
def test_some_rooms_do_without_torch(name: str):
    code = f"import sys, pipeline.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
