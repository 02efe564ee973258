"""A small finished project, copies of it, and commands that are watched while they work on one."""

import hashlib
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from pipeline.provenance import digest_files
from stages import command, entry
from stages.app import app
from tests.conftest import PARAMS, WORDS, write_encoder, write_table

STAGES = {
    "prepare": ("data",),
    "extract wise": ("features/wise.zarr", "features/wise.json"),
    "extract loud": ("features/loud.zarr", "features/loud.json"),
    "probe wise": ("probes/wise",),
    "probe loud": ("probes/loud",),
    "assess": ("assessments",),
    "join": ("bundles",),
    "train none": ("runs/none", "trials"),
    "train aft": ("runs/aft", "trials"),
    "sweep small": ("sweeps", "trials"),
    "evaluate none": ("evaluations/none.json", "evaluations/none.parquet"),
    "evaluate aft": ("evaluations/aft.json", "evaluations/aft.parquet"),
    "report": ("report",),
}
"""The stages in their order, and what each writes."""

OTHERS = {
    "export aft --output exported": ("exported",),
    "predict exported raw/reviews.csv --output predicted.csv": ("predicted.csv",),
    "features export features/wise.zarr exported.npy": ("exported.npy", "exported.rows.npz"),
    "features import exported.npy --store copied.zarr": ("copied.zarr",),
}
"""Other commands that write. No stage needs what they write."""

COMMANDS = STAGES | OTHERS

RESULTS = (
    *("assessments", "bundles", "data", "evaluations", "features", "probes", "runs", "sweeps"),
    *(name for names in OTHERS.values() for name in names),
)
"""What is the same whenever it is made. The ledger and the report also hold times."""

INPUTS = ("dvc.yaml", "models", "params.yaml", "raw")
RUNS = {
    "none": {"student": "bag"},
    "aft": {"student": "bag", "teachers": ["wise"], "methods": {"aft": {"weight": [0.0, 3.0]}}},
}

AFT = typer.main.get_command(app)
"""The commands, made once: that takes as long as a small command."""

LIMIT = 180.0
"""Seconds after which a command counts as hung; none of them needs more than a few."""

ORPHANS = 60.0
"""Seconds within which all that a command started has ended, once the command has; a busy machine needs some."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        line: the command, without `aft`.
        code: its exit code; the negative number of a signal that ended it.
        errors: what it printed to stderr.
        seconds: how long it took.
    """

    line: str
    code: int
    errors: str
    seconds: float


def check(holds: bool, what: str) -> None:
    """Fail the round. Not `assert`: its text would be lost outside of pytest."""
    if not holds:
        raise AssertionError(what)


def start(line: str, folder: Path, limits: dict[int, int] | None = None) -> "Running":
    """Start `aft LINE` in a folder, in a session of its own. Forked: torch is imported once, for all rounds."""
    return Running(line, folder, limits or {})


class Running:
    """A command at work."""

    def __init__(self, line: str, folder: Path, limits: dict[int, int]):
        self._line, self._started = line, time.monotonic()
        self._errors = Path(tempfile.gettempdir()) / f"aft-torture-{os.getpid()}-{time.monotonic_ns()}"
        self._process = multiprocessing.get_context("fork").Process(
            target=aft_in, args=(folder, line, self._errors, Path(os.devnull), limits)
        )
        self._process.start()

    def send(self, number: int) -> None:
        """Send a signal, if the command is still at work."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)

    def end(self, codes: Iterable[int]) -> Ended:
        """Wait for the end. It must come in time, with one of some exit codes, with no traceback and no orphan."""
        pid = self._process.pid or 0
        self._process.join(LIMIT)
        hung = self._process.is_alive()
        if hung:
            os.killpg(pid, signal.SIGKILL)
            self._process.join()
        seconds = time.monotonic() - self._started
        errors = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        self._errors.unlink(missing_ok=True)
        code = self._process.exitcode
        check(not hung, f"aft {self._line}: still at work after {LIMIT:.0f} s\n{errors}")
        check("Traceback" not in errors, f"aft {self._line}: a traceback\n{errors}")
        check(code in codes, f"aft {self._line}: exit code {code}\n{errors}")
        if code == 2:
            check(
                sum(line.startswith("error: ") for line in errors.splitlines()) == 1,
                f"aft {self._line}: not one line\n{errors}",
            )
        deadline = time.monotonic() + ORPHANS
        while left := _session(pid):
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                check(False, f"aft {self._line}: left the processes {left}")
            time.sleep(0.05)
        return Ended(self._line, code or 0, errors, seconds)


def run(line: str, folder: Path, codes: Iterable[int] = (0,), limits: dict[int, int] | None = None) -> Ended:
    """Run `aft LINE` in a folder; see `Running.end`."""
    return start(line, folder, limits).end(codes)


def aft_in(folder: Path, line: str, errors: Path, out: Path, limits: dict[int, int], user: int = 0) -> None:
    """Be `aft LINE` in a folder: in a forked process, in a session of its own, as another user if not 0."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 1)
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    if user:
        os.setresuid(user, user, user)
    os.chdir(folder)
    sys.argv = ["aft", *shlex.split(line)]
    entry.run(AFT, "aft")


