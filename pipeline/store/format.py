"""The layout of a store on disk: plain Zarr v3, with a commit marker alongside each shard.

    zarr.json                    the group; its attribute `feature_store` holds the layout
    rows/{id_bytes,id_ends,digests}
                                 the row index, three unsharded arrays whose one chunk is the array's bytes
    <head>/zarr.json             an array [rows, *shape], sharded along rows only
    <head>/c.<shard>.0...        a shard: its chunks in order, then Zarr's shard index
    <head>/c.<shard>.json        the marker, written after the shard: a shard without it does not count
    <head>.scale/                for int8: the scale of each row (of each vector of a row), float32
    <head>.index/                where only the largest values are kept: their positions, int32
    locks/, replaced/            while a store is being written: locks, and earlier rows that may be reused

Every JSON file has a single canonical form (sorted keys, one space), so any edit can be detected. No file holds a
path or a time. File names follow from heads and shard numbers, and the same features give the same bytes.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import google_crc32c
import numpy as np

from pipeline.errors import UserError
from pipeline.provenance import digest_of

VERSION = 1
MOST_DIMENSIONS = 32
MOST_BYTES = 1 << 60
"""The most rows of a store. A store that claims more is not read: row numbers would overflow."""
CHUNK_ROWS = 256
CHUNK_BYTES = 4 << 20
SHARDS_AT_LEAST = 8
SHARD_BYTES = 256 << 20
ATTRIBUTE = "feature_store"
# `.scale` and `.index` end the names of a head's other arrays.
HEAD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@-]{0,99}(?::[A-Za-z0-9_:@.-]{0,99})?(?<!\.scale)(?<!\.index)")
LOCKS, REPLACED = "locks", "replaced"
MOVED = "moved"
"""Name of the file that marks a replaced store as complete in its folder."""
RESERVED = frozenset({"rows", LOCKS, REPLACED})
_FILE = (
    r"zarr\.json|rows/zarr\.json|rows/(id_bytes|id_ends)/(zarr\.json|c\.0)|rows/digests/(zarr\.json|c\.0\.0)"
    rf"|(?!rows/){HEAD_NAME.pattern}(\.scale|\.index)?/(zarr\.json|c\.[0-9]+(\.0)*|c\.[0-9]+\.json)"
)
STORE_FILE = re.compile(
    rf"({_FILE})(\.partial)?"
    rf"|{LOCKS}/((setup|writers|create|shard-[0-9]+)(\.shared/[0-9a-f]{{32}})?|wider-{HEAD_NAME.pattern}\.json)(\.partial)?"
    rf"|{REPLACED}/[0-9]{{1,9}}/(({_FILE})(\.partial)?|{MOVED})"
)
"""The names that files of a store can have."""

Dtype = Literal["float16", "bfloat16", "float32", "int8"]
Codec = Literal["raw", "zstd", "auto"]

# numpy has no bfloat16 and Zarr readers differ on it, so its bits are kept as uint16.
STORED = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "int8": "|i1"}
ZARR_NAMES = {
    **{"<f2": "float16", "<u2": "uint16", "<f4": "float32"},
    **{"|i1": "int8", "|u1": "uint8", "<i4": "int32", "<i8": "int64"},
}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}


@dataclass(frozen=True)
class Head:
    """One named output of a teacher, as it is stored.

    Attributes:
        shape: the shape of one row, such as (384,) or (196, 384).
        dtype: float16, float32, bfloat16 (kept as its bits in uint16), or int8 (symmetric, with one float32 scale per
            vector along the last axis, that is one per row for a pooled feature).
        codec: raw (rows are read directly from the mapped file), zstd, or auto (zstd if it at least halves the first
            shard, as for sparse features, else raw).
        view: how the rows were changed before the teacher saw them, if at all, as JSON. A head of a view
            is named `<head>@<view>`, such as `pooled@flip`.
        asked: the dtype that was asked for and is too narrow for some values, if `dtype` stands in for it. Which of
            the two was asked for makes no difference to what is stored.
        recipe: what determines the values of this head and of no other, besides the store's recipe, as JSON; None for
            nothing.
        largest: how many of a row's values are kept, see `pipeline.store.largest`; None for all.
    """

    shape: tuple[int, ...]
    dtype: Dtype = "float16"
    codec: Codec = "raw"
    view: Mapping[str, Any] | None = None
    asked: Dtype | None = field(default=None, compare=False)
    recipe: Mapping[str, Any] | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        sizes = all(type(size) is int and size > 0 for size in self.shape)
        if not sizes or len(self.shape) > MOST_DIMENSIONS or math.prod(self.shape) > MOST_BYTES:
            raise UserError(f"a head's shape must be positive whole numbers, found {shortened(self.shape)}")
        for dtype in (self.dtype, self.asked or self.dtype):
            if dtype not in get_args(Dtype):
                raise UserError(f"a head's dtype is one of {', '.join(get_args(Dtype))}, found {dtype!r}")
        if self.codec not in get_args(Codec):
            raise UserError(f"a head's codec is one of {', '.join(get_args(Codec))}, found {self.codec!r}")
        if self.dtype == "int8" and not self.shape:
            raise UserError("int8 needs rows of at least one dimension: a single number has no scale to share")
        if self.largest is not None:
            sound = type(self.largest) is int and len(self.shape) == 1 and 0 < 3 * self.largest < self.shape[0]
            if not sound or self.dtype == "int8":
                raise UserError(
                    f"a head that keeps its {shortened(self.largest)} largest values has rows of one dimension, with "
                    "more than three times as many, of float16, bfloat16 or float32"
                )

    def record(self) -> dict[str, Any]:
        """The head as JSON-like data; `Head.read` is its inverse."""
        view = None if self.view is None else dict(self.view)
        more: dict[str, Any] = {"asked": self.asked} if self.asked else {}
        more |= {"recipe": dict(self.recipe)} if self.recipe else {}
        more |= {"largest": self.largest} if self.largest is not None else {}
        return {"shape": list(self.shape), "dtype": self.dtype, "codec": self.codec, "view": view, **more}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Head":
        shape, dtype, codec, view = (record[key] for key in ("shape", "dtype", "codec", "view"))
        return cls(tuple(shape), dtype, codec, view, record.get("asked"), record.get("recipe"), record.get("largest"))

    def values(self) -> dict[str, Any]:
        """The fields that affect the head's values, and not only how they are stored."""
        return {key: value for key, value in self.record().items() if key not in ("codec", "asked")}

    def arrays(self, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """The Zarr arrays that hold the head called `name`: per array, the shape of one row and the dtype."""
        if self.largest is not None:
            kept = {name: ((self.largest + 1,), STORED[self.dtype])}
            return {**kept, f"{name}.index": ((self.largest,), "<i4")}
        arrays = {name: (self.shape, STORED[self.dtype])}
        if self.dtype == "int8":
            arrays[f"{name}.scale"] = (self.shape[:-1], "<f4")
        return arrays

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk, before compression."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.arrays("").values())


@dataclass(frozen=True)
class Shard:
    """Consecutive rows that are written at once.

    Attributes:
        index: its number.
        start, stop: its rows are start .. stop - 1.
        rows: rows that must be computed; the others are copied from earlier features of the same rows.
        heads: the heads to compute.
    """

    index: int
    start: int
    stop: int
    rows: np.ndarray = field(repr=False, compare=False)
    heads: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


class Span(NamedTuple):
    """Rows start .. stop - 1 of a shard, numbered in it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Grid:
    """How one array is divided: rows into shards, shards into chunks.

    Attributes:
        rows: of the array.
        shard_rows: rows of each shard; the last one is padded with zeros to a whole chunk.
        row_shape, dtype: of one row.
        codec: raw or zstd.
    """

    rows: int
    shard_rows: int
    row_shape: tuple[int, ...]
    dtype: str
    codec: str

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @cached_property
    def chunk_rows(self) -> int:
        """The largest divisor of a shard's rows within 256 rows and 4 MiB."""
        most = max(1, min(CHUNK_ROWS, CHUNK_BYTES // self.row_bytes, self.shard_rows))
        return next(rows for rows in range(most, 0, -1) if self.shard_rows % rows == 0)

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def index_bytes(self) -> int:
        return 16 * (self.shard_rows // self.chunk_rows) + 4

    def span(self, shard: int) -> tuple[int, int]:
        """The rows start, stop of a shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)

    def data_bytes(self, shard: int) -> int:
        """Bytes of a raw shard without its index: its rows, padded to whole chunks."""
        start, stop = self.span(shard)
        return -(-(stop - start) // self.chunk_rows) * self.chunk_rows * self.row_bytes

    @property
    def most_bytes(self) -> int:
        """An upper bound of a shard's file. Data that does not compress becomes slightly larger."""
        data = self.shard_rows * self.row_bytes
        return data + data // 128 + 1024 * (self.shard_rows // self.chunk_rows) + self.index_bytes

    def key(self, shard: int) -> str:
        """The name of a shard's file in the array's folder."""
        return ".".join(["c", str(shard), *["0"] * len(self.row_shape)])

    def shard_index(self, shard: int) -> bytes:
        """Zarr's index of a raw shard: offset and length of each chunk, all ones where there is none, and a CRC-32C."""
        chunk = self.chunk_rows * self.row_bytes
        index = np.full((self.shard_rows // self.chunk_rows, 2), 2**64 - 1, "<u8")
        there = self.data_bytes(shard) // chunk
        index[:there, 0] = np.arange(there, dtype=np.uint64) * np.uint64(chunk)
        index[:there, 1] = chunk
        text = index.tobytes()
        return text + google_crc32c.value(text).to_bytes(4, "little")

    def metadata(self) -> bytes:
        """The array's zarr.json."""
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        plain = {"name": "bytes"} if self.dtype in ("|i1", "|u1") else little
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.row_shape],
            "codecs": [plain, ZSTD] if self.codec == "zstd" else [plain],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return array_metadata(
            (self.rows, *self.row_shape),
            (self.shard_rows, *self.row_shape),
            self.dtype,
            [{"name": "sharding_indexed", "configuration": sharding}],
        )


def array_metadata(shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, codecs: list[Any]) -> bytes:
    """A Zarr v3 array's zarr.json. Keys of chunks are `c.0.0`, so one folder has to be flushed."""
    return written(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": ZARR_NAMES[dtype],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0.0 if np.dtype(dtype).kind == "f" else 0,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }
    )


def flat_metadata(array: np.ndarray) -> bytes:
    """The zarr.json of an unsharded array with one chunk, whose file holds just the array's bytes."""
    dtype = array.dtype.newbyteorder("<").str
    plain = {"name": "bytes"} if dtype == "|u1" else {"name": "bytes", "configuration": {"endian": "little"}}
    chunk = tuple(max(1, size) for size in array.shape)
    return array_metadata(array.shape, chunk, dtype, [plain])


@dataclass(frozen=True)
class Layout:
    """Everything about a store except its features.

    Attributes:
        rows: how many.
        rows_digest: of ids, contents and order (`RowIndex.digest`).
        dataset: the dataset's digest.
        recipe: everything that determines a feature's value except the row, the head and its view.
        shard_rows: rows of a shard, the same for all heads.
        heads: by name.
        created_by: versions of libraries, for people; not part of the identity.
    """

    rows: int
    rows_digest: str
    dataset: str
    recipe: Mapping[str, Any]
    shard_rows: int
    heads: Mapping[str, Head]
    created_by: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in self.heads:
            check_head_name(name)

    @cached_property
    def recipe_digest(self) -> str:
        return digest_of(self.recipe)

    def identity(self, head: str) -> str:
        """A digest of what the values of a head depend on, except the rows: recipe, head, view and dtype."""
        return digest_of({"recipe": self.recipe_digest, "head": head, **self.heads[head].values()})

    def grids(self, head: str, codec: str) -> dict[str, Grid]:
        """The arrays of a head and how they are divided. Scales do not compress: their codec is always raw."""
        return {
            array: Grid(self.rows, self.shard_rows, shape, dtype, codec if array == head else "raw")
            for array, (shape, dtype) in self.heads[head].arrays(head).items()
        }

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    def span(self, shard: int) -> tuple[int, int]:
        """The rows start, stop of a shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)

    def metadata(self) -> bytes:
        """The group's zarr.json."""
        record = {
            "version": VERSION,
            "rows": self.rows,
            "rows_digest": self.rows_digest,
            "dataset": self.dataset,
            "recipe": dict(self.recipe),
            "shard_rows": self.shard_rows,
            "heads": {name: head.record() for name, head in self.heads.items()},
            "created_by": dict(self.created_by),
        }
        return written({"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: signed(record)}})

    @classmethod
    def read(cls, text: bytes, where: str) -> "Layout":
        """The inverse of `metadata`.

        Raises:
            UserError: this is not a feature store's zarr.json, it is of a newer version, or it was changed by hand.
        """
        try:
            node = json.loads(text)
            record = node["attributes"][ATTRIBUTE]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{where}: not the metadata of a feature store, or damaged; restore it or extract again"
            ) from None
        if isinstance(record, dict) and record.get("version", 0) != VERSION:
            found = shortened(record.get("version"))
            raise UserError(f"{where}: store version {found}, this is for {VERSION}; use a newer aft")
        try:
            if not is_signed(record):
                raise ValueError("its digest does not match")
            heads = {name: Head.read(head) for name, head in record["heads"].items()}
            layout = cls(
                record["rows"], record["rows_digest"], record["dataset"], record["recipe"], record["shard_rows"],
                heads, record["created_by"],
            )  # fmt: skip
            sound = layout._is_plausible() and layout.metadata() == text
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError):
            sound = False
        if not sound:
            raise UserError(f"{where}: damaged or changed by hand; restore it or extract again")
        return layout

    def _is_plausible(self) -> bool:
        """Whether the fields have their types and plausible sizes."""
        texts = all(isinstance(text, str) for text in (self.rows_digest, self.dataset))
        records = all(isinstance(record, Mapping) for record in (self.recipe, self.created_by))
        numbers = all(type(number) is int and 0 < number < MOST_BYTES for number in (self.rows, self.shard_rows))
        if not (texts and records and numbers and self.heads):
            return False
        largest = max(head.row_bytes for head in self.heads.values())
        return max(self.rows, self.shard_rows) * largest < MOST_BYTES


def check_head_name(name: str) -> None:
    """Raises `UserError` if a head cannot have this name, which is that of its folder."""
    if not HEAD_NAME.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"{shortened(name)} cannot be a head's name: use letters, digits, _ @ -, and after a colon dots"
        )


@dataclass(frozen=True)
class Marker:
    """Its existence means that a shard of a head is complete and on the disk.

    Attributes:
        start, stop: its rows.
        rows_digest: of those rows (`RowIndex.digest(start, stop)`).
        identity: `Layout.identity` of the head.
        files: `bytes` and `checksum` of the shard's file in each array of the head.
    """

    start: int
    stop: int
    rows_digest: str
    identity: str
    files: Mapping[str, Mapping[str, Any]]

    def text(self) -> bytes:
        record = {
            "start": self.start,
            "stop": self.stop,
            "rows_digest": self.rows_digest,
            "identity": self.identity,
            "files": {name: dict(file) for name, file in self.files.items()},
        }
        return written(signed(record))

    @classmethod
    def read(cls, text: bytes) -> "Marker":
        """The inverse of `text`. Raises `ValueError` for anything that `text` did not write."""
        try:
            record = json.loads(text)
            names = ("start", "stop", "rows_digest", "identity", "files")
            sound = is_signed(record) and record.keys() - OLD_KEYS == {*names, "digest"} and written(record) == text
            sound = sound and all(
                type(file["bytes"]) is int and isinstance(file["checksum"], str) for file in record["files"].values()
            )
            sound = sound and type(record["start"]) is type(record["stop"]) is int
            sound = sound and all(isinstance(record[name], str) for name in ("rows_digest", "identity"))
        except (AttributeError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise ValueError("damaged or changed by hand")
        return cls(*(record[name] for name in names))


OLD_KEYS = frozenset({"seconds", "rows_per_second", "reused"})
"""Fields of markers up to version 0.1, which are ignored."""


def marker_name(shard: int) -> str:
    """The name of a shard's marker in its head's folder."""
    return f"c.{shard}.json"


def default_shard_rows(rows: int, row_bytes: int) -> int:
    """Shards of up to 256 MiB, at least eight of them, in whole 256-row chunks if there are enough rows."""
    share = -(-rows // SHARDS_AT_LEAST)
    if share <= CHUNK_ROWS:
        return max(share, 1)
    largest = max(1, SHARD_BYTES // row_bytes)
    wanted = min(share, largest)
    return max(CHUNK_ROWS, wanted // CHUNK_ROWS * CHUNK_ROWS)


def shortened(value: Any) -> str:
    """Any value as a short line for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def written(record: Mapping[str, Any]) -> bytes:
    """JSON in the store's canonical form."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own digest, which detects accidental edits; it is no defence against malice."""
    return {**record, "digest": digest_of(record)}


def is_signed(record: Any) -> bool:
    """Whether the record's digest matches it."""
    if not isinstance(record, dict) or "digest" not in record:
        return False
    return record["digest"] == digest_of({key: value for key, value in record.items() if key != "digest"})


ROWS_METADATA = written({"zarr_format": 3, "node_type": "group", "attributes": {}})
"""The zarr.json of the group with the row index."""
