"""What is done to a project in one round. Each kind returns what was injected, and what happened."""

import errno
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from .bench import COMMANDS, INPUTS, OTHERS, STAGES, Bench, after, check, contents, remove, run, start
from .hostile import (
    damaged,
    hostile_checkpoint,
    hostile_images,
    hostile_import,
    hostile_params,
    hostile_prediction,
    hostile_source,
    hostile_store,
    hostile_table,
    nearly_sound,
)

Kind = Callable[[Random, Bench], tuple[str, str]]

SAME = "the rerun gives the same results"


class Skipped(Exception):
    """This machine does not permit such a round."""


def kill(random: Random, bench: Bench) -> tuple[str, str]:
    """End a stage at a random moment, up to three times."""
    project, stage = bench.copy(), random.choice(list(COMMANDS))
    remove(project, stage)
    number = random.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT])
    workers = " -S machine.workers=2" if stage.startswith("train") and random.random() < 0.3 else ""
    for _ in range(random.randint(1, 3)):
        running = start(stage + workers, project)
        time.sleep(random.uniform(0, 8 if workers else 1.5) * random.random())
        running.send(number)
        running.end((0, -number, 130))
    bench.finish(project, stage)
    bench.same(project)
    return f"{number.name} to `{stage}`{' with 2 workers' if workers else ''}", SAME


def full(random: Random, bench: Bench) -> tuple[str, str]:
    """A disk with little space left, in bytes or in files."""
    stage = random.choice(list(COMMANDS))
    with _disk(bench.work) as mounted:
        project = mounted / "project"
        shutil.copytree(bench.reference, project, symlinks=True)
        files = [path for name in COMMANDS[stage] for path in (project / name, *(project / name).rglob("*"))]
        needed = sum(path.stat().st_size for path in files if path.is_file()) + 4096 * len(files)
        remove(project, stage)
        used = os.statvfs(mounted)
        if random.random() < 0.7:
            what, few = "bytes", (used.f_blocks - used.f_bfree) * used.f_frsize + random.randrange(needed)
            _mount("-o", f"remount,size={max(few, 4096)}", mounted)
        else:
            what, few = "files", used.f_files - used.f_ffree + random.randrange(len(files) + 2)
            _mount("-o", f"remount,nr_inodes={few}", mounted)
        ended = run(stage, project, (0, 2))
        _mount("-o", "remount,size=1g,nr_inodes=100000", mounted)
        bench.finish(project, stage)
        bench.same(project)
    return f"a disk without space for {what}: `{stage}`", _answer(ended.code)


def too_large(random: Random, bench: Bench) -> tuple[str, str]:
    """A limit on the size of files, as `ulimit -f` sets it."""
    project, stage = bench.copy(), random.choice(list(COMMANDS))
    largest = max(
        path.stat().st_size for name in COMMANDS[stage] for path in (project / name, *(project / name).rglob("*"))
    )
    remove(project, stage)
    ended = run(stage, project, (0, 2), {resource.RLIMIT_FSIZE: random.randint(1, largest)})
    bench.finish(project, stage)
    bench.same(project)
    return f"a limit on the size of files: `{stage}`", _answer(ended.code)


def read_only(random: Random, bench: Bench) -> tuple[str, str]:
    """A file system that cannot be written."""
    stage = random.choice(list(COMMANDS))
    with _disk(bench.work) as mounted:
        project = mounted / "project"
        shutil.copytree(bench.reference, project, symlinks=True)
        if random.random() < 0.7:
            remove(project, stage)
        _mount("-o", "remount,ro", mounted)
        before = contents(project)
        ended = run(stage, project, (0, 2))
        check(contents(project) == before, "a read-only disk has changed")
        _mount("-o", "remount,rw", mounted)
        bench.finish(project, stage)
        bench.same(project)
    return f"a read-only disk: `{stage}`", _answer(ended.code)


def damage(random: Random, bench: Bench) -> tuple[str, str]:
    """Damage one file with a result, then run what comes after the stage that wrote it."""
    project = bench.copy()
    others = tuple(name for names in OTHERS.values() for name in names)
    name = random.choice([name for name in sorted(bench.expected) if not name.startswith(others)])
    how = damaged(random, project / name)
    stage = next(stage for stage, outputs in STAGES.items() if name.startswith(outputs))
    refused = False
    for later in after(stage)[1:]:
        if run(later, project, (0, 2)).code == 2:
            refused = True
            break
    else:
        check(contents(project).keys() | {name} == bench.expected.keys() | {name}, "other files than undisturbed")
        found = contents(project)
        differ = [other for other in found if other != name and found[other] != bench.expected[other]]
        check(not differ, f"{how} in {name} gave other results without a word: {differ[:5]}")
    remove(project, stage)
    bench.finish(project)
    bench.same(project)
    what = f"{how} in {name.split('/')[0]}/"
    return what, "refused in one line; made again, the same results" if refused else "no effect on any result"


