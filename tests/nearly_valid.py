"""Nearly sound input of every kind, by hypothesis, and what must hold for each.

`tests/test_nearly_valid.py` tries some of each, `make torture` many more, other ones each time. Whatever comes, it is
read as it was written, or refused in one line.
"""

import copy
import csv
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

from pipeline import images
from pipeline.checks import check_params
from pipeline.errors import UserError
from pipeline.params import Params, read_plugin
from pipeline.store.interchange import read_table
from tests.conftest import PARAMS

Property = Callable[[Path, st.DataObject], None]
"""Draws input, writes it into a folder, and reads it. Raises what a command would end in with a traceback."""

ODD: st.SearchStrategy[Any] = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 3), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=6)),
    st.sampled_from(["auto", "../x", "-S", "a b", "\x1b[2J", "1e-4", "wise/layer:1", "wise@crops", ""]),
    st.lists(st.one_of(st.integers(-1, 2), st.text(max_size=2), st.none()), max_size=3),
    st.dictionaries(
        st.sampled_from(["family", "name", "weight", "x"]), st.one_of(st.integers(-1, 2), st.text(max_size=2))
    ),
)
"""What may stand where another value is meant."""


def _changed(data: st.DataObject, values: Any) -> Any:
    """Values in which one to three places have something else, are gone, or are there under another name."""
    changed = copy.deepcopy(values)
    for _ in range(data.draw(st.integers(1, 3))):
        inside: Any = changed
        while True:
            keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(inside[key], dict | list) and inside[key] and data.draw(st.integers(0, 4)):
                inside = inside[key]
                continue
            match data.draw(st.integers(0, 5)):
                case 0:
                    del inside[key]
                case 1 if isinstance(inside, dict):
                    inside[data.draw(st.text(max_size=6))] = inside.pop(key)
                case _:
                    inside[key] = data.draw(ODD)
            break
    return changed


def _refused_or(read: Callable[[], Any]) -> Any:
    """What was read, or None if it was refused, in one line."""
    try:
        return read()
    except UserError as error:
        assert "\n" not in str(error), str(error)
    return None


def params(folder: Path, data: st.DataObject) -> None:
    """Settings of a project, checked as the first stage does."""
    values = _changed(data, PARAMS)
    _refused_or(lambda: check_params(Params(values)))


CELLS = st.text(st.sampled_from("ab ,;\"'\\\t\n\r=\x00é\u2028\ufeff"), max_size=8)


def table(folder: Path, data: st.DataObject) -> None:
    """Tables as other tools write them: all texts come back, in order, or the table is refused."""
    texts = data.draw(st.lists(CELLS, min_size=1, max_size=8))
    labels = [data.draw(st.sampled_from(["x", "y", "z"])) for _ in texts]
    form = data.draw(st.sampled_from(["csv", "jsonl", "json", "parquet", "arrow"]))
    path, rows = folder / f"t.{form}", [{"text": a, "label": b} for a, b in zip(texts, labels, strict=True)]
    match form:
        case "csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                quoting: Any = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
                csv.writer(file, quoting=quoting).writerows([("text", "label"), *zip(texts, labels, strict=True)])
        case "json":
            path.write_text(json.dumps(rows, ensure_ascii=data.draw(st.booleans())), encoding="utf-8")
        case "jsonl":
            lines = [json.dumps(row, ensure_ascii=data.draw(st.booleans())) + "\n" for row in rows]
            path.write_text("".join(lines), encoding="utf-8", newline="")
        case _:
            kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
            column = pa.array(texts, data.draw(st.sampled_from(kinds)))
            made = pa.table({"text": column, "label": labels})
            if form == "parquet":
                pq.write_table(made, path, row_group_size=data.draw(st.integers(1, 8)))
            else:
                with pa.ipc.new_file(str(path), made.schema) as file:
                    file.write_table(made)
    source = {"family": "text_table", "path": str(path), "label_column": "label"}

    def read() -> list[Any]:
        module, settings = read_plugin("datasets", source, "dataset.source")
        return list(module.rows(settings))

    found = _refused_or(read)
    if found is not None:
        assert [row.label for row in found] == labels, (texts, labels)
        for row, text in zip(found, texts, strict=True):
            assert row.problem or row.content == text, (row, text)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(folder: Path, data: st.DataObject) -> None:
    """PNGs of sound chunks: some with odd values, in odd places, of odd lengths. All have the right checksums."""
    depth, colour = data.draw(
        st.sampled_from([(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (8, 6), (9, 7)])
    )
    width, height = (data.draw(st.sampled_from([0, 1, 3, 7, 300, 40_000, 2**31])) for _ in range(2))
    size = min(1 << 20, max(1, width * height))
    header = struct.pack(
        ">IIBBBBB", width, height, depth, colour, 0, data.draw(st.integers(0, 1)), data.draw(st.integers(0, 2))
    )
    pixels = data.draw(st.binary(max_size=64)) + bytes(data.draw(st.sampled_from([0, size, 8 * size])))
    chunks = [
        (b"IHDR", header),
        (b"PLTE", data.draw(st.binary(max_size=12))),
        (b"tRNS", data.draw(st.binary(max_size=6))),
        (b"eXIf", data.draw(st.binary(max_size=40))),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(data.draw(st.sampled_from([0, 100, 1 << 24]))))),
        (b"IDAT", zlib.compress(pixels)),
        (b"IEND", b""),
    ]
    kept = [chunk for chunk in chunks if data.draw(st.integers(0, 4))]
    order = data.draw(st.permutations(kept)) if data.draw(st.integers(0, 3)) == 0 else kept
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, part) for kind, part in order)
    for read in (images.decode, images.remarks):
        try:
            found = read(content)
        except ValueError as error:
            assert "\n" not in str(error), str(error)
        else:
            assert not isinstance(found, Image.Image) or found.mode in ("L", "RGB")


def safetensors(folder: Path, data: st.DataObject) -> None:
    """Tensors whose header claims other types, shapes and places than they have."""
    values = np.arange(12, dtype="<f4").tobytes()
    header = {
        "features": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, len(values)]},
        "__metadata__": {"a": "b"},
    }
    odd = _changed(data, header)
    if data.draw(st.booleans()) and isinstance(odd.get("features"), dict):
        odd["features"]["dtype"] = data.draw(st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "F64"]))
        odd["features"]["shape"] = data.draw(st.lists(st.sampled_from([0, 1, 3, 4, 12, 2**62]), max_size=4))
    text = json.dumps(odd).encode()
    length = data.draw(st.sampled_from([len(text), len(text), len(text), 0, 2**40, 2**63]))
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text + values)

    def read() -> Any:
        found = read_table(path)
        return found.read(0, found.count)

    _refused_or(read)


PROPERTIES: dict[str, Property] = {"params": params, "table": table, "PNG": png, "safetensors": safetensors}
"""By what is read."""
