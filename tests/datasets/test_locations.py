"""Datasets that refer to images where they are: the same rows and digests as a copy, and never another image."""

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.datasets import Location, _locations
from pipeline.datasets._downloads import Downloads
from pipeline.errors import UserError
from pipeline.extraction import ExtractSettings, extract
from pipeline.machine import Machine
from pipeline.params import parse
from pipeline.store import FeatureStore
from pipeline.teachers import Teacher

ROWS = 24


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def settings(source: dict[str, Any], content: str = "reference", **keys: Any) -> PrepareSettings:
    return parse(PrepareSettings, {"source": source, "test": 4, "val": 4, "content": content, **keys}, "dataset")


def folder(root: Path) -> dict[str, Any]:
    for number in range(ROWS):
        path = root / "raw" / "images" / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return {"family": "image_folder", "path": str(root / "raw" / "images")}


def table(root: Path) -> dict[str, Any]:
    folder(root)
    lines = [f"images/{'ab'[n % 2]}/{n:02}.jpg,{'ab'[n % 2]}" for n in range(ROWS)]
    (root / "raw" / "list.csv").write_text("\n".join(["image,label", *lines, ""]))
    return {"family": "image_table", "path": str(root / "raw" / "list.csv"), "label_column": "label"}


def shards(root: Path, compress: bool = False) -> dict[str, Any]:
    (root / "raw").mkdir(parents=True)
    for part in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(part, ROWS, 2):
                for name, content in ((f"{number:02}.jpg", jpeg(number)), (f"{number:02}.cls", b"ab"[part : part + 1])):
                    about = tarfile.TarInfo(name)
                    about.size = len(content)
                    archive.addfile(about, io.BytesIO(content))
        content = buffer.getvalue()
        (root / "raw" / f"{part}.tar").write_bytes(gzip.compress(content) if compress else content)
    return {"family": "webdataset", "path": str(root / "raw" / "*.tar"), "labels": "cls"}


SOURCES = {"folder": folder, "table": table, "shards": shards}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_a_dataset_that_refers_has_the_rows_and_the_digest_of_a_copy(tmp_path: Path, source: Any):
    values = source(tmp_path)
    copied, referred = (prepare(settings(values, how), tmp_path / how) for how in ("copy", "reference"))
    one, two = Dataset.open(tmp_path / "copy"), Dataset.open(tmp_path / "reference")
    assert (one.digest, list(one.ids)) == (two.digest, list(two.ids)) and copied.roles == referred.roles
    rows = np.random.default_rng(0).permutation(ROWS)
    assert one.content(rows) == two.content(rows) and len(set(two.content(rows))) == ROWS
    assert np.array_equal(one.image(3), two.image(3)) and np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.row_digests, two.row_digests)
    images = sum(len(jpeg(number)) for number in range(ROWS))
    sizes = [os.path.getsize(tmp_path / how / "content.arrow") for how in ("copy", "reference")]
    assert sizes[0] > images > 4 * sizes[1]
    again = prepare(settings(values), tmp_path / "again")
    assert again.digest == two.digest
    assert (tmp_path / "again" / "content.arrow").read_bytes() == (tmp_path / "reference/content.arrow").read_bytes()


