"""Prepare: one canonical local copy of a dataset, without twins, whose rows have their roles drawn ahead.

Two passes over the source. The first keeps some 50 bytes a row and decides everything; the second copies what stays. So
memory does not grow with the content, and nothing is written before all that can be wrong has been looked for.
"""

import csv
import io
import json
import os
import re
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64, UInt8, UInt64
from PIL import Image
from pydantic import Field, field_validator

from pipeline.datasets import SPLITS, Row
from pipeline.errors import UserError
from pipeline.params import Settings, read_part
from pipeline.prepared import CONTENT, FORMAT, MANIFEST, QUARANTINE, ROWS, Role, content_digest
from pipeline.progress import progress
from pipeline.splits import allot, choose, order

CHUNK = 1024
BATCH_ROWS, BATCH_BYTES = 1 << 16, 1 << 26

KEPT, UNREADABLE, TWIN, CONFLICT, SEPARATED, LIMIT = range(6)
"""What becomes of a row of the source."""

REASONS = {
    UNREADABLE: "unreadable",
    TWIN: "twin",
    CONFLICT: "twins disagree about the label",
    SEPARATED: "no label, and its group is held out",
    LIMIT: "over the limit",
}

TRAIN, FREE = Role.LABELLED.value, -1
"""What the source fixes, besides Role.VAL and Role.TEST."""


