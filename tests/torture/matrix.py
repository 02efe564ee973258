"""Every hostile input under every command that reads it: `make matrix`.

    python -m tests.torture.matrix [KIND ...] [--only TEXT] [--jobs 2] [--folder .aft/torture]

A pair is one change to a finished project and one command. Each pair gets a fresh copy of the project and a process of
its own, which is forked where everything is imported, so that a pair takes a fraction of a second. It must end with
exit code 0 or 1, or with 2 and one line; soon, without a traceback, and in little memory. Pairs that did are kept in
the folder, so that the next call tries the others. It ends with a table, and with code 1 if a pair failed.
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tests.torture.preloaded  # noqa: F401
from pipeline.provenance import digest_files
from tests.commands import aft
from tests.disks import NOBODY
from tests.finished import finish

from .bench import aft_in, apart, check
from .inputs import KINDS, SOUND, UNREADABLE, Change, add_inputs

LIMIT = 60.0
"""Seconds after which a command counts as hung; none of them needs more than a few."""

MEMORY = 1 << 30
"""Bytes that a command may map more than this process has: its input is of kilobytes."""


CHANGE_FAILED = 99


@dataclass(frozen=True)
class Pair:
    """One change to a finished project, and one command.

    Attributes:
        kind, what: of the change, a key of `KINDS` and one of its keys.
        line: the command, without `aft`.
    """

    kind: str
    what: str
    line: str


@dataclass(frozen=True)
class Outcome:
    """How a pair ended.

    Attributes:
        code: the exit code; the negative number of a signal that ended it.
        failed: what must not be; empty if all is well.
        seconds: how long the command took.
        memory: bytes of memory that it took, beyond those of the process that it was forked from.
        said: the last line on stderr.
    """

    code: int
    failed: str
    seconds: float
    memory: int
    said: str


def main() -> int:
    """Try what was not tried yet; the exit code."""
    parser = argparse.ArgumentParser(prog="tests.torture.matrix")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if left out")
    parser.add_argument("--only", default="", help="pairs that hold this text")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--go-on", action="store_true", help="keep what was tried with other code")
    parser.add_argument("--folder", type=Path, default=Path(".aft/torture"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    code = digest_files(Path(), sorted(map(str, Path("pipeline").rglob("*.py"))))
    project = _project(folder, code, options.go_on)
    kept = folder / "matrix.jsonl"
    done: dict[Pair, Outcome] = {}
    for entry in map(json.loads, kept.read_text().splitlines() if kept.exists() else ()):
        if not entry[1]["failed"]:
            done[Pair(**entry[0])] = Outcome(**entry[1])
    pairs = [
        pair
        for kind in options.kinds or KINDS
        for what, (_, lines) in KINDS[kind].items()
        for pair in (Pair(kind, what, line) for line in lines)
        if options.only in f"{pair.what} {pair.line}"
    ]
    left = [pair for pair in pairs if pair not in done]
    warm_up(project, {pair.line for pair in left})
    with kept.open("a") as file:
        for number, (pair, outcome) in enumerate(outcomes(left, project, options.jobs), start=1):
            done[pair] = outcome
            file.write(json.dumps([asdict(pair), asdict(outcome)]) + "\n")
            file.flush()
            if outcome.failed:
                print(f"FAILED {pair.kind}, {pair.what}: aft {pair.line}: {outcome.failed}", flush=True)
            elif number % 500 == 0:
                print(f"{number:,} of {len(left):,} pairs", flush=True)
    found = {pair: done[pair] for pair in pairs}
    print(table(found))
    return int(any(outcome.failed for outcome in found.values()))


def warm_up(project: Path, lines: set[str]) -> None:
    """Run each command here, where all is sound and it must succeed: what it imports and caches is then forked."""
    for line in sorted(lines):
        with tempfile.TemporaryDirectory(prefix="aft-matrix-", dir=_memory()) as folder:
            os.environ["AFT_CACHE"] = f"{folder}/cache"
            ended = aft(line, Path(shutil.copytree(project, Path(folder, "project"), symlinks=True)))
            check(ended.code == 0, f"aft {line} fails where all is sound: {ended.errors}")
    gc.freeze()


def outcomes(pairs: list[Pair], project: Path, jobs: int) -> Iterator[tuple[Pair, Outcome]]:
    """Try pairs, some at a time."""
    running: dict[Pair, Attempt] = {}
    waiting = iter(pairs)
    while True:
        while len(running) < jobs and (pair := next(waiting, None)) is not None:
            running[pair] = Attempt(pair, project)
        if not running:
            return
        for pair, attempt in list(running.items()):
            if (outcome := attempt.ended()) is not None:
                del running[pair]
                yield pair, outcome
        time.sleep(0.005)


class Attempt:
    """A command at work on a copy of a project.

    Args:
        pair: the change and the command.
        project: the finished project.
    """

    def __init__(self, pair: Pair, project: Path):
        self._folder = Path(tempfile.mkdtemp(prefix="aft-matrix-", dir=_memory()))
        self._folder.chmod(0o755)
        self._started, self._pair = time.monotonic(), pair
        change, _ = KINDS[pair.kind][pair.what]
        unprivileged = pair.what.startswith(UNREADABLE)
        self._process = multiprocessing.get_context("fork").Process(
            target=_attempt, args=(change, pair.line, project, self._folder, unprivileged)
        )
        self._process.start()

    def ended(self) -> Outcome | None:
        """How it ended; None if it is still at work."""
        seconds = time.monotonic() - self._started
        pid = self._process.pid or 0
        if self._process.is_alive() and seconds < LIMIT:
            return None
        hung = self._process.is_alive()
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # also what it has left
        self._process.join()
        code = self._process.exitcode or 0
        errors, out, memory = (
            (self._folder / name).read_text(errors="replace") for name in ("errors", "out", "memory")
        )
        shutil.rmtree(self._folder)
        failed = ""
        if hung:
            failed = f"still at work after {LIMIT:.0f} s"
        elif "Traceback" in errors or "Traceback" in out:
            failed = f"a traceback: {errors[-1500:]}"
        elif code == CHANGE_FAILED:
            failed = "the change itself failed; see above"
        elif code not in (0, 1, 2):
            failed = f"exit code {code}: {errors[-500:]}"
        elif "not enough memory" in errors:
            failed = f"more than {MEMORY >> 20} MiB of memory"
        elif code == 2 and not _one_line(
            self._pair.line, [line for line in errors.splitlines() if line.startswith("error: ")]
        ):
            failed = f"not one line: {errors[-1000:]}"
        elif code and self._pair.what.startswith(SOUND):
            failed = f"refused, and nothing is wrong: {errors[-500:]}"
        elif any(not (c.isprintable() or c in "\n\r\t") for c in errors + out):
            failed = "characters that move the cursor of a terminal"
        last = (errors.strip().splitlines() or [""])[-1]
        return Outcome(code, failed, round(seconds, 2), int(memory or 0), last[:300])


def _one_line(command: str, refusals: list[str]) -> bool:
    """Whether a refusal is one line that a terminal can show; `aft check` gives one for each problem."""
    short = all(len(line) < 2000 for line in refusals)
    return short and len(set(refusals)) == len(refusals) and (len(refusals) == 1 or command == "check")


def _attempt(change: Change, line: str, project: Path, folder: Path, unprivileged: bool) -> None:
    """Copy the project, change the copy, and run the command there."""
    copy = Path(shutil.copytree(project, folder / "project", symlinks=True))
    os.environ["AFT_CACHE"] = str(folder / "cache")
    for name in ("errors", "out", "memory"):
        (folder / name).touch()
    if unprivileged:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    try:
        change(copy)
    except BaseException:
        traceback.print_exc()
        os._exit(CHANGE_FAILED)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = _resident("VmRSS")
    try:
        aft_in(
            copy, line, folder / "errors", folder / "out", {resource.RLIMIT_AS: mapped + MEMORY}, NOBODY * unprivileged
        )
    finally:
        (folder / "memory").write_text(str(_resident("VmHWM") - before))


def _resident(name: str) -> int:
    """The memory of this process in bytes: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) << 10