def twice(random: Random, bench: Bench) -> tuple[str, str]:
    """Two of a stage at once."""
    project, stage = bench.copy(), random.choice(list(COMMANDS))
    remove(project, stage)
    first = start(stage, project)
    time.sleep(random.random() * 0.5)
    second = start(stage, project)
    codes = sorted(running.end((0, 2)).code for running in (first, second))
    check(codes[0] == 0, "neither of two commands at once succeeded")
    bench.finish(project, after(stage)[-1])
    bench.same(project)
    return f"two `{stage}` at once", "one is refused" if codes[1] else "both succeed"


def hard_links(random: Random, bench: Bench) -> tuple[str, str]:
    """DVC's cache by hard links."""
    return _dvc(bench, "hardlink")


def symlinks(random: Random, bench: Bench) -> tuple[str, str]:
    """DVC's cache by symbolic links."""
    return _dvc(bench, "symlink")


def copies(random: Random, bench: Bench) -> tuple[str, str]:
    """DVC's cache by copies."""
    return _dvc(bench, "copy")


def push_and_pull(random: Random, bench: Bench) -> tuple[str, str]:
    """A project that another folder gets from a remote."""
    project = bench.copy()
    there, remote = bench.folder / "there", bench.folder / "remote"
    for folder in (there, remote):
        shutil.rmtree(folder, ignore_errors=True)
    _call("aft", "run", folder=project)
    _call("dvc", "remote", "add", "--default", "there", str(remote), folder=project)
    _call("dvc", "push", "--no-run-cache", folder=project)
    there.mkdir()
    for name in (*INPUTS, ".dvc/config", ".dvcignore", "dvc.lock"):
        copy = shutil.copytree if (project / name).is_dir() else shutil.copy
        (there / name).parent.mkdir(exist_ok=True)
        copy(project / name, there / name)
    shutil.copytree(project / ".dvc", there / ".dvc", ignore=lambda *_: ["cache", "tmp"], dirs_exist_ok=True)
    _call("dvc", "pull", folder=there)
    for line in OTHERS:
        run(line, there)
    bench.same(there)
    ran = _call("aft", "run", folder=there).count("Running stage")
    check(ran == 1, f"{ran} stages ran after `dvc pull`; only `code` should")
    return "`dvc push`, `dvc pull` elsewhere", "the same results; nothing runs again"


KINDS: dict[str, tuple[Kind, int]] = {
    "kill": (kill, 30),
    "full": (full, 10),
    "too_large": (too_large, 5),
    "read_only": (read_only, 5),
    "damage": (damage, 25),
    "twice": (twice, 10),
    "hostile_table": (hostile_table, 6),
    "hostile_params": (hostile_params, 8),
    "hostile_checkpoint": (hostile_checkpoint, 8),
    "hostile_images": (hostile_images, 6),
    "hostile_store": (hostile_store, 15),
    "hostile_import": (hostile_import, 10),
    "hostile_source": (hostile_source, 10),
    "hostile_prediction": (hostile_prediction, 10),
    "nearly_sound": (nearly_sound, 15),
}
"""Kinds of rounds by name, and how often each comes up."""

ONCE: dict[str, Kind] = {
    "hard_links": hard_links,
    "symlinks": symlinks,
    "copies": copies,
    "push_and_pull": push_and_pull,
}
"""Kinds that are slow and have nothing random: one round of each."""


def _answer(code: int) -> str:
    return f"refused in one line; {SAME}" if code else f"it was enough; {SAME}"


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A file system in memory."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "aft-torture", str(folder)], capture_output=True).returncode:
        raise Skipped("mounting is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EINVAL, done.stderr)


def _dvc(bench: Bench, kind: str) -> tuple[str, str]:
    """All stages by DVC, then other settings, then the first again, with a cache of some type."""
    project = bench.copy()
    _call("dvc", "config", "cache.type", kind, folder=project)
    sound = (project / "params.yaml").read_text()
    for text in (sound, sound.replace("steps: 5", "steps: 6").replace("labelled: 30", "labelled: 24"), sound):
        (project / "params.yaml").write_text(text)
        _call("aft", "run", folder=project)
    bench.same(project)
    cached = [path for path in (project / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()]
    for path in cached:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        check(path.parent.name + path.name.removesuffix(".dir") == digest, f"{path}: changed in DVC's cache")
    return f"DVC's cache by {kind}, other settings and back", "the same results; no file of the cache has changed"


def _call(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    text = done.stdout + done.stderr
    check(done.returncode == 0 and "Traceback" not in text, f"{' '.join(command)}: exit code {done.returncode}\n{text}")
    return text
