"""Files that are whole or do not exist, and locks that end with their holder."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import UserError, printable
from pipeline.files import abandoned, cell, make_folder, patient, read_regular, scratch_folder, write_atomically
from tests.memory import at_most


def test_a_file_is_written_whole_and_a_finished_one_is_never_changed(tmp_path: Path):
    write_atomically(tmp_path / "d" / "a", "old")
    os.link(tmp_path / "d" / "a", tmp_path / "cache")
    write_atomically(tmp_path / "d" / "a", b"new")
    assert (tmp_path / "d" / "a").read_text() == "new" and (tmp_path / "cache").read_text() == "old"
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["a"]


def test_two_that_write_one_file_at_once_both_write_all_of_it(tmp_path: Path):
    path, size = tmp_path / "a", 200_000
    write_atomically(path, b"0" * size)

    def write(byte: bytes) -> None:
        for _ in range(40):
            write_atomically(path, byte * size)

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, byte) for byte in (b"1", b"2")]
        while not all(each.done() for each in writing):
            found = path.read_bytes()
            assert len(found) == size and len(set(found)) == 1
        for each in writing:
            each.result()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str):
    write_atomically(tmp_path / "a", "old")

    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(UserError, match=f"a: {words}"):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file: is a file, and a folder is needed there"):
        make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd", "-cmd|x", "@SUM(1)", "\t=1", "\r=1", " =1+1", "\ufeff=1", "\uff1d1+1", "-1+1", "+1-cmd|x"],
)
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(text: str):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", ["-1.5", -3, "+2e5", "-inf", " -2", "a=b", "", "it's", "10+1", "1e-05", float("-inf")]
)
def test_numbers_and_plain_text_stay_cells_as_they_are(value: object):
    assert cell(value) == str(value)


def test_what_would_steer_a_terminal_is_printed_as_an_escape():
    assert printable("a\x1b[2J\x07\u202eb\r\nc") == "a\\x1b[2J\\x07\\u202eb\\r\nc"
    assert printable("naïve 東京 🎈") == "naïve 東京 🎈"


def test_a_library_that_fails_after_a_write_that_failed_is_the_error_of_the_write(tmp_path: Path):
    with pytest.raises(OSError, match="No space left") as caught, patient(Path("/dev/full")) as file:
        assert file.write(b"abc") == 3
        raise RuntimeError("cannot decrement a counter")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="of its own"), patient(tmp_path / "x"):
        raise RuntimeError("of its own")


def test_what_could_not_be_written_cannot_be_read_back():
    """HDF5 took whatever was in its memory for references of its own, and crashed when it freed what they point to."""
    read = []
    with pytest.raises(OSError, match="No space left"), patient(Path("/dev/full")) as file:
        file.write(b"abc")
        read.append(file.readinto(bytearray(3)))
    assert not read


def test_a_scratch_folder_is_removed_by_the_next_one_unless_somebody_works_in_it(tmp_path: Path):
    def left(name: str) -> Path:
        (tmp_path / name / "half").mkdir(parents=True)
        return tmp_path / name

    dead = left(".out.abcd_123.partial")
    names = (".out.mine.partial", ".out.partial", "out.abcd_123.partial", ".o.abcd_123.partial")
    others = [left(name) for name in names]
    (tmp_path / ".out.file_123.partial").write_text("no folder")
    (tmp_path / ".out.link_123.partial").symlink_to(others[0])
    with scratch_folder(tmp_path / "out") as first:
        assert not dead.exists() and first.stat().st_mode & 0o777 == 0o700
        (first / "half").mkdir()
        with scratch_folder(tmp_path / "out") as second:
            assert second != first and (first / "half").is_dir()
            assert abandoned(tmp_path / "out") == []
    assert not first.exists() and not second.exists()
    assert all((other / "half").is_dir() for other in others)
    assert (tmp_path / ".out.file_123.partial").exists()


def test_a_scratch_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"/no/out: no such file"), scratch_folder(tmp_path / "no" / "out"):
        pass


def test_a_file_that_does_not_fit_into_memory_is_named(tmp_path: Path):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 3 << 30)
    with at_most(1 << 28), pytest.raises(UserError, match=r"large: has 3,221,225,472 bytes, for which there is not"):
        read_regular(path)
    with pytest.raises(UserError, match=r"large: has 3,221,225,472 bytes, and no such file has more than 1,024"):
        read_regular(path, 1024)


@pytest.mark.parametrize("name", ["s3://bucket/a/b", "https://host/b", "az://c/b"])
def test_what_is_left_of_a_url_is_neither_read_nor_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / name):
        for action in (lambda path=path: read_regular(path), lambda path=path: write_atomically(path, b"")):
            with pytest.raises(UserError, match=f"^{name}: a URL, and a path of this machine is needed there$"):
                action()
    with pytest.raises(UserError, match=r"^https://host/b: a URL"):
        read_regular(Path("https://key:secret@host/b?signature=secret"))
    assert not list(tmp_path.iterdir())
    write_atomically(tmp_path / "layer:4" / "c:", b"a name with a colon is none")