class PrepareSettings(Settings):
    """The section `dataset` of params.yaml.

    Attributes:
        source: a family of `pipeline/datasets/` and its settings.
        classes: the names of the classes, in order; None takes those that occur, sorted.
        deduplicate: which rows are twins, of which one stays: `exact`, the same content; `token_set`, for text the same
            set of words in lower case (which includes the former), for images the same bytes.
        limit: keep so many rows, a stratified subset.
        splits: how many independent draws of the roles to make.
        val, test: rows, or a share of the rows there are to choose from, where the source does not fix them.
        labelled: training rows whose label may be used, or a share of those that have one; None: all of them.
        tolerance: the share of rows that may be unreadable.
        seed: of all that is drawn.
    """

    source: dict[str, Any]
    classes: tuple[str, ...] | None = Field(default=None, strict=False)
    deduplicate: Literal["none", "exact", "token_set"] = "exact"
    limit: int | None = Field(default=None, gt=0)
    splits: int = Field(default=1, gt=0, le=1000)
    val: int | float = 0.1
    test: int | float = 0.2
    labelled: int | float | None = None
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0

    @field_validator("val", "test", "labelled")
    @classmethod
    def _amount(cls, amount: int | float | None) -> int | float | None:
        if amount is not None and not (amount > 0 if isinstance(amount, int) else 0 < amount < 1):
            raise ValueError("should be a number of rows from 1, or a share between 0 and 1")
        return amount


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did.

    Attributes:
        rows: how many rows the dataset has.
        classes: names of the classes.
        dropped: how many rows of the source it does not have, by reason.
        roles: rows of each role in the first draw.
        digest: names ids and content; feature stores are keyed on it.
        seconds: how long it took.
        notes: what a person should know of the data.
    """

    rows: int
    classes: tuple[str, ...]
    dropped: dict[str, int]
    roles: dict[str, int]
    digest: str
    seconds: float
    notes: tuple[str, ...]


def prepare(settings: PrepareSettings, out: str | Path) -> Preparation:
    """Write the dataset that `settings` describe to the folder `out`. The same settings and source give the same bytes.

    Raises:
        UserError: the source cannot be read; a row has a label or split that is not allowed; ids repeat; too many rows
            are unreadable; the sizes of the splits do not fit. What was in `out` before is then as it was.
    """
    start = time.perf_counter()
    out = Path(out)
    family, source = read_part("datasets", settings.source, "dataset.source")
    table = _scan(family, source, settings)
    fate, twin = _fates(table, settings)
    _tolerate(table, fate, twin, settings.tolerance, out)
    kept = np.flatnonzero(fate == KEPT)
    classes, labels, notes = table.classes, table.labels[kept], list(table.notes)
    if len(classes) and (empty := np.flatnonzero(np.bincount(labels[labels >= 0], minlength=len(classes)) == 0)).size:
        raise UserError(
            f"dataset: class {classes[empty[0]]!r} has no rows; remove it from dataset.classes, or add some"
        )
    if not classes:
        notes.append("no row has a label: features can be extracted, but nothing can be trained")
    draws = [_roles(table, kept, settings, draw) for draw in range(settings.splits)]

    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        digest = _write_rows(partial, family, source, table, fate == KEPT, np.stack(draws, axis=1))
        _write_quarantine(partial / QUARANTINE, table, fate, twin)
        manifest = {
            "format": FORMAT,
            "kind": family.KIND,
            "rows": len(kept),
            "digest": digest,
            "classes": classes,
            "without_label": int((labels < 0).sum()),
            "splits": settings.splits,
            "roles": {role.name.lower(): role.value for role in Role},
            "rows_of_class": [
                {role.name.lower(): _per_class(labels[roles == role], classes) for role in Role} for roles in draws
            ],
            "dropped": _dropped(fate),
            "notes": notes,
            "settings": settings.model_dump(mode="json"),
            "columns": {CONTENT: ["id", "digest", "content"], ROWS: ["id", "label", "group", "draw_0 ..."]},
            "files": {name: (partial / name).stat().st_size for name in (CONTENT, ROWS, QUARANTINE)},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        for name in (CONTENT, ROWS, QUARANTINE, MANIFEST):
            os.replace(partial / name, out / name)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Preparation(
        len(kept), tuple(classes), _dropped(fate), {role.name.lower(): int((draws[0] == role).sum()) for role in Role},
        digest, time.perf_counter() - start, tuple(notes),
    )  # fmt: skip


@dataclass
class _Table:
    """What the first pass keeps of every row, in the order of the source.

    Attributes:
        ids: row ids.
        rows: 64-bit hashes of the ids.
        units: 64-bit hashes of what must not be torn apart: the group, or the row itself.
        digests: content digests.
        twins: 16 bytes that twins share.
        labels: class numbers, -1 for none.
        splits: TRAIN, Role.VAL or Role.TEST where the source fixes it, else FREE.
        problems: of rows that cannot be read.
    """

    ids: pa.ChunkedArray
    rows: UInt64[np.ndarray, " n"]
    units: UInt64[np.ndarray, " n"]
    digests: UInt8[np.ndarray, "n 16"]
    twins: UInt8[np.ndarray, "n 16"]
    labels: Int64[np.ndarray, " n"]
    splits: Int64[np.ndarray, " n"]
    problems: dict[int, str]
    classes: list[str]
    notes: list[str]


def _scan(family: ModuleType, source: Any, settings: PrepareSettings) -> _Table:
    """The first pass: look at every row, refuse what must not be, keep what deciding needs."""
    declared = settings.classes
    number_of = {name: number for number, name in enumerate(declared or ())}
    if len(number_of) < len(declared or ()):
        raise UserError("dataset.classes: a name is there twice")
    split_number = {"train": TRAIN, "val": Role.VAL.value, "test": Role.TEST.value}
    ids, problems, unlabelled_tests = [], {}, 0
    rows, units, digests, twins = bytearray(), bytearray(), bytearray(), bytearray()
    labels, splits = array("i"), array("b")
    with ThreadPoolExecutor() as pool, progress("reading", None, "rows") as advance:
        for chunk in _chunks(family.rows(source)):
            ids.append(pa.array([row.id for row in chunk], pa.string()))
            found = pool.map(_problem, chunk) if family.KIND == "image" else map(_problem, chunk)
            for row, problem in zip(chunk, found, strict=True):
                if problem:
                    problems[len(labels)] = problem
                if row.split is not None and row.split not in SPLITS:
                    raise UserError(f"row {row.id}: no split is called {row.split!r}; write train, val or test")
                if row.label is not None and declared is not None and row.label not in number_of:
                    raise UserError(
                        f"row {row.id}: label {row.label!r} is not in dataset.classes: {', '.join(declared)}"
                    )
                split = FREE if row.split is None else split_number[SPLITS[row.split]]
                if row.label is None and split > TRAIN:
                    unlabelled_tests += 1
                    split = TRAIN
                digest = bytes(16) if problem else content_digest(row.content)
                rows += _hash(b"row", row.id)
                units += _hash(b"row", row.id) if row.group is None else _hash(b"group", row.group)
                digests += digest
                twins += _words(row.content, digest) if settings.deduplicate == "token_set" else digest
                labels.append(-1 if row.label is None else number_of.setdefault(row.label, len(number_of)))
                splits.append(split)
            advance(len(chunk))
    if not len(labels):
        raise UserError(f"dataset.source: {settings.source['family']} has no rows with these settings")
    classes, renumbered = list(number_of), np.arange(len(number_of))
    if declared is None:
        numbers = all(name.isdecimal() for name in number_of)
        classes.sort(key=lambda name: (int(name), name) if numbers else (0, name))
        renumbered = np.array([classes.index(name) for name in number_of], dtype=np.int64)
    notes = []
    if unlabelled_tests:
        notes.append(f"{unlabelled_tests:,} rows of val or test have no label: they are training rows without a label")
    table = _Table(
        pa.chunked_array(ids), np.frombuffer(rows, "<u8"), np.frombuffer(units, "<u8"),
        np.frombuffer(digests, np.uint8).reshape(-1, 16), np.frombuffer(twins, np.uint8).reshape(-1, 16),
        np.append(renumbered, -1)[np.frombuffer(labels, np.int32)], np.frombuffer(splits, np.int8).astype(np.int64),
        problems, classes, notes,
    )  # fmt: skip
    _refuse_repeated_ids(table)
    return table


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _problem(row: Row) -> str | None:
    """Why a row cannot be read, or None."""
    if isinstance(row.content, str):
        try:
            row.content.encode()
        except UnicodeEncodeError:
            return "not valid Unicode"
        return None if row.content.strip() else "empty text"
    try:
        with Image.open(io.BytesIO(row.content)) as image:
            # A JPEG at an eighth of its size: every byte is still decoded, but hardly a pixel computed.
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # decoders trip in many ways: OSError, SyntaxError, ValueError, struct.error ...
        return f"not an image: {' '.join(str(error).split())}"
    return None


def _hash(kind: bytes, name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8, person=kind).digest()


def _words(content: str | bytes, digest: bytes) -> bytes:
    """What twins in words share: the digest of a text's set of words, or of all of it where it has none."""
    words = sorted(set(re.findall(r"\w+", content.lower()))) if isinstance(content, str) else []
    return content_digest("\n".join(words)) if words else digest


