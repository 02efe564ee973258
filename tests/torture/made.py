"""Sound input of every kind, to be mutated: sources, tables of new rows, exports."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zarr
from PIL import Image

from pipeline.predict import EXPORT
from pipeline.records import CHECKSUM, to_json
from pipeline.verified import checksums

Made = tuple[dict[str, object], Path]
"""Settings of a source, and the file of it that is to be changed."""

IMAGES = {
    "teachers": {"dino": {"family": "timm", "model": "m"}},
    "students": {"cnn": {"family": "compact_cnn", "width": 8, "size": 8}},
    "runs": {"none": {"student": "cnn"}},
    "sweep": {},
}
"""Sections of a project of images."""

ROWS = 24
PIXELS = np.random.default_rng(0).integers(0, 255, (ROWS, 8, 6, 3), np.uint8)
LABELS = np.arange(ROWS) % 2
TEXTS = [f"word{row} good{row % 12} word{row % 7}" for row in range(ROWS)]


def _npy(folder: Path) -> Made:
    np.save(folder / "x.npy", PIXELS)
    np.save(folder / "y.npy", LABELS)
    source = {"family": "arrays", "path": "raw/x.npy", "labels": "raw/y.npy"}
    return source, folder / "x.npy"


def _hdf5(folder: Path) -> Made:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("images", data=PIXELS, chunks=(5, 8, 6, 3), compression="gzip")
        file["labels"] = LABELS
    return {"family": "arrays", "path": "raw/x.h5", "labels": "labels"}, folder / "x.h5"


def _zarr(name: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        group = zarr.open_group(folder / "x.zarr", mode="w")
        group.create_array("images", data=PIXELS, chunks=(5, 8, 6, 3))
        group.create_array("labels", data=LABELS + 1)
        return {"family": "arrays", "path": "raw/x.zarr", "labels": "labels"}, folder / "x.zarr" / name

    return made


def _webdataset(folder: Path) -> Made:
    with tarfile.open(folder / "x.tar", "w") as archive:
        for row, pixels in enumerate(PIXELS):
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("cls", b"%d" % LABELS[row])):
                about = tarfile.TarInfo(f"{row:04}.{ending}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return {"family": "webdataset", "path": "raw/x.tar", "labels": "cls"}, folder / "x.tar"


def _images(name: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        for row, pixels in enumerate(PIXELS):
            (folder / "photos" / str(LABELS[row])).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "photos" / str(LABELS[row]) / f"{row}.png")
        return {"family": "image_folder", "path": "raw/photos"}, folder / "photos" / name

    return made


def _list(name: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        (folder / "shots").mkdir(exist_ok=True)
        for row, pixels in enumerate(PIXELS):
            Image.fromarray(pixels).save(folder / "shots" / f"{row}.png")
        lines = [f"shots/{row}.png,{label}\n" for row, label in enumerate(LABELS)]
        (folder / "shots.csv").write_text("".join(["image,label\n", *lines]))
        return {"family": "image_table", "path": "raw/shots.csv", "label_column": "label"}, folder / name

    return made


def _hugging_face(name: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        (folder / "ds").mkdir(exist_ok=True)
        table = pa.table({"text": TEXTS, "label": LABELS})
        with pa.ipc.new_stream(str(folder / "ds" / "data.arrow"), table.schema) as file:
            file.write_table(table)
        (folder / "ds" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        source = {"family": "hugging_face", "path": "raw/ds", "text_column": "text", "label_column": "label"}
        return source, folder / "ds" / name

    return made


def _table(ending: str) -> Callable[[Path], Made]:
    def made(folder: Path) -> Made:
        path = write_rows(folder, ending)
        source = {"family": "text_table", "path": f"raw/{path.name}", "text_column": "text", "label_column": "label"}
        return source, path

    return made


def write_rows(folder: Path, ending: str) -> Path:
    """A table of texts with labels."""
    path = folder / f"rows.{ending}"
    rows = [{"text": text, "label": str(label)} for text, label in zip(TEXTS, LABELS, strict=True)]
    match ending:
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "arrow":
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_file(str(path), table.schema) as file:
                file.write_table(table)
        case "json":
            path.write_text(json.dumps(rows))
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "csv":
            path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
        case "txt":
            path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


SOURCES: dict[str, Callable[[Path], Made]] = {
    "npy": _npy,
    "HDF5": _hdf5,
    "Zarr, a chunk": _zarr("images/c/0/0/0/0"),
    "Zarr, metadata": _zarr("images/zarr.json"),
    "WebDataset": _webdataset,
    "Hugging Face, data": _hugging_face("data.arrow"),
    "Hugging Face, record": _hugging_face("state.json"),
    "image folder, an image": _images("0/0.png"),
    "image folder, a class": _images("0"),
    "image folder": _images(""),
    "image table": _list("shots.csv"),
    "image table, an image": _list("shots/3.png"),
    **{f"table, {ending}": _table(ending) for ending in ("parquet", "arrow", "json", "jsonl", "csv")},
}
"""By what it is, how it is made in the folder `raw` of a project."""


def use(project: Path, source: dict[str, object], tolerance: float = 0.0) -> None:
    """Let a project read another source."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["dataset"] = {"source": source, "val": 4, "test": 4, "task": "classification", "tolerance": tolerance}
    (project / "params.yaml").write_text(yaml.safe_dump(values | ({} if "text_column" in source else IMAGES)))


def sign_again(folder: Path) -> None:
    """Write the checksums of an export's files as they are now, as somebody does who knows the format."""
    record = json.loads((folder / EXPORT).read_text())
    (folder / EXPORT).unlink()
    record["files"] = checksums(folder)
    (folder / EXPORT).write_text(to_json({key: value for key, value in record.items() if key != CHECKSUM}))
