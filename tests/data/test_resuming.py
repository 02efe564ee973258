"""`aft prepare` that is killed: the next call goes on, reads nothing again that was kept, and gives the same bytes."""

import gzip
import io
import os
import shutil
import signal
import tarfile
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import copying, journal, preparation, prepare, scan
from pipeline.data.preparation import PrepareSettings
from pipeline.datasets import Passed, Row
from pipeline.datasets._passed import Passed as AskedFiles
from pipeline.errors import UserError
from pipeline.params import parse
from tests.datasets.test_locations import jpeg

FILES, EACH, IMAGES = 6, 50, 96


def parquet(root: Path) -> dict[str, Any]:
    """Files of texts without ids, of which some repeat, with groups."""
    root.mkdir()
    for file in range(FILES):
        numbers = range(file * EACH, (file + 1) * EACH)
        texts = [f"text {number % 283} of some" for number in numbers]
        labels = [None if number % 7 == 0 else "abc"[number % 283 % 3] for number in numbers]
        groups = [f"g{number % 283 // 2}" if number % 5 else None for number in numbers]
        pq.write_table(pa.table({"text": texts, "label": labels, "group": groups}), root / f"{file}.parquet")
    return {"family": "text_table", "path": f"{root}/*.parquet", "label_column": "label", "group_column": "group"}


def csv(root: Path) -> dict[str, Any]:
    """Files with ids, in several columns of labels."""
    root.mkdir()
    for file in range(FILES):
        lines = [f"r{n},some text {n},{n % 2},{(n + 1) % 2}" for n in range(file * EACH, (file + 1) * EACH)]
        (root / f"{file}.csv").write_text("\n".join(["id,text,even,odd", *lines, ""]))
    return {"family": "text_table", "path": f"{root}/*.csv", "id_column": "id", "label_column": ["even", "odd"]}