def _refuse_repeated_ids(table: _Table) -> None:
    by_hash = np.argsort(table.rows, kind="stable")
    same = np.flatnonzero(table.rows[by_hash[1:]] == table.rows[by_hash[:-1]])
    if same.size:
        first, second = by_hash[same[0]], by_hash[same[0] + 1]
        raise UserError(f"dataset.source: rows {first + 1:,} and {second + 1:,} have one id, {table.ids[first]}")


def _fates(table: _Table, settings: PrepareSettings) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """What becomes of every row, and for a row dropped for another, the number of that one.

    Of twins one stays: a row of test before one of val, before another with a label, before the first. The rows that
    the source puts into test all stay, even where they are twins of one another, so that results on them can be
    compared with others'. Twins that contradict each other about the label all go, but for those of test.
    """
    fate = np.full(len(table.labels), KEPT)
    other = np.full(len(table.labels), -1)
    fate[list(table.problems)] = UNREADABLE
    readable = np.flatnonzero(fate == KEPT)
    if settings.deduplicate != "none" and readable.size:
        names = table.twins[readable].view("<u8")
        labels, splits = table.labels[readable], table.splits[readable]
        rank = np.select([splits == Role.TEST, splits == Role.VAL, labels >= 0], [0, 1, 2], 3)
        by_name = np.lexsort((rank, names[:, 1], names[:, 0]))
        names, labels, splits = names[by_name], labels[by_name], splits[by_name]
        starts = np.flatnonzero(np.append(True, (names[1:] != names[:-1]).any(1)))
        twins_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(names))))
        highest = np.maximum.reduceat(labels, starts)
        lowest = np.minimum.reduceat(np.where(labels < 0, highest[twins_of], labels), starts)
        disagree = (lowest < highest)[twins_of] & (splits[starts] != Role.TEST)[twins_of]
        first = np.zeros(len(names), dtype=bool)
        first[starts] = True
        what = np.select([splits == Role.TEST, disagree, ~first], [KEPT, CONFLICT, TWIN], KEPT)
        fate[readable[by_name]] = what
        partner = np.where(first, np.minimum(starts + 1, len(names) - 1)[twins_of], starts[twins_of])
        other[readable[by_name]] = np.where(what == KEPT, -1, readable[by_name][partner])
    held_out = np.isin(table.units, table.units[(fate == KEPT) & (table.splits > TRAIN)])
    fate[(fate == KEPT) & (table.labels < 0) & held_out] = SEPARATED
    kept = np.flatnonzero(fate == KEPT)
    if settings.limit is not None and settings.limit < len(kept):
        strata = (table.labels[kept] + 1) * 4 + table.splits[kept] + 1
        _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
        if settings.limit < len(counts):
            raise UserError(f"dataset.limit: {settings.limit} rows are too few for every class of every split")
        keys = order(table.rows[kept], settings.seed, "limit")
        fate[kept[~choose(allot(settings.limit, counts, counts), stratum, keys)]] = LIMIT
    return fate, other


