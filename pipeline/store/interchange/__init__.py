"""Export and import of features, one file per format. The file is named after the suffix: `.h5` is `h5.py`.

A format offers

- `write(path, table)`: the features of one head, with their ids and the store's metadata;
- `read(path)`: a `Table`, from a file written by `write` or by other tools. It reads rows on demand, and runs no code
  from a file.

Values are float16 or float32, as `FeatureStore` returns them, or bfloat16 if the format has it.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_args

import numpy as np

from pipeline.errors import UserError, count
from pipeline.files import explained, is_utf8, open_regular, refuse_url, scratch_folder
from pipeline.provenance import digest_files
from pipeline.store.backends import Backend, backend_at
from pipeline.store.format import SHARD_BYTES, Dtype, Head, Layout, check_head_name, shortened
from pipeline.store.rows import DIGEST_BYTES, RowIndex
from pipeline.store.store import FeatureStore
from pipeline.store.writer import StoreWriter

BLOCK_BYTES = 32 << 20
ROW_BYTES = 1 << 30
"""The most bytes of a row. Rows are read whole, so a file must not claim arbitrarily large ones."""


@dataclass(frozen=True)
class Table:
    """Features of rows, independent of the format.

    Attributes:
        count: how many rows.
        shape: of one row.
        dtype: of the values: float16, float32, or bfloat16 (read as float32).
        read: rows start .. stop - 1 [stop - start, *shape].
        ids: per row; None if the file has none.
        digests: of the rows' contents, uint8 [count, 16]; None if the file has none.
        about: metadata in exported files: dataset, recipe, head, dtype, view, created_by, shard_rows.
    """

    count: int
    shape: tuple[int, ...]
    dtype: Dtype
    read: Callable[[int, int], np.ndarray]
    ids: Sequence[str] | None = None
    digests: np.ndarray | None = None
    about: Mapping[str, Any] | None = None

    def blocks(self) -> list[tuple[int, int]]:
        """Spans of rows of about 32 MiB that cover the table."""
        step = max(1, BLOCK_BYTES // max(1, 4 * int(np.prod(self.shape))))
        return [(start, min(start + step, self.count)) for start in range(0, self.count, step)]


def dtype_in(about: Mapping[str, Any] | None, found: np.dtype) -> Dtype:
    """The dtype of features in a file: as recorded in an exported file, else that of its array."""
    dtype: Dtype = (about or {}).get("dtype", "float16" if found == np.float16 else "float32")
    return dtype


def about_in(text: Any, path: Path) -> dict[str, Any]:
    """The metadata in an exported file. Raises `UserError` if `write` cannot have written it."""
    types = {
        "dataset": str, "recipe": dict, "head": str, "view": dict | None, "created_by": dict, "shard_rows": int | None,
        "parts": dict | None, "dtype": str, "shape": list, "array": str,
    }  # fmt: skip
    try:
        about = json.loads(text)
        json.dumps(about, allow_nan=False, ensure_ascii=False).encode()  # a store could not write it otherwise
        sound = all(isinstance(value, types[key]) for key, value in about.items())
        shard_rows = about.get("shard_rows")
        sound = sound and about.get("dtype", "float32") in get_args(Dtype)
        sound = sound and (shard_rows is None or (type(shard_rows) is int and shard_rows > 0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise UserError(f"{path}: the description of its features is damaged; remove it from the file, or export again")
    return dict(about)


def refuse_inflated(path: Path) -> None:
    """Refuse a compressed archive: exported files, and those of numpy and torch, are not compressed.

    Raises:
        UserError: it is compressed.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inflated = sum(about.file_size for about in archive.infolist())
        if inflated > path.stat().st_size:
            raise UserError(f"{path}: a compressed archive of {inflated:,} bytes; save it without compression")


def suffixes() -> list[str]:
    """The suffixes of supported files."""
    return sorted(f".{module.name}" for module in iter_modules(__path__))