def _session(leader: int) -> list[int]:
    """The processes of a session that are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file with a result. Locks and unfinished files are none."""
    paths = [path for name in RESULTS for path in (folder / name, *(folder / name).rglob("*"))]
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.is_file() and "locks" not in path.parts and path.suffix != ".partial"
    }


class Bench:
    """A finished project to compare with, and one that is tortured.

    Args:
        folder: where both are, and stay.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.reference, self.work = self.folder / "reference", self.folder / "work"
        os.environ["AFT_CACHE"] = str(self.folder / "cache")
        complete, root = self.folder / "complete", Path(command.__file__).parent.parent
        # Bundles hold digests of the code, so other code needs another project to compare with.
        code = digest_files(root, [path.relative_to(root).as_posix() for path in root.glob("pipeline/**/*.py")])
        if not complete.exists() or complete.read_text() != code:
            shutil.rmtree(self.reference, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            apart(_make, self.reference)
            self.finish(self.reference)
            for line in OTHERS:
                run(line, self.reference)
            complete.write_text(code)
        self.expected = contents(self.reference)

    def copy(self) -> Path:
        """A fresh copy of the finished project."""
        shutil.rmtree(self.work, ignore_errors=True)
        return Path(shutil.copytree(self.reference, self.work, symlinks=True))

    def finish(self, folder: Path, first: str = "prepare") -> None:
        """Run a stage and all after it; each must succeed."""
        for stage in after(first):
            run(stage, folder)

    def same(self, folder: Path) -> None:
        """Check that a project has the results of the undisturbed one, byte for byte."""
        found = contents(folder)
        differ = sorted(name for name in found.keys() | self.expected if found.get(name) != self.expected.get(name))
        check(not differ, f"other results than undisturbed: {', '.join(differ[:8])}")


def after(first: str) -> list[str]:
    """A stage and all after it; another command alone."""
    names = list(STAGES)
    return names[names.index(first) :] if first in STAGES else [first]


def remove(folder: Path, line: str) -> None:
    """Delete what a command wrote."""
    for name in COMMANDS[line]:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def apart(work: Callable[..., object], *arguments: object) -> None:
    """Do something in a process of its own: what starts threads here must not be forked."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join()
    check(process.exitcode == 0, "the project for comparison could not be made")


def _make(folder: Path) -> None:
    run(f"init {shlex.quote(str(folder))}", folder.parent)
    write_table(folder / "raw" / "reviews.csv")
    for name, width in (("wise", 16), ("loud", 8)):
        write_encoder(folder / "models" / name, WORDS, width, layers=1)
    teachers = {name: {"family": "transformers", "model": f"models/{name}"} for name in ("wise", "loud")}
    train: dict[str, Any] = PARAMS["train"] | {"steps": 5, "seeds": [0, 1]}  # type: ignore[operator]
    sweeps = {"small": {"over": {"student": "bag", "train.learning_rate": [0.01, 0.02]}}}
    values = PARAMS | {"teachers": teachers, "train": train, "runs": RUNS, "sweep": sweeps}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
