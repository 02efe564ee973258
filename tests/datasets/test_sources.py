"""Sources besides tables of text and folders: what they read, and how they answer what is wrong."""

import base64
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from pipeline import images
from pipeline.data import PrepareSettings, prepare
from pipeline.datasets import Location, Row, kind_of
from pipeline.errors import UserError
from pipeline.params import parse, read_plugin


def read(family: str, **settings: Any) -> list[Row]:
    module, parsed = read_plugin("datasets", {"family": family, **settings}, "dataset.source")
    return list(module.rows(parsed))


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


# Tables of images


def test_paths_of_images_are_relative_to_their_table(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(0))
    (tmp_path / "list.csv").write_text(f"file,price\nphotos/a.png,3.5\n{tmp_path}/photos/a.png,\n")
    rows = read("image_table", path=str(tmp_path / "list.csv"), image_column="file", label_column="price")
    at = Location(f"{tmp_path}/photos/a.png")
    assert rows == [
        Row("photos/a.png", png(0), "3.5", line=2, location=at),
        Row(f"{tmp_path}/photos/a.png", png(0), None, line=3, location=at),
    ]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "list.csv").write_text("file\na.png\n")
    settings = {"path": str(tmp_path / "elsewhere" / "list.csv"), "image_column": "file"}
    assert read("image_table", **settings, root=str(tmp_path / "photos"))[0].content == png(0)


def test_images_of_a_list_that_cannot_be_read_are_quarantined(tmp_path: Path):
    names = [f"{n}.png" for n in range(30)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(png(n))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "raw.heic").write_bytes(b"")
    odd = ["missing.png", "broken.jpg", "raw.heic", "ftp://example.org/a.png", ".", ""]
    lines = [f"{name},{'ab'[n % 2]}" for n, name in enumerate([*names, *odd])]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines, ""]))
    source = {"family": "image_table", "path": str(tmp_path / "list.csv"), "label_column": "label"}
    with pytest.raises(
        UserError, match=r"6 of 36 rows cannot be read, the first is row missing.png \(line 32\): cannot be"
    ):
        prepare(parse(PrepareSettings, {"source": source}, "dataset"), tmp_path / "data")
    done = prepare(parse(PrepareSettings, {"source": source, "tolerance": 0.2}, "dataset"), tmp_path / "data")
    assert (done.rows, done.dropped["unreadable"]) == (30, 6)
    listed = (tmp_path / "data" / "quarantine.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in listed] == [
        [str(31 + n), str(32 + n), odd[n] or "no image"] for n in range(6)
    ]
    for line, reason in zip(
        listed,
        ["No such file", "not an image", "type .heic", "neither http nor https", "is a folder", "nothing in column"],
        strict=True,
    ):
        assert reason in line


def test_images_as_text_are_named_as_such_and_not_printed(tmp_path: Path):
    texts = [base64.b64encode(bytes(400)).decode(), f"data:image/png;base64,{base64.b64encode(png(0)).decode()}"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"image": text}) + "\n" for text in texts))
    for row in read("image_table", path=str(tmp_path / "t.jsonl")):
        assert row.problem and row.problem.startswith("no path, but perhaps an image as text, such as base64")
        assert len(row.id) < 40


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_encoded_images_of_a_column_are_read(tmp_path: Path, suffix: str):
    (tmp_path / "b.png").write_bytes(png(1))
    struct = [{"bytes": png(0), "path": "x.png"}, {"bytes": None, "path": "b.png"}, None]
    table = pa.table({"image": struct, "bytes": [png(0), png(1), None], "label": [0, 1, 0]})
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    for column in ("image", "bytes"):
        rows = read("image_table", path=str(path), image_column=column, label_column="label")
        assert [row.content for row in rows] == [png(0), png(1), b""]
        assert [row.problem for row in rows] == [None, None, f"nothing in column {column!r}"]
        assert [row.label for row in rows] == ["0", "1", "0"]


# Hugging Face


def save(folder: Path, table: pa.Table) -> None:
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as file:
        file.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))