def _tolerate(
    table: _Table, fate: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"], tolerance: float, out: Path
) -> None:
    """Refuse more unreadable rows than tolerated, after listing them beside `out`."""
    listed = out.with_name(f"{out.name}.{QUARANTINE}")
    listed.unlink(missing_ok=True)
    if len(table.problems) > tolerance * len(fate):
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_quarantine(listed, table, np.where(fate == UNREADABLE, fate, KEPT), other)
        row, problem = next(iter(table.problems.items()))
        raise UserError(
            f"{len(table.problems):,} of {len(fate):,} rows cannot be read, all in {listed}, the first is "
            f"{table.ids[row]} ({problem}); mend them, or raise dataset.tolerance from {tolerance:g}"
        )


def _roles(
    table: _Table, kept: Int64[np.ndarray, " m"], settings: PrepareSettings, draw: int
) -> UInt8[np.ndarray, " m"]:
    """The roles of the kept rows in one draw."""
    labels, splits, units = table.labels[kept], table.splits[kept], table.units[kept]
    fixed = np.isin([Role.VAL, Role.TEST], splits)
    if fixed.any():
        splits = np.maximum(splits, TRAIN)
        _refuse_torn_groups(table, kept, splits)
    roles = np.maximum(splits, TRAIN).astype(np.uint8)
    roles[(labels < 0)] = Role.UNLABELLED
    if not table.classes:
        return roles
    unit_keys = order(units, settings.seed, f"roles {draw}")
    row_keys = order(table.rows[kept], settings.seed, f"roles {draw}")
    # A group with a row that has no label is in train, because that row is.
    movable = (roles == TRAIN) & ~np.isin(units, units[roles == Role.UNLABELLED])
    if not fixed[1]:
        _draw(roles, Role.TEST, movable, settings.test, unit_keys, labels, table.classes, 1 if fixed[0] else 2)
    if not fixed[0]:
        _draw(roles, Role.VAL, movable & (roles == TRAIN), settings.val, unit_keys, labels, table.classes, 1)
    if settings.labelled is not None:
        train = roles == TRAIN
        roles[train] = Role.UNLABELLED
        _draw(roles, Role.LABELLED, train, settings.labelled, row_keys, labels, table.classes, 0)
    return roles


def _draw(
    roles: UInt8[np.ndarray, " m"],
    role: Role,
    among: Bool[np.ndarray, " m"],
    amount: int | float,
    keys: UInt64[np.ndarray, " m"],
    labels: Int64[np.ndarray, " m"],
    classes: list[str],
    leave: int,
) -> None:
    """Give `role` to a stratified sample of the rows `among`, and leave at least `leave` rows of every class."""
    name = f"dataset.{role.name.lower()}"
    rows = np.flatnonzero(among)
    counts = np.bincount(labels[rows], minlength=len(classes))
    if (scarce := np.flatnonzero(counts <= leave)).size:
        few = scarce[0]
        raise UserError(
            f"{name}: class {classes[few]!r} has {counts[few]} rows to choose from, too few to be in every split; "
            f"it needs {leave + 1}"
        )
    total = amount if isinstance(amount, int) else round(amount * len(rows))
    most = len(rows) - leave * len(classes)
    if not len(classes) <= total <= most:
        raise UserError(
            f"{name}: {amount} of {len(rows):,} rows is {total:,}, but it must be from {len(classes):,} to {most:,} "
            f"for every class to be in every split"
        )
    chosen = choose(allot(total, counts, counts - leave), labels[rows], keys[rows])
    roles[rows[chosen]] = role
    if (missing := np.flatnonzero(np.bincount(labels[rows[chosen]], minlength=len(classes)) == 0)).size:
        raise UserError(
            f"{name}: no group of class {classes[missing[0]]!r} is small enough for {total:,} rows; raise it"
        )


