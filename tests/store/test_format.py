"""The bytes on disk are those that Zarr itself would write, and nothing else passes for them."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.store.format import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    STORE_FILE,
    STORED,
    Grid,
    Head,
    Layout,
    Marker,
    default_shard_rows,
    signed,
    written,
)
from pipeline.store.shards import pack, unpack

GRIDS = [
    Grid(1000, 512, (8,), "<f2", "raw"),
    Grid(1000, 512, (8,), "<f2", "zstd"),
    Grid(17, 5, (3, 7), "<u2", "raw"),
    Grid(600, 300, (), "<f4", "raw"),
    Grid(40, 16, (5,), "|i1", "raw"),
    Grid(9, 4, (1024, 300), "<f4", "zstd"),
    Grid(3, 512, (4,), "<f4", "raw"),
]


def random_rows(grid: Grid, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(1, 100, (grid.rows, *grid.row_shape))
    return np.ascontiguousarray(rows.astype(grid.dtype))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_shards_are_byte_for_byte_what_zarr_writes(grid: Grid, tmp_path: Path):
    rows = random_rows(grid)
    (tmp_path / "zarr.json").write_bytes(grid.metadata())
    array = zarr.open_array(tmp_path, mode="r+", config={"write_empty_chunks": True})
    assert array.shape == rows.shape and array.dtype == rows.dtype
    for shard in range(grid.shards):
        start, stop = grid.span(shard)
        array[start:stop] = rows[start:stop]
        ours = b"".join(bytes(memoryview(part).cast("B")) for part in pack(grid, shard, rows[start:stop]))
        theirs = (tmp_path / grid.key(shard)).read_bytes()
        if grid.codec == "raw":
            assert ours == theirs
        np.testing.assert_array_equal(unpack(grid, shard, theirs), rows[start:stop])
        np.testing.assert_array_equal(unpack(grid, shard, ours), rows[start:stop])
        (tmp_path / grid.key(shard)).write_bytes(ours)
    np.testing.assert_array_equal(array[:], rows)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_array_metadata_says_what_zarr_would_say(grid: Grid, tmp_path: Path):
    compressors = [zarr.codecs.ZstdCodec(level=3)] if grid.codec == "zstd" else None
    zarr.create_array(
        tmp_path,
        shape=(grid.rows, *grid.row_shape),
        chunks=(grid.chunk_rows, *grid.row_shape),
        shards=(grid.shard_rows, *grid.row_shape),
        dtype=np.dtype(grid.dtype),
        compressors=compressors,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    assert json.loads(grid.metadata()) == json.loads((tmp_path / "zarr.json").read_text())


@given(st.integers(1, 5000), st.integers(1, 3000), st.integers(1, 200_000))
def test_shards_cover_all_rows_and_chunks_divide_shards(rows: int, shard_rows: int, width: int):
    grid = Grid(rows, shard_rows, (width,), "<f2", "raw")
    spans = [grid.span(shard) for shard in range(grid.shards)]
    assert spans[0][0] == 0 and spans[-1][1] == rows
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(spans))
    assert shard_rows % grid.chunk_rows == 0 and 1 <= grid.chunk_rows <= CHUNK_ROWS
    assert grid.chunk_rows == 1 or grid.chunk_rows * grid.row_bytes <= CHUNK_BYTES


@given(st.integers(1, 10**8), st.integers(1, 10**6))
def test_default_shards_are_many_enough_and_not_too_large(rows: int, row_bytes: int):
    shard_rows = default_shard_rows(rows, row_bytes)
    shards = math.ceil(rows / shard_rows)
    assert shards >= min(rows, 5)
    assert rows < 8 * 256 or shard_rows % 256 == 0
    assert shard_rows * row_bytes <= 256 << 20 or shard_rows == 256


@pytest.mark.parametrize(("rows", "row_bytes", "shards"), [(9000, 768, 9), (50_000_000, 2048, 382), (8, 768, 8)])
def test_default_shards_of_a_few_sizes(rows: int, row_bytes: int, shards: int):
    assert math.ceil(rows / default_shard_rows(rows, row_bytes)) == shards


def layout(**changes: object) -> Layout:
    fields = {
        "rows": 10, "rows_digest": "r", "dataset": "d", "recipe": {"model": "m", "deep": {"x": [1, 2.5, None]}},
        "shard_rows": 4, "heads": {"pooled": Head((3,)), "pooled@flip": Head((3,), view={"flip": True})},
        "created_by": {"numpy": "2"},
    }  # fmt: skip
    return Layout(**{**fields, **changes})


def test_a_layout_is_read_as_it_was_written():
    assert Layout.read(layout().metadata(), "here") == layout()


def test_any_change_to_a_layout_by_hand_is_seen():
    text = layout().metadata()
    assert Layout.read(text, "here")
    for at in range(len(text)):
        for flip in (1, 32):
            changed = text[:at] + bytes([text[at] ^ flip]) + text[at + 1 :]
            with pytest.raises(UserError, match=r"^here: "):
                Layout.read(changed, "here")
    for end in range(len(text)):
        with pytest.raises(UserError, match=r"^here: "):
            Layout.read(text[:end], "here")


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "rows",
        "locks",
        "replaced",
        "a.scale",
        "a:b.scale",
        "a:b.index",
        "a.b:c",
        "x" * 101,
        "c\0",
    ],
)
def test_no_head_reaches_outside_the_store_even_if_it_is_signed(name: str):
    node = json.loads(layout().metadata())
    record = {key: value for key, value in node["attributes"]["feature_store"].items() if key != "digest"}
    record["heads"] = {name: Head((3,)).record()}
    node["attributes"]["feature_store"] = signed(record)
    with pytest.raises(UserError, match="damaged or changed by hand"):
        Layout.read(written(node), "here")
    with pytest.raises(UserError, match="cannot be a head's name"):
        layout(heads={name: Head((3,))})


@pytest.mark.parametrize("name", ["pooled@crops:3", "layer:features.4", "layer:encoder.layers.encoder_layer_5@crops:3"])
@pytest.mark.parametrize("array", ["", ".scale", ".index"])
def test_a_head_may_be_named_after_a_module(name: str, array: str):
    Layout.read(layout(heads={name: Head((3,))}).metadata(), "here")
    assert STORE_FILE.fullmatch(f"{name}{array}/c.0.0")
    assert STORE_FILE.fullmatch(f"locks/wider-{name}.json")


@pytest.mark.parametrize(
    ("key", "value"), [("rows", 0), ("rows", -5), ("rows", "10"), ("shard_rows", 0), ("heads", {}), ("heads", []),
                       ("recipe", None), ("version", 2), ("version", None)]
)  # fmt: skip
def test_senseless_metadata_is_refused_even_if_it_is_signed(key: str, value: object):
    node = json.loads(layout().metadata())
    record = {name: old for name, old in node["attributes"]["feature_store"].items() if name != "digest"}
    node["attributes"]["feature_store"] = signed({**record, key: value})
    with pytest.raises(UserError, match=r"^here: "):
        Layout.read(written(node), "here")


def test_a_marker_is_read_as_it_was_written_and_no_other_way():
    marker = Marker(0, 4, "rows", "identity", {"pooled": {"bytes": 7, "checksum": "ab"}})
    text = marker.text()
    assert Marker.read(text) == marker
    assert json.loads(text).keys() == {"start", "stop", "rows_digest", "identity", "files", "digest"}
    for at in range(len(text)):
        with pytest.raises(ValueError):
            Marker.read(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        with pytest.raises(ValueError):
            Marker.read(text[:at])


def test_markers_of_older_stores_with_times_are_read():
    record = {
        "start": 0,
        "stop": 4,
        "rows_digest": "rows",
        "identity": "i",
        "files": {"pooled": {"bytes": 7, "checksum": "ab"}},
    }
    times = {"seconds": 1.25, "rows_per_second": 2.4, "reused": 1}
    assert Marker.read(written(signed({**record, **times}))) == Marker(0, 4, "rows", "i", record["files"])
    old = (
        b'{\n "digest": "6a23fad2186ad45a2c52b5a5a39824db",\n'
        b' "files": {\n  "pooled": {\n   "bytes": 7,\n   "checksum": "ab"\n  }\n },\n'
        b' "identity": "identity",\n "reused": 1,\n "rows_digest": "rows",\n "rows_per_second": 2.4,\n'
        b' "seconds": 1.25,\n "start": 0,\n "stop": 4\n}\n'
    )
    assert Marker.read(old) == Marker(0, 4, "rows", "identity", {"pooled": {"bytes": 7, "checksum": "ab"}})
    for wrong in (old.replace(b"1.25", b"1.26"), written(signed({**record, "more": 1}))):
        with pytest.raises(ValueError, match="changed by hand"):
            Marker.read(wrong)


def test_the_identity_of_a_head_is_what_its_values_depend_on():
    base = layout()
    same = [layout(rows=11), layout(dataset="e"), layout(created_by={}), layout(shard_rows=5)]
    same.append(layout(heads={"pooled": Head((3,), codec="zstd")}))
    assert {other.identity("pooled") for other in same} == {base.identity("pooled")}
    others = [
        layout(recipe={"model": "n"}),
        layout(heads={"pooled": Head((4,))}),
        layout(heads={"pooled": Head((3,), "float32")}),
        layout(heads={"pooled": Head((3,), view={"crop": 1})}),
    ]
    identities = {other.identity("pooled") for other in others} | {
        base.identity("pooled"),
        base.identity("pooled@flip"),
    }
    assert len(identities) == 6


@pytest.mark.parametrize(
    "arguments", [((0,),), ((3,), "float64"), ((3,), "float16", "gzip"), ((), "int8"), ((2.5,),), (("3",),)]
)
def test_heads_that_cannot_be_are_refused(arguments: tuple):
    with pytest.raises((UserError, TypeError)):  # under test, types are checked first
        Head(*arguments)


def test_every_dtype_is_kept_in_as_many_bytes_as_it_should():
    assert {dtype: Head((384,), dtype).row_bytes for dtype in STORED} == {
        "float16": 768, "bfloat16": 768, "float32": 1536, "int8": 388,
    }  # fmt: skip