def test_splits_of_a_saved_dataset_are_found_or_asked_for(tmp_path: Path):
    for split in ("train", "validation_matched", "unsupervised"):
        save(tmp_path / split, pa.table({"text": ["same", split], "label": [0, 1]}))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation_matched", "unsupervised"]}))
    settings = {"path": str(tmp_path), "text_column": "text", "label_column": "label"}
    guess = "{train: train, validation_matched: train, unsupervised: train}"
    with pytest.raises(UserError, match=f"use of split 'validation_matched' is not known; write .* such as {guess}"):
        read("hugging_face", **settings)
    rows = read("hugging_face", **settings, splits={"train": "train", "validation_matched": "val"})
    assert [(row.content, row.split) for row in rows] == [
        ("same", "train"),
        ("train", "train"),
        ("same", "val"),
        ("validation_matched", "val"),
    ]
    assert len({row.id for row in rows}) == 4
    assert rows[0].place == f"row {rows[0].id} (split train)"
    with pytest.raises(UserError, match="no split 'tset'; there are train, validation_matched, unsupervised"):
        read("hugging_face", **settings, splits={"tset": "test"})
    with pytest.raises(UserError, match="split train: no column 'txt'; there are 'text', 'label'"):
        read("hugging_face", path=str(tmp_path), text_column="txt", splits={"train": "train"})


def test_a_saved_dataset_without_splits_is_divided(tmp_path: Path):
    save(tmp_path / "one", pa.table({"premise": ["It rains."], "hypothesis": ["Is it wet?"]}))
    (row,) = read("hugging_face", path=str(tmp_path / "one"), template="{premise} {hypothesis}")
    assert (row.content, row.split) == ("It rains. Is it wet?", None)
    for problem in ("no such folder", "not a folder of `save_to_disk`", "damaged"):
        with pytest.raises(UserError, match=problem):
            read("hugging_face", path=str(tmp_path / problem[:2]), text_column="text")
        (tmp_path / "no").mkdir(exist_ok=True)
        (tmp_path / "da").mkdir(exist_ok=True)
        (tmp_path / "da" / "state.json").write_text("{")


def test_a_dataset_by_name_needs_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"the package datasets, .*; run pip install 'aft-pipeline\[huggingface\]'"):
        read("hugging_face", name="imdb", text_column="text")
    for settings in ({"name": "imdb"}, {"name": "imdb", "text_column": "a", "image_column": "b"}):
        with pytest.raises(UserError, match="write one of text_column, template and image_column"):
            read("hugging_face", **settings)
    with pytest.raises(UserError, match="write either path"):
        read("hugging_face", text_column="a")


def test_what_the_package_writes_and_loads_by_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="an optional package")
    types = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    features = datasets.Features(types | {"image": datasets.Image()})
    columns = {
        "text": list("abcd"),
        "label": [0, 1, -1, 0],
        "image": [Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(4)],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    both = datasets.DatasetDict({"train": whole, "test": whole.select([3, 1])})
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    for name, part in both.items():
        part.to_parquet(tmp_path / "named" / f"{name}.parquet")
    for settings in ({"path": str(tmp_path / "saved")}, {"name": str(tmp_path / "named")}):
        texts = read("hugging_face", **settings, text_column="text", label_column="label")
        assert [(row.content, row.label, row.split) for row in texts] == [
            ("a", "neg", "train"),
            ("b", "pos", "train"),
            ("c", "-1", "train"),
            ("d", "neg", "train"),
            ("d", "neg", "test"),
            ("b", "pos", "test"),
        ]
        pictures = read("hugging_face", **settings, image_column="image")
        assert [pixels(row)[0, 0, 0] for row in pictures] == [0, 1, 2, 3, 3, 1]


def test_the_kind_of_a_dataset_follows_from_its_columns():
    for settings, kind in (({"image_column": "img"}, "image"), ({"text_column": "text"}, "text")):
        family, parsed = read_plugin("datasets", {"family": "hugging_face", "name": "x", **settings}, "dataset.source")
        assert kind_of(family, parsed) == kind


# Arrays


PIXELS = np.random.default_rng(0).integers(0, 255, (7, 6, 5, 3), dtype=np.uint8)


def pixels(row: Row) -> np.ndarray:
    assert isinstance(row.content, bytes)
    return np.asarray(images.decode(row.content))


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".zarr"])
@pytest.mark.parametrize("shape", ["n h w", "n h w 1", "n h w 3", "n 3 h w", "n 1 h w"])
def test_arrays_of_pixels_are_images(tmp_path: Path, suffix: str, shape: str):
    grey = PIXELS[..., 0]
    arrays = {"n h w": grey, "n h w 1": grey[..., None], "n h w 3": PIXELS}
    arrays |= {"n 3 h w": PIXELS.transpose(0, 3, 1, 2), "n 1 h w": grey[:, None]}
    path, labels = tmp_path / f"a{suffix}", np.arange(7) % 2
    settings = {"path": str(path), "labels": "labels"}
    if suffix == ".npy":
        np.save(path, arrays[shape])
        np.save(tmp_path / "labels.npy", labels)
        settings["labels"] = str(tmp_path / "labels.npy")
    else:
        group = h5py.File(path, "w") if suffix == ".h5" else zarr.open_group(path, mode="w")
        for name, array in (("images", arrays[shape]), ("labels", labels)):
            group.create_dataset(name, data=array) if suffix == ".h5" else group.create_array(name, data=array)
        if suffix == ".h5":
            group.close()
    rows = read("arrays", **settings)
    assert [(row.id, row.label) for row in rows] == [(str(n), str(n % 2)) for n in range(7)]
    for row, expected in zip(rows, PIXELS if "3" in shape else grey, strict=True):
        assert (pixels(row) == expected).all()


