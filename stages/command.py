"""Shared parts of commands: options, settings, printing of results, the log and the lock of a stage.

Commands import the library when they are called, so `aft --help` does not wait for torch.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from pipeline.errors import UserError, printable, system_error
from pipeline.params import Params
from pipeline.project import Project

PROJECT = Project()
"""The project is in the current folder."""

# Paths have `readable=False`: typer's own refusal is a usage message, and what opens the file says more.
File = Annotated[Path, typer.Option("--params", readable=False, help="The settings.", show_default=True)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-S",
        metavar="SECTION.KEY=VALUE",
        help="Override a setting for this call. Repeatable.",
    ),
]


def key(stage: str | None) -> str | None:
    """The key in params.yaml: as it is typed, or from DVC's name of a stage, such as `train@aft`."""
    return stage and stage.rpartition("@")[2]


Engine = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="Where the work is done: local or ray (machine.engine).")
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="Of the Ray cluster, or auto (machine.address).")
]
Teacher = Annotated[str, typer.Argument(help="A key of `teachers` in params.yaml.", callback=key)]
Run = Annotated[str, typer.Argument(help="A key of `runs` in params.yaml.", callback=key)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

DATA, FEATURES, PARAMS = PROJECT.data, PROJECT.features, PROJECT.params


def settings(path: Path, overrides: Sequence[str] | None) -> Params:
    """All settings: the file, then the overrides. Raises `UserError` if a section is misspelt."""
    params = Params.load(path, overrides or ())
    params.check_sections()
    return params


def checked(path: Path, overrides: list[str] | None) -> Params:
    """All settings, for a command that reads only some of them: what was overridden is checked as by `aft check`."""
    params = settings(path, overrides)
    if overrides:
        from pipeline.checks import check_params

        check_params(params)
    return params


def on_engine(params: Params, engine: str | None, address: str | None, workers: int | None = None) -> None:
    """Take what was typed into the section `machine` of `params`.

    Raises:
        UserError: an address or workers without an engine that has them.
    """
    typed = {"engine": engine, "address": address, "workers": workers}
    machine = params.section("machine") | {key: value for key, value in typed.items() if value is not None}
    for key in ("address", "workers"):
        if typed[key] is not None and machine.get("engine", "local") == "local":
            raise UserError(f"--{key}: only with --engine ray")
    params.values["machine"] = machine


def in_dvc() -> bool:
    """Whether the project's stages are run by DVC: it has a dvc.yaml, and is in a repository of DVC."""
    root = PROJECT.root.resolve()
    return (root / "dvc.yaml").is_file() and any((folder / ".dvc").is_dir() for folder in (root, *root.parents))


def show(result: Any, as_json: bool) -> None:
    """Print the result of a library function: as text, or all of its fields as JSON."""
    if not as_json:
        print(printable(str(result)))
        return
    print(json.dumps(result, default=_plain))


def _plain(value: Any) -> Any:
    """A value for JSON: records and dataclasses as their fields, anything else as text."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return str(value)


def write_digest(path: Path, digest: str) -> None:
    """Write a digest to its own file, as a dependency of other stages in DVC.

    With a dependency on the folder itself, `dvc repro --dry` would fail if the folder does not exist yet.
    """
    from pipeline.files import write_atomically

    write_atomically(path, json.dumps({"digest": digest}) + "\n")


def say(line: str) -> None:
    """Print a line about the work to stderr, apart from the result on stdout."""
    print(printable(line), file=sys.stderr, flush=True)


def refuse(error: UserError | OSError) -> None:
    """Print an error that the user can fix, as one line."""
    known = system_error(error) if isinstance(error, OSError) else error
    say(f"error: {' '.join(str(known).split())}")


def note_changes(params: Params, teachers: Iterable[str], before: str = "", runs: Iterable[str] = ()) -> None:
    """Say which results of earlier stages were made with other settings; see `pipeline.changed`."""
    from pipeline.changed import changed, changed_run

    for line in changed(params, PROJECT, teachers, before):
        say(f"note: {line}")
    for line in filter(None, (changed_run(params, PROJECT, run) for run in runs)):
        say(f"note: {line}")


def teachers_of(params: Params, run: str | None = None) -> list[str]:
    """The teachers that a run reads, or all runs."""
    from pipeline.runs import read_run

    runs = [run] if run else params.section("runs")
    return list(dict.fromkeys(source.teacher for each in runs for source in read_run(params, each).reads))


def teachers_of_sweep(params: Params, name: str) -> list[str]:
    """The teachers that the points of a sweep read."""
    from pipeline.runs import NAME, every_point, read_run

    found: dict[str, None] = {}
    with suppress(UserError):  # what is wrong with a point is said by what trains it
        for point in every_point(params, name):
            found |= dict.fromkeys(source.teacher for source in read_run(point.params, NAME).reads)
    return list(found)


class StageLog:
    """Where, when and how long a stage ran; see `LogRecord`. The stage sets the attributes while it runs.

    Attributes:
        rows: rows processed by this call.
        trainings: trainings done by this call.
        device: where the work was done.
        continued: whether this call continues earlier ones; their seconds and rows are then added.
        settings: what the result depends on in params.yaml, as written.
        defaults: of those of its keys that need not be written.
    """

    def __init__(self, path: Path, project: Project):
        from pipeline.provenance import commit, versions
        from pipeline.records import LogRecord

        self.rows: int | None = None
        self.trainings: int | None = None
        self.device = ""
        self.continued = False
        self.settings: dict[str, Any] | None = None
        self.defaults: dict[str, Any] = {}
        self._path, self._started, self._written = path, perf_counter(), 0.0
        self._provenance = commit(project.root) | {"versions": versions("aft-pipeline", "numpy", "torch")}
        self._earlier: LogRecord | None = None
        with suppress(UserError):
            self._earlier = LogRecord.read(path)

    def save(self) -> None:
        """Write the log so far, at most once a second, so that a kill loses little."""
        if perf_counter() - self._written >= 1:
            self.write()
            self._written = perf_counter()

    def write(self) -> None:
        """Write the log."""
        from pipeline.records import LogRecord

        seconds, rows = perf_counter() - self._started, self.rows
        if self.continued and self._earlier:
            if not rows:
                # Everything existed already: the time of this call is not that of the result.
                now = {"settings": self.settings, "defaults": self.defaults}
                self._earlier.model_copy(update=now).write(self._path)
                return
            seconds += self._earlier.seconds
            rows += self._earlier.rows or 0
        LogRecord(
            seconds=round(seconds, 3),
            rows=rows,
            trainings=self.trainings,
            device=self.device,
            provenance=self._provenance,
            settings=self.settings,
            defaults=self.defaults,
        ).write(self._path)


@contextmanager
def log(stage: str, name: str = "", project: Project = PROJECT) -> Iterator[StageLog]:
    """Time a stage, and write logs/<name>.<stage>.json when it succeeds.

    Times and machines are in logs only, so that the same inputs give the same bytes of results.
    """
    kept = StageLog(project.log(stage, name), project)
    yield kept
    kept.write()


@contextmanager
def alone(stage: str, name: str = "", project: Project = PROJECT) -> Iterator[None]:
    """Be the only process that writes the output of a stage.

    Raises:
        UserError: another one is writing it; the line says which, and since when.
    """
    from pipeline.locks import Lock

    lock = Lock(project.lock(stage, name))
    if not lock.acquire():
        line = " ".join(filter(None, ("aft", stage, name)))
        raise UserError(f"{lock.path}: {lock.owner()} runs `{line}` on this project; wait for it, or stop it")
    try:
        yield
    finally:
        lock.release()
