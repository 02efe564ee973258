"""Shared parts of commands: options, printing of results, the log of a stage, and handling of errors.

Commands import the library when they are called, so `aft --help` does not wait for torch.
"""

import atexit
import dataclasses
import gc
import json
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from pipeline.errors import UserError, behind, listed, printable, system_error
from pipeline.params import NAMED, SECTIONS, Params
from pipeline.project import Project
from pipeline.verified import NO_VERIFY

PROJECT = Project()
"""The project is in the current folder."""

# Paths have `readable=False`: typer's own refusal is a usage message, and what opens the file says more.
File = Annotated[Path, typer.Option("--params", readable=False, help="The settings.", show_default=True)]
READS = {
    "prepare": ("dataset",),
    "extract": ("extract", "teachers"),
    "probe": ("probe",),
    "assess": ("assess", "probe", "students", "teachers", "runs"),
    "join": ("runs", "students", "teachers", "sweep"),
    "train": ("runs", "students", "train"),
    "sweep": ("sweep", "runs", "students", "train", "probe"),
    "evaluate": (),
    "export": ("runs", "students", "teachers", "train"),
    "cost": ("runs", "extract", "teachers"),
    "replay": ("runs", "students", "train"),
}
"""The sections that a command reads besides `machine`, for commands that take the rest from files of earlier stages.

Other commands may read all of params.yaml.
"""


class Command(TyperCommand):
    """A command that refuses overrides which it would ignore. `aft run` passes all to all stages, past this."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            UserError: an override is of a section that only other stages read, or of another run, teacher, student or
                sweep than the one that was named.
        """
        overrides = ctx.params.get("overrides") or ()
        name = str(self.name)
        for override in overrides if name in READS else ():
            section, _ = _place(override)
            if section in SECTIONS and section not in (*READS[name], "machine"):
                readers = " or ".join([f"`aft {stage}`" for stage, read in READS.items() if section in read][:3])
                raise UserError(
                    f"-S {override}: `aft {name}` does not read `{section}`; pass it to {readers} and run the stages "
                    "after that, or to `aft run --direct`, which runs all"
                )
        if any(section in NAMED for section, _ in map(_place, overrides)):
            read = _names_read(name, ctx.params, settings(ctx.params["params"], overrides))
            for override in overrides:
                section, key = _place(override)
                if section in read and key not in read[section]:
                    names = listed([f"`{section}.{each}`" for each in sorted(read[section])])
                    raise UserError(
                        f"-S {override}: `aft {name}` reads {names} here, and not `{section}.{key}`; drop it, or "
                        "correct the name"
                    )
        return super().invoke(ctx)


def _place(override: str) -> tuple[str, str]:
    """The section that an override is of, and the key in it."""
    section, _, rest = override.partition("=")[0].strip().partition(".")
    return section, rest.partition(".")[0]


def _names_read(command: str, given: Mapping[str, Any], params: Params) -> dict[str, set[str]]:
    """By section, the names in it that a command reads; sections that it may read all of are left out.

    Raises:
        UserError: what was named is not there, or is wrong.
    """
    from pipeline.runs import every_point, read_run

    if command in ("extract", "plan"):
        return {"teachers": {given["teacher"]}}
    if command == "compare":
        return {"runs": {given["one"], given["other"]}}
    if command == "sweep" and given["name"]:
        points = list(every_point(params, given["name"]))
        runs = {point.values["run"] for point in points if "run" in point.values}
        return {"sweep": {given["name"]}, "runs": runs, "students": {point.section["student"] for point in points}}
    if not (run := given.get("run")) or command not in READS or "/" in run:
        return {}
    named = read_run(params, run)
    teachers = {source.teacher for source in named.reads}
    return {"runs": {run}, "students": {named.student}, "teachers": teachers}


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

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

KEPT = {
    "extract": "finished shards",
    "features import": "finished shards",
    "run": "finished stages, shards and trainings",
    "sweep": "finished trainings and the last checkpoints",
    "train": "finished trainings and the last checkpoints",
}
"""What a command keeps when it is interrupted; the others keep nothing, and change nothing."""

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


def note_changes(params: Params, teachers: Iterable[str], before: str = "") -> None:
    """Say which results of earlier stages were made with other settings; see `pipeline.changed.changed`."""
    from pipeline.changed import changed

    for line in changed(params, PROJECT, teachers, before):
        say(f"note: {line}")


def teachers_of(params: Params, run: str | None = None) -> list[str]:
    """The teachers that a run reads, or all runs."""
    from pipeline.runs import read_run

    runs = [run] if run else params.section("runs")
    return list(dict.fromkeys(source.teacher for each in runs for source in read_run(params, each).reads))