def test_a_project_may_be_moved_together_with_its_images(tmp_path: Path):
    prepare(settings(folder(tmp_path / "here")), tmp_path / "here" / "data")
    (tmp_path / "here").rename(tmp_path / "there")
    assert Dataset.open(tmp_path / "there" / "data").content([5, 0])[1] == jpeg(0)
    # Images outside the project stay where they are.
    prepare(settings(folder(tmp_path / "outside")), tmp_path / "one" / "data")
    (tmp_path / "one").rename(tmp_path / "two")
    assert Dataset.open(tmp_path / "two" / "data").content([0]) == [jpeg(0)]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda path: path.write_bytes(jpeg(99)),
            r"00\.jpg: row a/00\.jpg has changed since it was prepared; run `",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has changed since it was prepared"),
        (lambda path: path.unlink(), r"00\.jpg: not there, and the dataset refers to it; put it back, or run"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"00\.jpg: is a pipe, and a file is needed there"),
        (lambda path: (path.unlink(), path.mkdir()), r"00\.jpg: is a folder, and a file is needed there"),
        (lambda path: shutil.rmtree(path.parent), "not there, and the dataset refers to it"),
    ],
    ids=["another", "cut", "gone", "pipe", "folder", "no folder"],
)
def test_another_image_is_never_taken_for_the_row(tmp_path: Path, harm: Any, message: str):
    prepare(settings(folder(tmp_path)), tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    assert data.ids[0] == "a/00.jpg" and data.content([0]) == [jpeg(0)]
    harm(tmp_path / "raw" / "images" / "a" / "00.jpg")
    for read in (lambda: data.content([1, 0]), lambda: data.image(0), data.verify):
        with pytest.raises(UserError, match=message):
            read()


def test_a_shard_that_was_written_again_is_not_read_at_the_old_place(tmp_path: Path):
    source = shards(tmp_path)
    prepare(settings(source), tmp_path / "data")
    path = tmp_path / "raw" / "0.tar"
    path.write_bytes(path.read_bytes()[1024:] + bytes(1024))
    with pytest.raises(UserError, match=r"0\.tar: row 00 has changed since it was prepared"):
        Dataset.open(tmp_path / "data").content([0])


def encoded(root: Path) -> dict[str, Any]:
    (root / "raw").mkdir()
    pq.write_table(
        pa.table({"image": [jpeg(n) for n in range(ROWS)], "label": ["a", "b"] * (ROWS // 2)}), root / "raw/t.parquet"
    )
    return {"family": "image_table", "path": str(root / "raw" / "t.parquet"), "label_column": "label"}


def texts(root: Path) -> dict[str, Any]:
    (root / "t.csv").write_text("text,label\none,a\ntwo,b\n")
    return {"family": "text_table", "path": str(root / "t.csv"), "label_column": "label"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (texts, "dataset.content: reference is for images, and the source holds texts; write copy"),
        (encoded, r"dataset.content: reference needs images in files, .*, and row [0-9a-f]+ is in none; write copy"),
        (lambda root: shards(root, compress=True), r"row 00 \(.*/0\.tar\) is in none"),
        (lambda root: {"family": "digits"}, r"row \d+ is in none"),
    ],
    ids=["texts", "encoded", "compressed", "packaged"],
)
def test_what_has_no_place_of_its_own_is_refused(tmp_path: Path, source: Any, message: str):
    with pytest.raises(UserError, match=message):
        prepare(settings(source(tmp_path)), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_unreadable_rows_are_listed_as_in_a_copy(tmp_path: Path):
    source = folder(tmp_path)
    (tmp_path / "raw/images/a/00.jpg").write_bytes(b"not an image")
    (tmp_path / "raw/images/a/notes.txt").write_text("notes")
    done = [prepare(settings(source, how, tolerance=0.1), tmp_path / how) for how in ("copy", "reference")]
    assert done[0].dropped == done[1].dropped and done[0].digest == done[1].digest
    assert done[1].dropped["unreadable"] == done[1].dropped["skipped"] == 1
    lists = [(tmp_path / how / "quarantine.csv").read_bytes() for how in ("copy", "reference")]
    assert lists[0] == lists[1]


def test_a_url_is_read_where_downloads_are_kept_and_fetched_again_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pages, asked = {f"http://host/{n}.jpg": jpeg(n) for n in range(ROWS)}, []

    def get(self: Downloads, url: str) -> bytes:
        asked.append(url)
        return pages[url]

    monkeypatch.setattr(Downloads, "_get", get)
    monkeypatch.chdir(tmp_path)
    _locations._downloads.cache_clear()
    lines = [f"{url},{'ab'[n % 2]}" for n, url in enumerate(pages)]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines, ""]))
    prepare(settings({"family": "image_table", "path": "list.csv", "label_column": "label"}), Path("data"))
    assert len(asked) == ROWS
    data = Dataset.open("data")
    assert data.content([3]) == [jpeg(3)] and len(asked) == ROWS
    shutil.rmtree(".aft/downloads")
    assert data.content([3]) == [jpeg(3)] and len(asked) == ROWS + 1
    pages["http://host/4.jpg"] = jpeg(40)
    with pytest.raises(UserError, match=r"http://host/4\.jpg: row http://host/4\.jpg has changed since"):
        data.content([4])


class Means(Teacher):
    """The mean colour of an image."""

    kind, uniform = "image", True

    def __init__(self) -> None:
        self.heads, self.device = {"pooled": (3,)}, torch.device("cpu")
        self.recipe = {"precision": "float32", "weights": "means"}

    def transform(self, content: Any) -> Any:
        return np.asarray(Image.open(io.BytesIO(content)), np.float32).mean((0, 1))

    def cost(self, example: Any) -> int:
        return 1

    def collate(self, examples: Any) -> Any:
        return {"x": torch.from_numpy(np.stack(examples))}

    def forward(self, batch: Any) -> Any:
        return {"pooled": batch["x"]}


def test_features_are_those_of_a_copy_and_a_changed_image_ends_the_extraction(tmp_path: Path):
    source, how = folder(tmp_path), parse(ExtractSettings, {"shard_rows": 8, "batch_size": 4}, "extract")
    for content in ("copy", "reference"):
        prepare(settings(source, content), tmp_path / content)
        extract(Dataset.open(tmp_path / content), Means(), tmp_path / f"{content}.zarr", how, Machine(workers=1))
    one, two = (FeatureStore.open(tmp_path / f"{content}.zarr") for content in ("copy", "reference"))
    assert np.array_equal(one[:], two[:]) and one.dataset == two.dataset
    # The store of the copy is the store of the references: nothing is computed again.
    done = extract(Dataset.open(tmp_path / "reference"), Means(), tmp_path / "copy.zarr", how, Machine(workers=1))
    assert done.written == 0
    (tmp_path / "raw/images/b/23.jpg").write_bytes(jpeg(99))
    with pytest.raises(UserError, match=r"23\.jpg: row b/23\.jpg has changed"):
        extract(Dataset.open(tmp_path / "reference"), Means(), tmp_path / "new.zarr", how, Machine(workers=1))


def test_a_part_of_a_file_is_read_at_its_place(tmp_path: Path):
    (tmp_path / "all.bin").write_bytes(b"0123456789")
    reference = Location(str(tmp_path / "all.bin"), 3, 4).within(tmp_path)
    assert reference == Location("all.bin", 3, 4) and reference.read(tmp_path) == b"3456"
    assert Location("all.bin").read(tmp_path) == b"0123456789"
    assert Location("/elsewhere/x.jpg").within(tmp_path).file == "/elsewhere/x.jpg"
    assert Location("s3://bucket/x.jpg").within(tmp_path).file == "s3://bucket/x.jpg"