def export(
    store: FeatureStore,
    target: str | Path,
    head: str | None = None,
    rows: np.ndarray | None = None,
    parts: Mapping[str, int] | None = None,
) -> Path:
    """Write one head of a store to a file, in the format of its suffix. Returns its path.

    Args:
        store: where the features are.
        target: the file; an existing one is replaced when the new one is complete.
        head: as for `FeatureStore.reader`.
        rows: the rows to write, in this order; all if None.
        parts: for `.pt`: how many of the rows, in order, are `train` and `test`; all are `train` if None.

    Raises:
        UserError: the format is unknown, there is no such head, the row index is damaged, or the disk is full.
    """
    target = Path(target)
    refuse_url(target)
    module = _format(target)
    reader = store.reader(head)
    name = store.head_name(head)
    chosen = np.arange(len(store)) if rows is None else np.asarray(rows)
    stored = store.heads[name]
    layout = store.layout
    # Features are compared with their checksums; ids and digests of contents have one of their own.
    if store.rows.digest() != layout.rows_digest:
        raise UserError(f"{store.path}/rows: the row index is damaged; restore it or extract again")
    about: dict[str, Any] = {
        "dataset": store.dataset,
        "recipe": dict(store.recipe),
        "head": name,
        "view": None if stored.view is None else dict(stored.view),
        "created_by": dict(store.created_by),
        "shard_rows": layout.shard_rows if rows is None else None,
        "parts": None if parts is None else dict(parts),
        "dtype": "float32" if stored.dtype == "int8" or stored.largest else stored.dtype,
    }
    table = Table(
        len(chosen),
        stored.shape,
        about["dtype"],
        lambda start, stop: reader(chosen[start:stop]),
        store.ids if rows is None else store.ids[chosen].tolist(),
        store.rows.digests[chosen],
        about,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(target) as scratch:
            module.write(scratch / target.name, table)
            reader.verified()
            for path in sorted(scratch.iterdir()):  # npy also writes ids, to a second file
                os.replace(path, target.with_name(path.name))
    except UserError as error:
        raise error if store.path in str(error) else UserError(f"{store.path}: {error}") from None
    except OSError as error:
        raise explained(error, target) from error
    return target


def import_features(
    source: str | Path | Sequence[Path],
    target: str | Path | Backend,
    head: str | None = None,
    dtype: Dtype | None = None,
    rows: RowIndex | None = None,
    dataset: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> FeatureStore:
    """Make a store from a file that `export` or another tool wrote. An interrupted import continues.

    An exported file keeps its ids, digests, recipe and dataset. For other files, the file's digest is the recipe, ids
    come from the file or are numbers, and digests are of the features, since the contents of rows are unknown.

    Args:
        source: a file, or several, such as one per slide: their rows are concatenated, and ids are prefixed with the
            name of the file.
        target: the store.
        head: name of the head; the name in the file, or `pooled`, if None.
        dtype: of the store; that of the file if None.
        rows: the dataset's rows that the features belong to, as many as in the file, in order.
        dataset: the digest of that dataset.
        say: called with a line about what was found in the target.

    Raises:
        UserError: a file is missing, unknown or unsuitable; rows and features differ in number; ids are not unique; or
            the target is another store already.
    """
    files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
    if not files:
        raise UserError("no files to import")
    tables = []
    for file in files:
        tables.append(read_table(file))
    first, total = tables[0], sum(table.count for table in tables)
    for file, table in zip(files, tables, strict=True):
        if table.shape != first.shape:
            raise UserError(f"{file}: rows of shape {table.shape}, but {files[0]} has {first.shape}")
    about = first.about if len(files) == 1 and first.about else {}
    name = head or about.get("head") or "pooled"
    if rows is not None and len(rows) != total:
        raise UserError(f"{files[0]}: {count(total, 'row')} of features for {count(len(rows), 'row')} of the dataset")
    for file in files:
        if not is_utf8(file.name):
            raise UserError(f"{file}: the name is not in UTF-8; rename it")
    try:
        index = rows or RowIndex(_ids(files, tables), np.concatenate([_digests(table) for table in tables]))
    except UserError as error:
        raise UserError(f"{files[0]}: {error}") from None
    try:
        heads = {name: Head(first.shape, dtype or first.dtype, view=about.get("view"))}
        check_head_name(name)
    except UserError as error:
        raise UserError(f"{files[0]}: {error}") from None
    starts = np.cumsum([0, *(table.count for table in tables)])

    def read(start: int, stop: int) -> np.ndarray:
        found = [
            table.read(max(start - at, 0), min(stop - at, table.count))
            for at, table in zip(starts.tolist(), tables, strict=False)
            if at < stop and start < at + table.count
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    recipe = about.get("recipe") or {"imported": {file.name: digest_files(file) for file in files}}
    place = backend_at(target)
    metadata = place.read("zarr.json")
    if metadata is not None and Layout.read(metadata, f"{place.name}/zarr.json").recipe != recipe:
        raise UserError(f"{place.name}: another store is there; delete it, or import to another place")
    with StoreWriter.open(
        place,
        rows=index,
        dataset=dataset or about.get("dataset") or index.digest(),
        recipe=recipe,
        heads=heads,
        shard_rows=about.get("shard_rows"),
        created_by=about.get("created_by") or {"imported_from": [file.name for file in files]},
    ) as writer:
        for note in writer.notes:
            say(f"{place.name}: {note}")
        for shard in writer.missing():
            writer.write(shard, {name: read(shard.start, shard.stop)})
    return FeatureStore.open(place)


def read_table(path: Path) -> Table:
    """The table in a file, with its metadata checked, and any failure to read it as one line.

    Raises:
        UserError: the file is missing, damaged or unsuitable.
    """
    module = _format(path)
    refuse_url(path)
    try:
        os.close(open_regular(path))
        table: Table = module.read(path)
        _check(table)
    except PermissionError:
        raise
    except UserError as error:
        named = str(error).startswith(str(path.with_suffix("")))  # also by the file with its ids
        raise error if named else UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # the libraries of the formats raise any kind of error
        raise _damaged(path, error) from None

    def read(start: int, stop: int) -> np.ndarray:
        try:
            found = table.read(start, stop)
        except UserError:
            raise
        except Exception as error:
            raise _damaged(path, error) from None
        if found.shape != (stop - start, *table.shape):
            raise UserError(f"{path}: rows {start}-{stop - 1} have another shape than the first")
        return found

    return replace(table, read=read)


def _check(table: Table) -> None:
    """Raises `ValueError` if parts of a table contradict one another, or are implausible."""
    if not all(size > 0 for size in (table.count, *table.shape)):
        raise ValueError(f"no numbers in an array of shape {(table.count, *table.shape)}")
    if 4 * math.prod(table.shape) > ROW_BYTES:
        raise ValueError(f"a row of shape {table.shape} is larger than {ROW_BYTES >> 30} GiB")
    if table.ids is not None and len(table.ids) != table.count:
        raise ValueError(f"{count(len(table.ids), 'id')} for {count(table.count, 'row')}")
    for name in table.ids or ():
        if not isinstance(name, str) or not is_utf8(name):
            raise ValueError(f"the id {shortened(name)} is not text")
    shard_rows = (table.about or {}).get("shard_rows") or 1
    if shard_rows > max(table.count, SHARD_BYTES // (4 * math.prod(table.shape))):
        raise ValueError(f"shards of {count(shard_rows, 'row')} for {count(table.count, 'row')}")
    digests = table.digests
    if digests is not None and (digests.shape != (table.count, DIGEST_BYTES) or digests.dtype != np.uint8):
        raise ValueError(f"digests of shape {digests.shape} for {count(table.count, 'row')}")


def _damaged(path: Path, error: Exception) -> UserError:
    what = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: damaged, or not as this format has features: {what[:200]}")


def _format(path: Path) -> ModuleType:
    suffix = {".hdf5": ".h5"}.get(path.suffix, path.suffix)
    if suffix not in suffixes():
        raise UserError(f"{path}: unknown format {path.suffix!r}; there are {', '.join(suffixes())}")
    return import_module(f"{__name__}.{suffix[1:]}")


def _ids(files: Sequence[Path], tables: Sequence[Table]) -> list[str]:
    """Ids of all rows: those in the files, else numbers; prefixed with the file's name if there are several files."""
    ids: list[str] = []
    for file, table in zip(files, tables, strict=True):
        own = list(table.ids) if table.ids is not None else [str(row) for row in range(table.count)]
        ids += own if len(files) == 1 else [f"{file.stem}:{name}" for name in own]
    return ids


def _digests(table: Table) -> np.ndarray:
    """Digests of the rows' contents, or of their features if the contents are unknown."""
    if table.digests is not None:
        return table.digests
    found = np.empty((table.count, DIGEST_BYTES), np.uint8)
    for start, stop in table.blocks():
        for row, values in enumerate(np.ascontiguousarray(table.read(start, stop)), start):
            digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=DIGEST_BYTES).digest()
            found[row] = np.frombuffer(digest, np.uint8)
    return found