class StageLog:
    """Where, when and how long a stage ran; see `LogRecord`. The stage sets the attributes while it runs.

    Attributes:
        rows: rows processed by this call.
        trainings: trainings done by this call.
        device: where the work was done.
        continued: whether this call continues earlier ones; their seconds and rows are then added.
        settings: what the result depends on in params.yaml.
    """

    def __init__(self, path: Path, project: Project):
        from pipeline.provenance import commit, versions
        from pipeline.records import LogRecord

        self.rows: int | None = None
        self.trainings: int | None = None
        self.device = ""
        self.continued = False
        self.settings: dict[str, Any] | None = None
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
                self._earlier.model_copy(update={"settings": self.settings}).write(self._path)
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
        ).write(self._path)


@contextmanager
def log(stage: str, name: str = "", project: Project = PROJECT) -> Iterator[StageLog]:
    """Time a stage, and write logs/<stage>/<name>.json when it succeeds.

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


def run(app: Callable[..., Any], name: str | None = None) -> None:
    """Run a command line. An error that the user can fix becomes one line and exit code 2.

    These are `UserError`s, and all errors of the operating system, which are only handled here. `--debug` keeps the
    traceback. `--no-verify` skips the comparison with checksums, in this process and its children.

    Args:
        app: the commands.
        name: of the program in its help; the name of its file if None.
    """
    # Between two operations, GNU OpenMP's threads spin for milliseconds. With a core short, because others use the
    # machine or because rows are read alongside the model, they spin against each other: texts took 10 times as long on
    # two busy cores. Spinning for microseconds is as fast on idle ones. To be set before torch is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # At its end Python looks for unused objects among all that torch and others have made, for a second or more.
    atexit.register(gc.freeze)
    typed = [name or Path(sys.argv[0]).name, *sys.argv[1:]]
    debug = "--debug" in sys.argv
    if "--no-verify" in sys.argv:
        os.environ[NO_VERIFY] = "1"
    sys.argv = [argument for argument in sys.argv if argument not in ("--debug", "--no-verify")]
    with _interrupts() as interrupts:
        try:
            try:
                app(prog_name=name)
            finally:
                sys.stdout.flush()  # a full disk behind it shows here, and not while Python ends
        except BaseException as error:
            # typer turns a `KeyboardInterrupt` into a `SystemExit`. Others catch it, as imports do, and raise errors.
            code = error.code if isinstance(error, SystemExit) else 1
            if isinstance(error, KeyboardInterrupt) or code == INTERRUPTED or (interrupts and code):
                _end_interrupted(typed, debug)
            _end(error, debug)
            raise


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Inside, each Ctrl-C is added to the list, and raises `KeyboardInterrupt`, or does more where that was set."""
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    raised = signal.default_int_handler if before is signal.SIG_DFL else before

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if callable(raised):
            raised(number, frame)

    if not callable(raised) or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _end_interrupted(typed: list[str], debug: bool) -> NoReturn:
    """End after Ctrl-C; say what is kept, and how to go on."""
    if debug:
        traceback.print_exc()
    words = " ".join(typed[1:])
    kept = [what for command, what in KEPT.items() if f"{words} ".startswith(f"{command} ")]
    found = f"{kept[0]} are kept, other results are as before" if kept else "results are as before"
    say(f"interrupted; {found}; run `{shlex.join(typed)}` {'to continue' if kept else 'again'}")
    # Python ends by SIGINT, whatever the exit code, if the interrupt came through an `exec` of a string, as while
    # dataclasses are imported. The next such `exec` clears that.
    exec("")
    sys.exit(INTERRUPTED)


def _end(error: BaseException, debug: bool) -> None:
    """End in one line if the user can fix the error. Returns if it is another one, or with `--debug`."""
    if isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as with `| head`
        _close_stdout()
        sys.exit(1)
    if debug:
        return
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported
        error = UserError("not enough memory; close other programs, or lower machine.workers and the batch size")
    error = behind(error) or error
    # An OSError without a number is not from the operating system: a download that failed, say.
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):
        _close_stdout()
        refuse(error)
        sys.exit(2)


def _close_stdout() -> None:
    """Leave nothing for Python to write when it ends, if it would fail again, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def refuse(error: UserError | OSError) -> None:
    """Print an error that the user can fix, as one line."""
    known = system_error(error) if isinstance(error, OSError) else error
    say(f"error: {' '.join(str(known).split())}")


def single(main: Any) -> None:
    """Run one stage as `python -m stages.NAME`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(Path(sys.argv[0]).stem, cls=Command)(main)
    run(app)
