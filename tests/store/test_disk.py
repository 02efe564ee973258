"""Files that are whole or not there, and locks that die with their holder."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.files import Lock, make_folder
from pipeline.store import disk
from pipeline.store.checksum import checksum
from pipeline.store.disk import LARGE, PAGE, link, page_aligned, publish, publish_together


def test_a_file_is_published_whole_with_its_digest(tmp_path: Path):
    digest = publish(tmp_path / "a", [b"one", memoryview(b"two"), b""])
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert digest == checksum([b"onetwo"])
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_publishing_over_a_hard_link_leaves_the_other_name_as_it_was(tmp_path: Path):
    publish(tmp_path / "cache", [b"old"])
    link(tmp_path / "cache", tmp_path / "workspace")
    assert (tmp_path / "cache").stat().st_ino == (tmp_path / "workspace").stat().st_ino
    (tmp_path / "cache").chmod(0o444)
    publish(tmp_path / "workspace", [b"new"])
    assert (tmp_path / "cache").read_bytes() == b"old"
    assert (tmp_path / "workspace").read_bytes() == b"new"


def test_linking_twice_leaves_nothing_behind(tmp_path: Path):
    publish(tmp_path / "a", [b"x"])
    for _ in range(2):
        link(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failed_write_leaves_what_was_there_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path / "a", [b"old"])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full; finished shards are kept"):
        publish(tmp_path / "a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_bytes_and_the_name_reach_the_disk_before_publish_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        events.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def watched_replace(source: Path, target: Path) -> None:
        events.append(("rename", target.name))
        replace(source, target)

    monkeypatch.setattr(disk.os, "fsync", watched_fsync)
    monkeypatch.setattr(disk.os, "replace", watched_replace)
    publish(tmp_path / "a", [b"x"])
    assert events == [("flush", "a.partial"), ("rename", "a"), ("flush", tmp_path.name)]


def random_bytes(size: int) -> np.ndarray:
    """Of page-aligned memory."""
    memory = page_aligned((size,), "|u1")
    memory[:] = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    return memory


@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 3 * LARGE - 1, 3 * LARGE + PAGE])
@pytest.mark.parametrize("offset", [0, 1, PAGE])
def test_large_files_hold_their_bytes_whatever_their_size_and_place_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, offset: int
):
    monkeypatch.setattr(disk, "BLOCK", LARGE)
    memory = random_bytes(size)[offset:]
    parts = [memory.data, bytes(100), b"index"]
    assert publish(tmp_path / "a", parts) == checksum(parts)
    assert (tmp_path / "a").read_bytes() == memory.tobytes() + bytes(100) + b"index"


def test_whole_pages_go_past_the_page_cache_and_the_rest_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except (OSError, AttributeError):
        pytest.skip("this file system cannot write past the page cache")
    direct = []
    write = os.write

    def watched(handle: int, view: memoryview) -> int:
        direct.append(len(view) if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT else 0)
        return write(handle, view)

    monkeypatch.setattr(disk.os, "write", watched)
    publish(tmp_path / "a", [random_bytes(LARGE + PAGE + 7).data, b"index"])
    assert direct == [LARGE + PAGE]
    publish(tmp_path / "b", [random_bytes(LARGE + PAGE)[1:].data])  # not at a page
    publish(tmp_path / "c", [b"header", random_bytes(LARGE).data])  # in the middle of one
    publish(tmp_path / "d", [random_bytes(LARGE - 1).data])
    assert direct == [LARGE + PAGE]


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="Linux has this flag")
@pytest.mark.parametrize("refuses_at", ["the flag", "the first write", "the second write"])
def test_a_file_system_that_cannot_do_so_is_written_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses_at: str
):
    monkeypatch.setattr(disk, "BLOCK", LARGE)
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

    monkeypatch.setattr(disk.fcntl, "fcntl", flags)
    monkeypatch.setattr(disk.os, "write", write)
    memory = random_bytes(3 * LARGE)
    assert publish(tmp_path / "a", [memory.data, b"index"]) == checksum([memory.data, b"index"])
    assert (tmp_path / "a").read_bytes() == memory.tobytes() + b"index"


def test_files_published_together_are_on_the_disk_with_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flushed = []
    monkeypatch.setattr(disk.os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    files = {tmp_path / "s" / name: name.encode() for name in ("zarr.json", "a/zarr.json", "a/c.0", "b/zarr.json")}
    publish_together(files)
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()} == files
    assert {str(path.parent) for path in files} | {str(tmp_path)} <= set(flushed)
    assert {f"{path}.partial" for path in files} <= set(flushed)


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file: is a file, and a folder is needed there"):
        make_folder(tmp_path / "file")


def test_one_at_a_time_holds_a_lock_alone_and_many_share_it(tmp_path: Path):
    first, second, third = (Lock(tmp_path / "locks" / "a") for _ in range(3))
    assert first.acquire()
    assert not second.acquire() and not second.acquire(exclusive=False)
    assert str(os.getpid()) in second.owner()
    assert first.acquire(exclusive=False)
    assert second.acquire(exclusive=False) and not third.acquire()
    first.release()
    second.release()
    assert third.acquire()
    third.release()


def test_a_lock_on_a_deleted_file_protects_nothing_and_is_taken_anew(tmp_path: Path):
    first, second = Lock(tmp_path / "a"), Lock(tmp_path / "a")
    assert first.acquire()
    (tmp_path / "a").unlink()
    assert second.acquire()
    assert not Lock(tmp_path / "a").acquire()
    first.release()
    second.release()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pipeline.files import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    lock = Lock(tmp_path / "a")
    assert not lock.acquire()
    assert lock.owner().startswith(f"process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert lock.acquire()
    lock.release()


def _try_often(path: Path, log: Path) -> None:
    for _ in range(60):
        lock = Lock(path)
        if lock.acquire(patience=20.0):
            with log.open("a") as file:
                file.write("in\n")
                file.flush()
                file.write("out\n")
            path.unlink()
            lock.release()


def test_no_two_processes_are_ever_inside_even_if_the_file_is_deleted_each_time(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_try_often, args=(tmp_path / "a", tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "in\nout\n" * 180


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


def test_a_disk_that_fills_up_is_told_and_freed_of_the_torn_file(small_disk: Path):
    publish(small_disk / "fits", [bytes(100_000)])
    with pytest.raises(UserError, match="the disk is full"):
        publish(small_disk / "large", [bytes(200_000)])
    assert [path.name for path in small_disk.iterdir()] == ["fits"]
    publish(small_disk / "again", [bytes(100_000)])
    with pytest.raises(UserError, match="the disk is full"):
        publish(small_disk / "huge", [random_bytes(2 * LARGE).data])
    assert sorted(path.name for path in small_disk.iterdir()) == ["again", "fits"]
