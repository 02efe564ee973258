"""Which code a result depends on: a digest over the files that a stage imports, plug-ins included.

The files are found by reading import statements, without importing anything. The `__init__.py` of
a package is a dependency of everything that imports from the package, but a name that it re-exports is only followed
where it is imported. So a stage that imports one function of a package depends on that function's module, and not on
the rest of the package.

The digests only depend on names and contents of files, not on where the library is installed.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.params import PLACE, Params
from pipeline.plugins import LIBRARY, plugins
from pipeline.provenance import digest_of
from pipeline.sources import POOLED, Source

NO_RESULT_DEPENDS_ON = frozenset(
    {
        # Only the version.
        "pipeline/__init__.py",
        # Messages, and settings for logs.
        "pipeline/changed.py",
        # Refuses settings, but changes none.
        "pipeline/checks.py",
        # Measures, and keeps nothing.
        "pipeline/estimate.py",
        "pipeline/plan.py",
        # This file decides when stages run again.
        "pipeline/code.py",
        # Messages.
        "pipeline/errors.py",
        "pipeline/progress.py",
        "pipeline/terminal.py",
        # Options of the command line, messages, logs, and how a process ends.
        "stages/command.py",
        "stages/entry.py",
        "stages/overrides.py",
    }
)
"""Files that change no result: stages do not run again for them, and their imports are not followed."""

IMPORTS_ALL = frozenset({"pipeline/store/backends/__init__.py", "pipeline/store/interchange/__init__.py"})
"""Packages that import their modules by name at run time: what imports them depends on all of their modules."""


class Code:
    """The source files of the library.

    Args:
        root: the folder that holds `pipeline/` and `stages/`.
    """

    def __init__(self, root: Path = LIBRARY.parent):
        self.root = root
        self._imports = cache(lambda file: _imports((root / file).read_text(encoding="utf-8")))
        self._file = cache(self._find)

    def digest(self, *modules: str) -> str:
        """One digest over all files that modules depend on, 32 hex digits. Line endings do not matter."""
        hasher = hashlib.sha256()
        for name in self.files(*modules):
            content = (self.root / name).read_bytes().replace(b"\r\n", b"\n")
            hasher.update(f"{name}:{len(content)}:".encode() + content)
        return hasher.hexdigest()[:32]

    def files(self, *modules: str) -> list[str]:
        """The files that modules depend on, relative to the root and sorted.

        Args:
            modules: dotted names, such as `stages.train` and `pipeline.methods.aft`.

        Raises:
            ModuleNotFoundError: there is no such module.
        """
        # A file and the name imported from it; the empty name stands for the file's own code.
        ahead: list[tuple[Path, str]] = []
        for module in modules:
            if self._file(module) is None:
                raise ModuleNotFoundError(f"no module {module} in {self.root}")
            ahead += self._module(module)
        seen: set[tuple[Path, str]] = set()
        while ahead:
            step = ahead.pop()
            if step not in seen and step[0].as_posix() not in NO_RESULT_DEPENDS_ON:
                seen.add(step)
                ahead += self._followed(*step)
        found = {file for file, _ in seen}
        return sorted(file.as_posix() for file in found | self._data_of(found))

    def _followed(self, file: Path, name: str) -> Iterator[tuple[Path, str]]:
        """What a file imports: everything; for an `__init__.py`, what its own code uses, or the one name."""
        if file.as_posix() in IMPORTS_ALL:
            for path in sorted((self.root / file).parent.glob("*.py")):
                yield path.relative_to(self.root), ""
        for found in self._imports(file):
            wanted = found.used if not name else name in (found.bound, "*")
            if wanted or file.name != "__init__.py":
                yield from self._import(file, found)

    def _import(self, file: Path, found: "_Import") -> Iterator[tuple[Path, str]]:
        above = file.parents[found.level - 1].parts if found.level else ()
        module = ".".join([*above, *filter(None, [found.module])])
        whole = f"{module}.{found.name}" if found.name else module
        if self._file(whole):
            yield from self._module(whole)
        elif target := self._file(module):
            yield from self._packages(module)
            yield target, found.name if target.name == "__init__.py" else ""

    def _module(self, module: str) -> Iterator[tuple[Path, str]]:
        """A module as a whole, and the packages it is in; nothing if it is not ours."""
        if target := self._file(module):
            yield from self._packages(module)
            yield target, "*" if target.name == "__init__.py" else ""

    def _packages(self, module: str) -> Iterator[tuple[Path, str]]:
        """The `__init__.py` of every package that importing a module runs."""
        folder = Path()
        for part in module.split("."):
            folder /= part
            if (self.root / folder / "__init__.py").is_file():
                yield folder / "__init__.py", ""

    def _find(self, module: str) -> Path | None:
        path = Path(*module.split("."))
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((file for file in candidates if (self.root / file).is_file()), None)

    def _data_of(self, modules: set[Path]) -> set[Path]:
        """Templates, style sheets and other files that are not code, in the packages of these modules."""
        rooms = {Path(*module.parts[:2]) for module in modules if len(module.parts) > 2}
        return {
            path.relative_to(self.root)
            for room in rooms
            for path in (self.root / room).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }


@dataclass(frozen=True)
class _Import:
    """One name that a file imports: `module` alone, or `name` from it.

    Attributes:
        level: dots in front of the module.
        bound: its name in the file.
        used: whether the file itself uses it, and does not only re-export it.
    """

    module: str
    name: str
    level: int
    bound: str
    used: bool


@cache
def _imports(source: str) -> tuple[_Import, ...]:
    """What a file imports, at any depth, except under `if TYPE_CHECKING`. Parsed once per process."""
    nodes: list[ast.Import | ast.ImportFrom] = []
    used: set[str] = set()
    ahead: list[ast.AST] = [ast.parse(source)]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            nodes.append(node)
        elif isinstance(node, ast.Name):
            used.add(node.id)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            ahead += node.orelse
        else:
            ahead += ast.iter_child_nodes(node)
    found = []
    for node in nodes:
        for alias in node.names:
            bound = (alias.asname or alias.name).partition(".")[0]
            if isinstance(node, ast.Import):
                found.append(_Import(alias.name, "", 0, bound, bound in used))
            else:
                found.append(_Import(node.module or "", alias.name, node.level, bound, bound in used))
    return tuple(found)


def plugins_of_run(params: Params, run: str) -> list[str]:
    """The modules of the plug-ins that the result of a run depends on: task, student, methods, views, augmentations."""
    methods = params.section(f"runs.{run}").get("methods", [])
    names = list(methods) if isinstance(methods, dict) else [term["name"] for term in methods]
    views = {Source.parse(text).view for text in params.section(f"runs.{run}").get("teachers", [])}
    train = params.section("train") | params.section(f"runs.{run}").get("train", {})
    return [
        *_task(params),
        *_student(params, run),
        *_modules("methods", names),
        *_modules("views", sorted(views)),
        *_modules("augmentations", list(train.get("augment", {}))),
        *live_modules(params, run),
    ]


def live_modules(params: Params, run: str) -> list[str]:
    """The modules with which a run computes what its teachers say, if it does not read that from the store."""
    values = params.section(f"runs.{run}")
    if values.get("teacher") != "live":
        return []
    teachers = {Source.parse(text).teacher for text in values.get("teachers", [])}
    families = {str(params.section(f"teachers.{name}")["family"]) for name in teachers}
    return ["pipeline.training.live", *_modules("teachers", sorted(families))]


def digests(params: Params, code: Code | None = None) -> dict[str, str]:
    """A digest per stage, or per item of a stage as in `train/aft`, for the plug-ins that params.yaml names.

    Args:
        params: all settings, checked.
        code: the library's files.
    """
    code = code or Code()
    task, runs = _task(params), list(params.section("runs"))
    plugins_of = {run: plugins_of_run(params, run) for run in runs}
    unlabelled = params.section("dataset").get("unlabelled", [])
    further = [unlabelled] if isinstance(unlabelled, dict) else unlabelled
    sources = [values["family"] for values in (params.section("dataset.source"), *further)]
    teachers = {name: params.section(f"teachers.{name}") for name in params.section("teachers")}
    students = [family for name in params.section("students") for family in _families(params, name)]
    named = [Source.parse(text).clean for run in runs for text in params.section(f"runs.{run}").get("teachers", [])]
    heads = sorted({source.name for source in named if source.head != POOLED})
    return {
        "prepare": code.digest("stages.prepare", *task, *_modules("datasets", sources)),
        **{f"extract/{name}": _extract(params, code, values) for name, values in teachers.items()},
        "probe": code.digest("stages.probe", *task),
        # It also depends on the heads that runs name as teachers, which no key in dvc.yaml can express.
        "assess": digest_of([code.digest("stages.assess", *task, *_modules("students", students)), heads]),
        "join": _join(params, code, chain.from_iterable(plugins_of.values())),
        **{f"train/{run}": code.digest("stages.train", *plugins_of[run]) for run in runs},
        **{f"evaluate/{run}": code.digest("stages.evaluate", *task, *_student(params, run)) for run in runs},
        # The bundle of a sweep has the code of the plug-ins of its points.
        **{f"sweep/{name}": _sweep(params, code, task, name) for name in params.values.get("sweep") or {}},
        "report": _report(params, code, task),
    }


def _report(params: Params, code: Code, task: Sequence[str]) -> str:
    """Of `report`. It also shows sweeps, which not every project has, so no path in dvc.yaml can name them."""
    digest = code.digest("stages.report", *task)
    return digest_of([digest, code.digest("stages.sweep", *task)]) if params.values.get("sweep") else digest


def _sweep(params: Params, code: Code, task: Sequence[str], name: str) -> str:
    """Of a sweep. If it goes over numbers of labels, it fits probes, and also depends on the section `probe`."""
    digest = code.digest("stages.sweep", *task)
    fits = "dataset.labelled" in repr(params.values["sweep"][name])
    return digest_of([digest, params.values.get("probe")]) if fits else digest


def _extract(params: Params, code: Code, teacher: dict[str, Any]) -> str:
    """Of the extraction of a teacher. It also depends on `features`, which not every params.yaml has."""
    digest, place = code.digest("stages.extract", *_extraction(teacher)), params.values.get(PLACE)
    return digest_of([digest, place]) if place else digest


def _join(params: Params, code: Code, plugins: Iterable[str]) -> str:
    """Of `join`. It also depends on the section `sweep`, which a key in dvc.yaml would have to be in params.yaml."""
    digest, sweeps = code.digest("stages.join", *plugins, *_sweeps(params)), params.values.get("sweep")
    return digest_of([digest, repr(sweeps)]) if sweeps else digest


def _sweeps(params: Params) -> list[str]:
    """The plug-ins that sweeps may use: all methods, students and views whose names stand in them."""
    words: set[str] = set()
    ahead: list[Any] = [params.values.get("sweep")]
    while ahead:
        match ahead.pop():
            case dict() as values:
                ahead += [*values, *values.values()]
            case list() as values:
                ahead += values
            case str() as text:
                words |= {*text.split("."), text.rpartition("@")[2]}
    families = {str(values.get("family")) for name, values in params.section("students").items() if name in words}
    return [module for kind in ("methods", "views") for module in _modules(kind, sorted(words))] + _modules(
        "students", sorted(families)
    )


def _extraction(teacher: dict[str, Any]) -> list[str]:
    views = [teacher["views"]["family"]] if "views" in teacher else []
    return _modules("teachers", [teacher["family"]]) + _modules("views", views)


def _task(params: Params) -> list[str]:
    return _modules("tasks", [params.section("dataset").get("task", "classification")])


def _student(params: Params, run: str) -> list[str]:
    student = params.section(f"runs.{run}")["student"]
    return _modules("students", _families(params, student))


def _families(params: Params, student: str) -> list[str]:
    """The family of a student, and those of its parts."""
    section = params.section(f"students.{student}")
    parts = [value["family"] for value in section.values() if isinstance(value, dict) and "family" in value]
    return [section["family"], *parts]


def _modules(kind: str, names: Sequence[str]) -> list[str]:
    """The modules of plug-ins. Unknown names are left out; they are refused elsewhere."""
    return [f"pipeline.{kind}.{name}" for name in names if name in plugins(kind)]
