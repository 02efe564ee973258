"""Commands where a disk is full or read-only, files may not be read, or no file may grow; and two commands at once."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.verified import checksums
from tests.commands import aft
from tests.disks import NOBODY, disk, fill, mount, unprivileged
from tests.finished import COMMANDS, READING, STAGES, contents, remove

ROOT = Path(__file__).parent.parent
TOO_LARGE = "a file as large as this is not allowed"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes. Python ignores the signal, so writing fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(line: str, project: Path, fault: AbstractContextManager[object], *meanings: str) -> bool:
    """Run a command under a fault: whether it was refused, in one line that says what is wrong and with which file."""
    with fault:
        ended = aft(line, project)
    if ended.code == 0:
        return False
    # `aft run` goes on with the report where a run has failed.
    assert ended.code == 2 and (len(ended.refusals) == 1 or line.startswith("run")), f"{line}: {ended.errors}"
    assert any(f": {meaning}" in ended.refusals[0] for meaning in meanings), f"{line}: {ended.errors}"
    return True


def completes(line: str, project: Path, finished: Path) -> None:
    """Run a command again; everything is then as in the finished project, byte for byte."""
    ended = aft(line, project)
    assert ended.code == 0, f"{line}: {ended.errors}"
    expected, found = contents(finished), contents(project)
    assert not [name for name in expected.keys() | found if expected.get(name) != found.get(name)], line


@pytest.mark.parametrize(
    "lines",
    [[*STAGES, "features export features/wise.zarr exported.npy"], pytest.param([*COMMANDS], marks=pytest.mark.slow)],
    ids=["stages", "all"],
)
def test_where_no_file_may_grow_a_command_says_so_and_completes_later(finished: Path, lines: list[str]):
    for line in lines:
        project = shutil.copytree(finished, finished.with_name("limited"))
        remove(project, line)
        for size in (0, 40):
            assert refused(line, project, largest_file(size), TOO_LARGE, "dvc init failed"), (line, size)
        completes(line, project, finished)
        shutil.rmtree(project)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".parquet", ".pt", ".safetensors"])
def test_features_that_cannot_be_written_leave_nothing(finished: Path, suffix: str):
    """Libraries may crash where they cannot write, at the start, in between or when they close the file."""
    line = f"features export features/wise.zarr written{suffix}"
    for size in (0, 40, 600, 4000):
        assert refused(line, finished, largest_file(size), TOO_LARGE), size
    assert not [path for path in finished.iterdir() if "written" in path.name]


@pytest.fixture
def mounted(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the finished project, and the user's cache, on a disk of their own."""
    with disk(tmp_path / "disk") as permitted:
        if not permitted:
            pytest.skip("mounting is not permitted")
        monkeypatch.setenv("AFT_CACHE", str(tmp_path / "disk" / "cache"))
        yield Path(shutil.copytree(finished, tmp_path / "disk" / "project", symlinks=True))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("what", ["bytes", "files"])
@pytest.mark.parametrize("line", COMMANDS)
def test_on_a_full_disk_a_command_says_so_and_completes_later(
    mounted: Path, finished: Path, line: str, what: str, share: float
):
    files = [path for name in COMMANDS[line] for path in [mounted / name, *(mounted / name).rglob("*")]]
    size = sum(path.stat().st_size for path in files if path.is_file()) + 4096 * len(files)
    remove(mounted, line)
    fill(mounted.parent, what, share, size if what == "bytes" else len(files))
    full = refused(line, mounted, _as_it_is(), "the disk is full", "dvc init failed")
    assert full or share > 0
    mount("-o", "remount,size=1g,nr_inodes=100000", mounted.parent)
    if full:
        completes(line, mounted, finished)


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("line", COMMANDS)
def test_on_a_read_only_disk_a_command_says_so_and_changes_nothing(
    mounted: Path, finished: Path, line: str, there: bool
):
    if not there:
        remove(mounted, line)
    before = contents(mounted)
    mount("-o", "remount,ro", mounted.parent)
    # Where it is all there, some have nothing to write.
    nothing = line.startswith("init") or line == "code"
    assert refused(line, mounted, _as_it_is(), "the file system is read-only", "already there") or (there and nothing)
    assert contents(mounted) == before
    mount("-o", "remount,rw", mounted.parent)
    if not (there and nothing):
        completes(line, mounted, finished)