def tars(root: Path) -> dict[str, Any]:
    """Shards of images, of which some cannot be read, and some have no image."""
    root.mkdir()
    images = [jpeg(number) for number in range(12)]
    for file in range(FILES):
        with tarfile.open(root / f"{file}.tar", "w") as archive:
            for number in range(file * EACH, (file + 1) * EACH):
                content = images[number % 12] + bytes([number % 251, number // 251])
                found = {"jpg": b"broken" if number % 47 == 0 else content, "cls": b"ab"[number % 2 :][:1]}
                for ending in ("cls",) if number % 89 == 0 else ("jpg", "cls"):
                    about = tarfile.TarInfo(f"{number:05}.{ending}")
                    about.size = len(found[ending])
                    archive.addfile(about, io.BytesIO(found[ending]))
    return {"family": "webdataset", "path": f"{root}/*.tar", "labels": "cls"}


def folder(root: Path) -> dict[str, Any]:
    """A folder of images by class, with other files."""
    for number in range(IMAGES):
        path = root / "ab"[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number % 12) + bytes([number % 251, number // 251]))
    (root / "a" / "notes.txt").write_text("notes")
    (root / "Thumbs.db").write_text("thumbs")
    return {"family": "image_folder", "path": str(root)}


def one_parquet(root: Path) -> dict[str, Any]:
    """One file of several row groups, with ids by content."""
    parquet(root)
    whole = pa.concat_tables([pq.read_table(path) for path in sorted(root.iterdir())])
    pq.write_table(whole, root.with_suffix(".parquet"), row_group_size=70)
    return {"family": "text_table", "path": f"{root}.parquet", "label_column": "label", "group_column": "group"}


def one_csv(root: Path) -> dict[str, Any]:
    """One file, compressed, in which cells span lines, and the last rows decide what quotes mean."""
    lines = ["text,label"]
    for number in range(FILES * EACH):
        lines.append(
            f'"text {number % 283},\nof two lines",{"abc"[number % 3]}' if number % 9 == 4 else f"text {number},a"
        )
    root.with_suffix(".csv.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return {"family": "text_table", "path": f"{root}.csv.gz", "label_column": "label"}


def one_tar(root: Path) -> dict[str, Any]:
    """One shard."""
    source = tars(root)
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        for path in sorted(root.iterdir()):
            with tarfile.open(path) as part:
                for member in part:
                    archive.addfile(member, part.extractfile(member))
    return source | {"path": f"{root}.tar"}


def array(root: Path) -> dict[str, Any]:
    """One array of images, and one of labels."""
    root.mkdir()
    np.save(root / "images.npy", np.arange(FILES * EACH * 12, dtype=np.uint16).reshape(-1, 4, 3))
    np.save(root / "labels.npy", np.array([*"abc"] * (FILES * EACH // 3)))
    return {"family": "arrays", "path": f"{root}/images.npy", "labels": f"{root}/labels.npy"}


ONE_FILE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "one parquet": one_parquet,
    "one csv": one_csv,
    "one tar": one_tar,
    "array": array,
}

SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "parquet": parquet,
    "csv": csv,
    "tars": tars,
    "folder": folder,
    **ONE_FILE,
}


def settings(source: dict[str, Any], **keys: Any) -> PrepareSettings:
    values = {"source": source, "test": 0.2, "val": 0.1, "splits": 2, "tolerance": 0.1, **keys}
    return parse(PrepareSettings, values, "dataset")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts and small batches."""
    monkeypatch.setattr(journal, "EVERY", 0.0)
    monkeypatch.setattr(scan, "CHUNK", 24)
    monkeypatch.setattr(copying, "BATCH_ROWS", 10)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, in order."""
    names: list[str] = []
    first_row = AskedFiles.first_row

    def noted(self: Passed, file: Any) -> int | None:
        first = first_row(self, file)
        if first is not None:
            names.append(file.name)
        return first

    monkeypatch.setattr(AskedFiles, "first_row", noted)
    return names


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the rows that are looked at or copied, in order."""
    ids: list[str] = []
    tidied = scan.tidied

    def noted(row: Row) -> Row:
        ids.append(row.id)
        return tidied(row)

    monkeypatch.setattr(scan, "tidied", noted)
    monkeypatch.setattr(copying, "tidied", noted)
    return ids


def killed(out: Path, wanted: PrepareSettings, after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Prepare in a process that is killed when so many rows were read, in both passes together; whether it was."""
    if not (child := os.fork()):
        number = count(1)
        tidied = scan.tidied

        def last(row: Row) -> Row:
            if next(number) == after:
                os.kill(os.getpid(), signal.SIGKILL)
            return tidied(row)

        monkeypatch.setattr(scan, "tidied", last)
        monkeypatch.setattr(copying, "tidied", last)
        code = 1
        try:
            prepare(wanted, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


NONE = {"deduplicate": "none", "labelled": 20}


@pytest.mark.parametrize(
    ("kind", "keys"), [*((kind, {}) for kind in SOURCES), *((kind, NONE) for kind in ("parquet", "tars", "one csv"))]
)
def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, kind: str, keys: dict, given: list[str], monkeypatch: pytest.MonkeyPatch
):
    wanted = settings(SOURCES[kind](tmp_path / "raw"), **keys)
    prepare(wanted, tmp_path / "whole" / "data")
    rows = len(given) // 2
    given.clear()
    out = tmp_path / "project" / "data"
    # Twice while rows are looked at, then while they are copied.
    for moment in (rows // 3, rows // 3, rows * 5 // 6, rows // 3):
        assert killed(out, wanted, moment, monkeypatch)
    prepare(wanted, out)
    assert contents(out) == contents(tmp_path / "whole" / "data")
    assert 0 < len(given) < rows * 0.9  # of a pass
    assert [path.name for path in out.parent.iterdir()] == ["data"]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project whose preparation was killed in the middle of the copy."""
    project = tmp_path / "project"
    wanted = settings(tars(tmp_path / "raw"))
    assert killed(project / "data", wanted, FILES * EACH * 3 // 2, monkeypatch)
    assert (project / ".data.partial" / "content.arrow").stat().st_size > 0
    return project


def test_a_source_that_has_changed_is_read_again(
    tmp_path: Path, interrupted: Path, read: list[str], capsys: pytest.CaptureFixture[str]
):
    with tarfile.open(tmp_path / "raw" / "1.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("99999.cls"))
    wanted = settings({"family": "webdataset", "path": f"{tmp_path}/raw/*.tar", "labels": "cls"})
    prepare(wanted, interrupted / "data")
    assert "the source has changed" in capsys.readouterr().err
    assert read.count("0.tar") == read.count("1.tar") == 2
    prepare(wanted, tmp_path / "whole")
    assert contents(interrupted / "data") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["one csv", "array"])
def test_a_file_that_has_changed_is_read_again_from_its_beginning(
    tmp_path: Path, kind: str, given: list[str], monkeypatch: pytest.MonkeyPatch
):
    wanted = settings(source := SOURCES[kind](tmp_path / "raw"))
    assert killed(tmp_path / "data", wanted, FILES * EACH // 2, monkeypatch)
    changed = Path(source.get("labels") or source["path"]) if kind == "array" else Path(source["path"])
    os.utime(changed, (1, 1))
    prepare(wanted, tmp_path / "data")
    assert len(given) == 2 * FILES * EACH
    prepare(wanted, tmp_path / "whole")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["removed", "added"])
def test_files_that_come_or_go_are_noticed(tmp_path: Path, interrupted: Path, change: str):
    raw = tmp_path / "raw"
    if change == "removed":
        (raw / "5.tar").unlink()
    else:
        shutil.copy(raw / "0.tar", raw / "05.tar")
        with tarfile.open(raw / "05.tar", "w"):
            pass
    wanted = settings({"family": "webdataset", "path": f"{raw}/*.tar", "labels": "cls"})
    prepare(wanted, interrupted / "data")
    prepare(wanted, tmp_path / "whole")
    assert contents(interrupted / "data") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("keys", "looked_at"),
    [({"seed": 5, "splits": 3}, 0), ({"deduplicate": "none"}, FILES), ({"classes": ["b", "a"]}, FILES)],
)
def test_other_settings_begin_anew_where_they_change_what_is_found(
    tmp_path: Path, interrupted: Path, read: list[str], keys: dict, looked_at: int
):
    wanted = settings({"family": "webdataset", "path": f"{tmp_path}/raw/*.tar", "labels": "cls"}, **keys)
    prepare(wanted, interrupted / "data")
    assert len(read) == looked_at + (FILES if looked_at else 4)
    prepare(wanted, tmp_path / "whole")
    assert contents(interrupted / "data") == contents(tmp_path / "whole")


def test_changed_code_begins_anew(tmp_path: Path, interrupted: Path, read: list[str], monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(preparation.Code, "digest", lambda self, *modules: asked.append(modules) or "other")
    wanted = settings({"family": "webdataset", "path": f"{tmp_path}/raw/*.tar", "labels": "cls"})
    prepare(wanted, interrupted / "data")
    assert len(read) == 2 * FILES
    assert set(asked) == {("pipeline.data.preparation", "pipeline.datasets.webdataset")}


@pytest.mark.parametrize("file", ["scan/000001.arrow", "scan/000001.json", "content.arrow"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "a message"])
def test_damage_to_what_was_kept_is_no_harm(tmp_path: Path, interrupted: Path, file: str, damage: str):
    path = interrupted / ".data.partial" / file
    content = bytearray(path.read_bytes())
    half = content.find(b"image") if damage == "a message" else len(content) // 2  # of an image that cannot be read
    content[half:] = b"" if damage == "cut" else bytes([content[half] ^ 1]) + content[half + 1 :]
    path.write_bytes(content)
    wanted = settings({"family": "webdataset", "path": f"{tmp_path}/raw/*.tar", "labels": "cls"})
    prepare(wanted, interrupted / "data")
    prepare(wanted, tmp_path / "whole")
    assert contents(interrupted / "data") == contents(tmp_path / "whole")


def test_a_refusal_after_a_long_look_keeps_what_was_found(tmp_path: Path, read: list[str]):
    source = csv(tmp_path / "raw")
    with pytest.raises(UserError, match="val"):
        prepare(settings(source, val=10**6), tmp_path / "project" / "data")
    assert len(read) == FILES
    prepare(settings(source), tmp_path / "project" / "data")
    assert len(read) == 2 * FILES


def test_a_short_look_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "EVERY", 3600.0)
    assert killed(tmp_path / "project" / "data", settings(csv(tmp_path / "raw")), FILES * EACH * 3 // 2, monkeypatch)
    assert not (tmp_path / "project" / ".data.partial" / "scan").exists()