def _refuse_torn_groups(table: _Table, kept: Int64[np.ndarray, " m"], splits: Int64[np.ndarray, " m"]) -> None:
    by_unit = np.argsort(table.units[kept], kind="stable")
    units, splits = table.units[kept][by_unit], splits[by_unit]
    torn = np.flatnonzero((units[1:] == units[:-1]) & (splits[1:] != splits[:-1]))
    if torn.size:
        one, two = (str(table.ids[kept[by_unit[torn[0] + k]]]) for k in (0, 1))
        raise UserError(f"dataset.source: rows {one} and {two} are of one group, but the source splits them")


def _write_rows(
    folder: Path,
    family: ModuleType,
    source: Any,
    table: _Table,
    keep: Bool[np.ndarray, " n"],
    roles: UInt8[np.ndarray, "m splits"],
) -> str:
    """The second pass: write `content.arrow` and `rows.parquet`; returns the content digest."""
    text = family.KIND == "text"
    content_schema = pa.schema(
        {"id": pa.string(), "digest": pa.binary(16), "content": pa.large_string() if text else pa.large_binary()}
    )
    draws = {f"draw_{draw}": pa.uint8() for draw in range(roles.shape[1])}
    rows_schema = pa.schema({"id": pa.string(), "label": pa.int32(), "group": pa.string(), **draws})
    hasher = sha256()
    written = number = 0
    with (
        pa.ipc.new_file(folder / CONTENT, content_schema) as content_file,
        pq.ParquetWriter(folder / ROWS, rows_schema, compression="zstd") as rows_file,
        progress("writing", len(roles), "rows") as advance,
    ):

        def flush(batch: list[Row], numbers: list[int]) -> None:
            nonlocal written
            ids = [row.id for row in batch]
            digests = [table.digests[number].tobytes() for number in numbers]
            for id, digest in zip(ids, digests, strict=True):
                hasher.update(f"{len(id.encode())}:{id}".encode() + digest)
            content_file.write_batch(
                pa.record_batch([ids, digests, [row.content for row in batch]], schema=content_schema)
            )
            stop = written + len(batch)
            rows_file.write_batch(
                pa.record_batch(
                    [ids, table.labels[numbers].astype(np.int32), [row.group for row in batch], *roles[written:stop].T],
                    schema=rows_schema,
                )
            )
            written = stop
            advance(len(batch))

        batch: list[Row] = []
        numbers: list[int] = []
        size = 0
        for number, row in enumerate(family.rows(source)):
            if number >= len(keep) or _hash(b"row", row.id) != table.rows[number].tobytes():
                break
            if not keep[number]:
                continue
            if content_digest(row.content) != table.digests[number].tobytes():
                break
            batch.append(row)
            numbers.append(number)
            size += len(row.content)
            if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                flush(batch, numbers)
                batch, numbers, size = [], [], 0
        else:
            number += 1
        if number != len(keep):
            raise UserError("dataset.source: the data changed while it was being read; run `aft prepare` again")
        if batch:
            flush(batch, numbers)
    return hasher.hexdigest()[:32]


def _write_quarantine(path: Path, table: _Table, fate: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"]) -> None:
    """List the rows that are left out: number in the source from 1, id, and why."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["row", "id", "reason", "detail"])
        for number in np.flatnonzero(fate != KEPT):
            partner = "" if other[number] < 0 else f"twin {table.ids[other[number]]}"
            detail = table.problems.get(int(number), partner)
            lines.writerow([number + 1, table.ids[number], REASONS[fate[number]], detail])


def _per_class(labels: Int64[np.ndarray, " n"], classes: list[str]) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()


def _dropped(fate: Int64[np.ndarray, " n"]) -> dict[str, int]:
    return {name: int((fate == code).sum()) for code, name in REASONS.items()}