def test_grey_of_16_bits_keeps_its_bits(tmp_path: Path):
    deep = np.random.default_rng(1).integers(0, 65535, (2, 4, 5), dtype=np.uint16)
    np.save(tmp_path / "a.npy", deep)
    for row, expected in zip(read("arrays", path=str(tmp_path / "a.npy")), deep, strict=True):
        assert (np.asarray(Image.open(io.BytesIO(row.content))) == expected).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS / 255, "pixels are uint8, or uint16 for grey, not float64"),
        (PIXELS.astype(np.uint16), "pixels are uint8, or uint16 for grey, not uint16"),
        (PIXELS[0, 0], r"images are \[n, h, w\], .*, not \[5, 3\]"),
        (PIXELS[..., :2], r"images are .*, not \[7, 6, 5, 2\]"),
        (PIXELS[:, :3], r"images of shape \[3, 5, 3\]: set dataset.source.channels_first"),
        (np.array(["a"], object), "cannot be read: "),
    ],
)
def test_arrays_that_are_not_pixels_are_refused(tmp_path: Path, array: np.ndarray, message: str):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=message) as caught:
        read("arrays", path=str(tmp_path / "a.npy"))
    assert "\n" not in str(caught.value)


def test_arrays_of_ambiguous_shape_or_without_a_named_array_are_refused(tmp_path: Path):
    np.save(tmp_path / "a.npy", PIXELS[:, :3])
    path = str(tmp_path / "a.npy")
    assert pixels(read("arrays", path=path, channels_first=False)[0]).shape == (3, 5, 3)
    assert pixels(read("arrays", path=path, channels_first=True)[0]).shape == (5, 3, 3)
    np.save(tmp_path / "labels.npy", np.arange(6))
    with pytest.raises(UserError, match=r"7 images and labels of shape \[6\]; give each one label"):
        read("arrays", path=path, channels_first=True, labels=str(tmp_path / "labels.npy"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pixels"] = PIXELS
    with pytest.raises(UserError, match="no array 'images'; there are pixels"):
        read("arrays", path=str(tmp_path / "a.h5"))
    for name in ("none.npy", "a.pt"):
        with pytest.raises(UserError, match=name):
            read("arrays", path=str(tmp_path / name))


# WebDataset


def shard(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return str(path)


def test_samples_of_shards_are_read_in_order(tmp_path: Path):
    shard(tmp_path / "b.tar", {"x/2.jpg": b"two", "x/2.json": b'{"tags": ["sun", 4], "mood": null}'})
    shard(tmp_path / "a.tar", {"x/1.json": b'{"mood": "good"}', "x/1.png": b"one", "x/3.txt": b"no picture"})
    path = str(tmp_path / "*.tar")
    rows = read("webdataset", path=path, labels="json:mood")
    assert [(row.id, row.content, row.label) for row in rows] == [
        ("x/1", b"one", "good"),
        ("x/3", b"", None),
        ("x/2", b"two", None),
    ]
    assert rows[1].problem == "no jpg, jpeg, png, webp in the sample"
    assert rows[0].file == f"{tmp_path}/a.tar"
    assert read("webdataset", path=path, labels="json:tags")[2].label == ("sun", "4")
    texts = read("webdataset", path=shard(tmp_path / "t.tar", {"1.txt": b"one", "2.txt": b"\xff"}), texts="txt")
    assert [(row.content, row.problem) for row in texts] == [("one", None), ("", "byte 0xff at byte 1 is not utf-8")]


def test_links_in_shards_and_samples_of_two_images_are_refused(tmp_path: Path):
    path = shard(tmp_path / "a.tar", {"1.jpg": png(0), "1.cls": b"a", "2.png": png(1), "2.jpg": png(2)})
    with pytest.raises(
        UserError, match=r"a.tar: the sample 2 has jpg, png; write .*, as in dataset.source.images: \[jpg\]"
    ):
        read("webdataset", path=path, labels="cls")
    assert len(read("webdataset", path=path, labels="cls", images=["jpg"])) == 2
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tarfile.TarInfo("2.cls")
        link.type, link.linkname = kind, "1.cls"
        path = shard(tmp_path / "a.tar", {"1.jpg": png(0), "1.cls": b"a", "2.png": png(1)})
        with tarfile.open(path, "a") as archive:
            archive.addfile(link)
        with pytest.raises(UserError, match=r"a.tar: '2.cls' is a link; write the file that it stands for"):
            read("webdataset", path=path, labels="cls")


def test_shards_that_cannot_be_read_are_one_line(tmp_path: Path):
    good = shard(tmp_path / "a.tar", {"1.jpg": b"one" * 500, "1.cls": b"a"})
    (tmp_path / "cut.tar").write_bytes(Path(good).read_bytes()[:900])
    (tmp_path / "no.tar").write_bytes(b"no tar" * 200)
    for name in ("cut.tar", "no.tar", "none.tar"):
        with pytest.raises(UserError, match=name) as caught:
            read("webdataset", path=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="sample 1: its label is not a JSON object"):
        read("webdataset", path=good, labels="cls:mood")
    with pytest.raises(UserError, match=r"\{1\.\.2\}.tar: no such file; braces are not expanded"):
        read("webdataset", path=str(tmp_path / "{1..2}.tar"))
    with pytest.raises(UserError, match="the sample 1 has 'jpg' twice"):
        read("webdataset", path=shard(tmp_path / "b.tar", {"1.jpg": b"one", "1.JPG": b"two"}))


# A function of your own


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("rows", "write it as package.module:function"),
        ("no_such_module:rows", "no module 'no_such_module'; put it into the project's folder"),
        ("tests.datasets.example:rosw", r"has no function 'rosw' \(did you mean `rows`\?\)"),
        ("tests.datasets.example:wrong", r"item 1 is dict, not a pipeline.datasets.Row"),
    ],
)
def test_a_function_that_gives_no_rows_is_refused(factory: str, message: str):
    with pytest.raises(UserError, match=message):
        read("python", factory=factory, kind="text")


def test_a_function_may_be_in_the_projects_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "from pipeline.datasets import Row\ndef rows(label):\n    yield Row('1', b'bytes', label)\n"
    (tmp_path / "my_rows_of_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    settings = {"factory": "my_rows_of_a_test:rows", "options": {"label": "x"}}
    assert read("python", **settings, kind="image") == [Row("1", b"bytes", "x")]
    with pytest.raises(UserError, match=r"not a pipeline\.datasets\.Row whose content is str, as kind: text says"):
        read("python", **settings, kind="text")


@pytest.mark.parametrize("label", [1, np.int64(1), ("a", 1)])
def test_a_label_that_is_no_text_is_refused(label: Any):
    settings = {"factory": "tests.datasets.example:labelled", "kind": "text"}
    assert [row.label for row in read("python", **settings, options={"label": ("a", "b")})] == [("a", "b")]
    with pytest.raises(UserError, match=r"item 1 has .* as its label, split or group; these are texts"):
        read("python", **settings, options={"label": label})


# Folders of images


def test_several_folders_are_one_dataset_and_patterns_leave_files_out(tmp_path: Path):
    for name in ("one/cat/1.png", "one/dog/1_mask.png", "one/dog/1.png", "two/cat/1.png", "two/thumbs/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    rows = read("image_folder", path=paths, exclude=["*_mask.png", "thumbs/*"])
    assert [(row.id, row.label, row.content) for row in rows if not row.skipped] == [
        ("one/cat/1.png", "cat", b"one/cat/1.png"),
        ("one/dog/1.png", "dog", b"one/dog/1.png"),
        ("two/cat/1.png", "cat", b"two/cat/1.png"),
    ]
    left_out = {row.id: row.problem for row in rows if row.skipped}
    assert left_out == dict.fromkeys(["one/dog/1_mask.png", "two/thumbs/1.png"], "excluded by dataset.source.exclude")
    (tmp_path / "x" / "one").mkdir(parents=True)
    with pytest.raises(UserError, match="two folders are called 'one'"):
        read("image_folder", path=[paths[0], str(tmp_path / "x" / "one")])
