"""A local folder: the contract, and what the disk sees."""

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.checksum import checksum
from pipeline.errors import UserError
from pipeline.store.backends import local
from pipeline.store.backends.local import LARGE, LocalBackend
from pipeline.store.memory import PAGE, page_aligned
from tests.store.backends.contract import BackendContract


class TestLocalBackend(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> LocalBackend:
        backend = LocalBackend(tmp_path / "new" / "store")
        backend.prepare()
        return backend


@pytest.fixture
def here(tmp_path: Path) -> LocalBackend:
    return LocalBackend(tmp_path)


def test_writing_over_a_hard_link_leaves_the_other_name_as_it_was(here: LocalBackend, tmp_path: Path):
    here.put("cache", [b"old"])
    here.copy("cache", "workspace")
    assert (tmp_path / "cache").stat().st_ino == (tmp_path / "workspace").stat().st_ino
    (tmp_path / "cache").chmod(0o444)
    here.put("workspace", [b"new"])
    assert (tmp_path / "cache").read_bytes() == b"old"
    assert (tmp_path / "workspace").read_bytes() == b"new"


def test_a_failed_write_leaves_what_was_there_and_no_debris(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here.put("a", [b"old"])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full; free some space"):
        here.put("a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_bytes_and_the_name_reach_the_disk_before_put_returns(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        events.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def watched_replace(source: Path, target: Path) -> None:
        events.append(("rename", target.name))
        replace(source, target)

    monkeypatch.setattr(local.os, "fsync", watched_fsync)
    monkeypatch.setattr(local.os, "replace", watched_replace)
    here.put("a", [b"x"])
    assert events == [("flush", "a.partial"), ("rename", "a"), ("flush", tmp_path.name)]


def random_bytes(size: int) -> np.ndarray:
    """Of page-aligned memory."""
    memory = page_aligned((size,), "|u1")
    memory[:] = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    return memory


@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 3 * LARGE - 1, 3 * LARGE + PAGE])
@pytest.mark.parametrize("offset", [0, 1, PAGE])
def test_large_files_hold_their_bytes_whatever_their_size_and_place_in_memory(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, offset: int
):
    monkeypatch.setattr(local, "BLOCK", LARGE)
    memory = random_bytes(size)[offset:]
    parts = [memory.data, bytes(100), b"index"]
    assert here.put("a", parts) == checksum(parts)
    assert (tmp_path / "a").read_bytes() == memory.tobytes() + bytes(100) + b"index"


def test_whole_pages_go_past_the_page_cache_and_the_rest_through_it(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except (OSError, AttributeError):
        pytest.skip("this file system cannot write past the page cache")
    direct = []
    write = os.write

    def watched(handle: int, view: memoryview) -> int:
        direct.append(len(view) if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT else 0)
        return write(handle, view)

    monkeypatch.setattr(local.os, "write", watched)
    here.put("a", [random_bytes(LARGE + PAGE + 7).data, b"index"])
    assert direct == [LARGE + PAGE]
    here.put("b", [random_bytes(LARGE + PAGE)[1:].data])  # not at a page
    here.put("c", [b"header", random_bytes(LARGE).data])  # in the middle of one
    here.put("d", [random_bytes(LARGE - 1).data])
    assert direct == [LARGE + PAGE]


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="Linux has this flag")
@pytest.mark.parametrize("refuses_at", ["the flag", "the first write", "the second write"])
def test_a_file_system_that_cannot_do_so_is_written_as_usual(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses_at: str
):
    monkeypatch.setattr(local, "BLOCK", LARGE)
    written = []
    control = fcntl.fcntl

    def refuse() -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def flags(handle: int, command: int, value: int = 0) -> int:
        if command == fcntl.F_SETFL and value & os.O_DIRECT:
            if refuses_at == "the flag":
                refuse()
            return 0
        return control(handle, command, value)

    def write(handle: int, view: memoryview) -> int:
        if refuses_at == "the first write" or written:
            refuse()
        written.append(len(view))
        return os.pwrite(handle, view, os.lseek(handle, len(view), os.SEEK_CUR) - len(view))

    monkeypatch.setattr(local.fcntl, "fcntl", flags)
    monkeypatch.setattr(local.os, "write", write)
    memory = random_bytes(3 * LARGE)
    assert here.put("a", [memory.data, b"index"]) == checksum([memory.data, b"index"])
    assert (tmp_path / "a").read_bytes() == memory.tobytes() + b"index"


def test_files_written_together_are_on_the_disk_with_their_folders(
    here: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flushed = []
    monkeypatch.setattr(local.os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    files = [tmp_path / "s" / name for name in ("zarr.json", "a/zarr.json", "a/c.0", "b/zarr.json")]
    here.put_together({path.relative_to(tmp_path).as_posix(): path.name.encode() for path in files})
    assert {str(path.parent) for path in files} | {str(tmp_path)} <= set(flushed)
    assert {f"{path}.partial" for path in files} <= set(flushed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB, where the tests may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs rights that this machine does not give")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_reported_and_the_torn_file_removed(small_disk: Path):
    LocalBackend(small_disk).put("fits", [bytes(100_000)])
    with pytest.raises(UserError, match="the disk is full"):
        LocalBackend(small_disk).put("large", [bytes(200_000)])
    assert [path.name for path in small_disk.iterdir()] == ["fits"]
    LocalBackend(small_disk).put("again", [bytes(100_000)])
    with pytest.raises(UserError, match="the disk is full"):
        LocalBackend(small_disk).put("huge", [random_bytes(2 * LARGE).data])
    assert sorted(path.name for path in small_disk.iterdir()) == ["again", "fits"]