def _memory() -> Path | None:
    """A folder in memory, if there is one."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def _project(folder: Path, code: str, go_on: bool) -> Path:
    """The finished project; made again if the code has changed, and then no pair counts as tried."""
    project, complete = folder / "finished", folder / "finished-by"
    if not complete.exists() or (complete.read_text() != code and not go_on):
        shutil.rmtree(project, ignore_errors=True)
        (folder / "matrix.jsonl").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["AFT_CACHE"] = str(folder / "cache")
        apart(_finish, project)
        complete.write_text(code)
    return project


def _finish(project: Path) -> None:
    finish(project)
    add_inputs(project)


def table(found: dict[Pair, Outcome]) -> str:
    """Counts by kind, as Markdown."""
    by_kind: dict[str, list[tuple[Pair, Outcome]]] = defaultdict(list)
    for pair, outcome in found.items():
        by_kind[pair.kind].append((pair, outcome))
    lines = ["", "| input | changes | pairs | code 0 | code 1 | one line, code 2 | failed | slowest | most memory |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for kind, tried in by_kind.items():
        ended = [outcome for _, outcome in tried]
        codes = [sum(not end.failed and end.code == code for end in ended) for code in (0, 1, 2)]
        row: list[Any] = [kind, len({pair.what for pair, _ in tried}), f"{len(tried):,}", *map("{:,}".format, codes)]
        row += [sum(bool(end.failed) for end in ended), f"{max(end.seconds for end in ended):.1f} s"]
        row.append(f"{max(end.memory for end in ended) >> 20} MiB")
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