@pytest.mark.slow
@pytest.mark.parametrize("line", READING)
def test_on_a_read_only_disk_everything_can_be_looked_at(mounted: Path, line: str):
    mount("-o", "remount,ro", mounted.parent)
    # That nothing can be written there is a problem that `aft doctor` finds.
    assert aft(line, mounted).code == (1 if line == "doctor" else 0)


@pytest.fixture
def of_nobody(finished: Path) -> Iterator[Path]:
    """A copy of the finished project that belongs to a user without privileges."""
    folder = Path(tempfile.mkdtemp(prefix="aft-nobody-"))
    folder.chmod(0o755)  # unlike the folders of pytest: root's are closed to others
    project = Path(shutil.copytree(finished, folder / "project", symlinks=True))
    project.chmod(0o755)
    if os.geteuid() == 0:
        for path in [project, *project.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    yield project
    shutil.rmtree(folder)


INPUTS = {
    "prepare": ("raw/reviews.csv", "params.yaml"),
    "extract wise": ("data/manifest.json", "data/content.arrow", "models/wise/model.safetensors"),
    "probe wise": ("data/rows.parquet", "features/wise.zarr/pooled/c.0.0", "features/wise.zarr/rows/id_bytes/c.0"),
    "assess": ("features/wise.zarr/zarr.json", "probes/wise/pooled/0/probe.safetensors"),
    "join": ("probes/wise/pooled/probe.json", "features/wise.zarr/pooled/c.0.json"),
    "train aft": ("data/content.arrow", "probes/wise/pooled/0/linear.npy"),
    "evaluate aft": ("runs/aft/run.json", "runs/aft/students/0/weights.safetensors"),
    "features export features/wise.zarr exported.npy": ("features/wise.zarr/pooled/c.0.0",),
    "features import exported.npy --store features/imported.zarr": ("exported.npy",),
}
"""What commands read."""


def test_a_file_that_may_not_be_read_is_named_and_not_called_damaged(of_nobody: Path, finished: Path):
    for line, names in INPUTS.items():
        remove(of_nobody, line)
        for name in names:
            path = of_nobody / name
            path.chmod(0)
            with unprivileged():
                ended = aft(line, of_nobody)
            path.chmod(0o644)
            assert ended.code == 2 and len(ended.refusals) == 1, f"{line}, {name}: {ended.errors}"
            assert ("models/wise: cannot load it" if "models" in name else name) in ended.refusals[0]
            assert "damaged" not in ended.refusals[0], ended.refusals[0]
        completes(line, of_nobody, finished)


def test_a_folder_that_may_not_be_written_is_named(of_nobody: Path, finished: Path):
    for line in COMMANDS:
        remove(of_nobody, line)
        folders = [path for path in [of_nobody, *of_nobody.rglob("*")] if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        assert refused(line, of_nobody, unprivileged(), "no permission"), line
        for folder in folders:
            folder.chmod(0o755)
        completes(line, of_nobody, finished)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@pytest.mark.parametrize(("stage", "folder"), [("prepare", "data"), ("probe wise", "probes/wise")])
def test_two_processes_at_once_leave_what_one_leaves(
    project: Path, monkeypatch: pytest.MonkeyPatch, stage: str, folder: str
):
    monkeypatch.chdir(project)
    for line in ("prepare", "probe wise"):
        assert aft(line, project).code == 0
    alone = checksums(project / folder)
    shutil.rmtree(project / folder)
    command_line, environment = [sys.executable, "-m", "cli", *stage.split()], os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) in ([0, 0], [0, 2]), said
    assert "Traceback" not in "".join(said)
    assert checksums(project / folder) == alone
