"""The first pass over a source: look at every row, refuse what is not allowed, and keep what decisions need.

Some 60 bytes per row stay in memory, and each distinct label, but no content.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int8, Int32, Int64, UInt8, UInt64

from pipeline import images, tasks
from pipeline.data.dataset import Role, content_digest
from pipeline.data.journal import Journal, ScanState
from pipeline.data.sources import Reading
from pipeline.data.splits import FREE
from pipeline.datasets import Row, RowContent, place, split_of
from pipeline.errors import UserError
from pipeline.files import is_utf8
from pipeline.progress import progress
from pipeline.tasks import LabelError, Task

CHUNK = 1024
LIKE_NONE = {
    "-1",
    "-1.0",
    "?",
    "-",
    "nan",
    "none",
    "null",
    "na",
    "n/a",
    "<na>",
    "#n/a",
    "\\n",
    "unlabeled",
    "unlabelled",
}
"""What programs write, in lower case, where a row has no label."""
WITH_NAMES = ("classification", "multilabel")
"""Tasks whose labels are names, which such texts may also be."""
ROLES = {"train": Role.LABELLED, "val": Role.VAL, "test": Role.TEST}


@dataclass(frozen=True)
class Scan:
    """What is known of n rows, in the order of the source.

    Attributes:
        ids: row ids.
        lines: where rows begin in the source's file, from 1; 0 where the source has no lines.
        files: the files of a source of several, each with the number of its first row.
        rows: 64-bit hashes of the ids.
        units: 64-bit hashes of what is never separated: the row's group, or the row itself. Without groups, `rows`.
        digests: content digests; zeros where the content cannot be read.
        keys: equal for rows that are duplicates of one another.
        labels: as the task has them, its `missing` for none.
        codes: equal for equal labels, -1 for none.
        further: which rows are of further sources, without labels.
        splits: the role that the source fixes, LABELLED standing for train, or `splits.FREE`. A source that fixes any
            leaves none free, and a row without a label is in train.
        problems: by row number, why the content cannot be read.
        skipped: by row number, what a row is if it is not an example.
        remarks: what people should know of rows: how many it holds for, and the first of them.
        task: with the names of its outputs.
        moved: how many rows without a label the source had in val or test.
    """

    ids: pa.ChunkedArray
    lines: Int64[np.ndarray, " n"]
    files: dict[str, int]
    rows: UInt64[np.ndarray, " n"]
    units: UInt64[np.ndarray, " n"]
    digests: UInt8[np.ndarray, "n 16"]
    keys: UInt8[np.ndarray, "n 16"]
    labels: np.ndarray
    codes: Int32[np.ndarray, " n"]
    further: Bool[np.ndarray, " n"]
    splits: Int8[np.ndarray, " n"]
    problems: dict[int, str]
    skipped: dict[int, str]
    remarks: dict[str, tuple[int, int]]
    task: Task
    moved: int

    @property
    def grouped(self) -> bool:
        """Whether any row has a group."""
        return self.units is not self.rows

    def place(self, row: int | np.int64) -> str:
        """How messages name a row."""
        return place(self.ids[row].as_py(), int(self.lines[row]), self.file(int(row)))

    def file(self, row: int) -> str | None:
        """The file of a row; None if the source is not a table of several files."""
        return _file(self.files, row)


def scan(
    reading: Reading,
    watches: Sequence[Callable[[Row], None]],
    task: str | None,
    names: tuple[str, ...] | None,
    no_label: Sequence[str | int | float] | None,
    unit: str,
    key: Callable[[RowContent], bytes],
    journal: Journal | None = None,
) -> Scan:
    """Look at every row.

    Args:
        reading: gives the rows, without those that the journal knows.
        watches: are called with each of them.
        task: its name; None: the labels show it.
        names: of the task's outputs, as the user wants them; see `pipeline.tasks.encode`.
        no_label: labels that mean that there is none; None: the user has not said.
        unit: of the labels; empty if they have none.
        key: makes the 16 bytes that duplicates share of a row's content.
        journal: knows what was found before, and keeps the rest; None: nothing is known or kept.

    Raises:
        UserError: there are no rows; a label or split that is not allowed; an id twice; a divided group.
    """
    names = names and tuple(map(tidy, names))
    if task is not None:  # what is wrong with it, the names or the unit shows before anything is read
        tasks.build(task, tasks.encode(task, [], names)[1], unit)
    nothing = {_normal(label) for label in no_label or ()}
    found = journal.found if journal else ScanState(key is content_digest)
    look = partial(_look, key=key)
    with ThreadPoolExecutor() as pool, progress("look at the data", None, "rows") as advance:
        advance(len(found))
        for chunk in _chunks(reading):
            for watch in watches:
                for row in chunk:
                    watch(row)
            found.ids.append(pa.array([row.id for row in chunk], pa.string()))
            looked_at = map(look, chunk) if isinstance(chunk[0].content, str) else pool.map(look, chunk)
            looked = zip(chunk, looked_at, strict=True)
            for number, (row, (problem, remarked, key_of_row)) in enumerate(looked, len(found)):
                if problem:
                    (found.skipped if row.skipped else found.problems)[number] = problem
                if row.file is not None:
                    found.files.setdefault(row.file, number)
                for remark in (*remarked, *row.remarks):
                    before, first = found.remarks.get(remark, (0, number))
                    found.remarks[remark] = (before + 1, first)
                label = _known(row, nothing) if nothing else row.label
                if label is not None and label not in found.labels:
                    if no_label is None and found.doubt is None:
                        found.doubt = _doubt(row, names)
                    if task is not None:
                        _check_label(row, task, names, found.doubt)
                split = _split(row)
                if label is None and split > Role.LABELLED:
                    split, found.moved = Role.LABELLED, found.moved + 1
                exact = key is content_digest or problem is not None
                digest = key_of_row if exact else content_digest(row.content)
                hashed = row_hash(row.id)
                if row.group is not None and not found.grouped:
                    found.units = found.rows.copy()
                found.rows += hashed
                if found.units is not found.rows:
                    found.units += hashed if row.group is None else _hash(b"group", row.group)
                found.digests += digest
                if found.keys is not found.digests:
                    found.keys += key_of_row
                found.codes.append(-1 if label is None else found.labels.setdefault(label, len(found.labels)))
                found.splits.append(split)
                found.lines.append(row.line or 0)
                found.further.append(row.further)
            groups = [row.group for row in chunk]
            found.groups.append(pa.array(groups, pa.string()) if any(groups) else pa.nulls(len(groups)))
            if journal and reading.divides and journal.due():
                journal.write(reading.positions)
            advance(len(chunk))
    if journal and reading.divides and (journal.begun or journal.due()):
        journal.write(reading.positions)
    return _scanned(found, task, names, unit)


def _scanned(found: ScanState, task: str | None, names: tuple[str, ...] | None, unit: str) -> Scan:
    """What the rows together show."""
    if len(found) == len(found.skipped):
        raise UserError("dataset.source: it has no rows with these settings")
    ids = pa.chunked_array(found.ids)
    try:
        task = task or tasks.find(list(found.labels), names)
        if found.doubt and task in WITH_NAMES:
            raise UserError(found.doubt)
        values, outputs = tasks.encode(task, list(found.labels), names)
    except LabelError as error:
        first = found.codes.index(found.labels[error.label])
        at = place(ids[first].as_py(), found.lines[first], _file(found.files, first))
        raise UserError(f"{at}: {error}") from None
    built = tasks.build(task, outputs, unit)
    labels, equal = _labels(np.frombuffer(found.codes, np.int32), values, built)
    fixed = np.frombuffer(found.splits, np.int8)
    by_hash = np.frombuffer(found.rows, "<u8")
    table = Scan(
        ids=ids,
        lines=np.frombuffer(found.lines, np.int64),
        files=found.files,
        rows=by_hash,
        units=np.frombuffer(found.units, "<u8") if found.grouped else by_hash,
        digests=np.frombuffer(found.digests, np.uint8).reshape(-1, 16),
        keys=np.frombuffer(found.keys, np.uint8).reshape(-1, 16),
        labels=labels,
        codes=equal,
        further=np.frombuffer(found.further, np.bool_),
        splits=np.maximum(fixed, np.int8(Role.LABELLED)) if fixed.max() > Role.LABELLED else fixed,
        problems=found.problems,
        skipped=found.skipped,
        remarks=found.remarks,
        task=built,
        moved=found.moved,
    )
    _refuse_repeated_ids(table)
    _refuse_divided_groups(table)
    return table


def _file(files: Mapping[str, int], row: int) -> str | None:
    """The last file whose first row is not behind this one."""
    return max(((first, name) for name, first in files.items() if first <= row), default=(0, None))[1]


def _known(row: Row, nothing: set[str | float | None]) -> tasks.Label | None:
    """A row's label; None if it is one of `nothing`, which `_normal` gave.

    Raises:
        UserError: it is several, one of which means that there is none.
    """
    if not isinstance(row.label, tuple) or len(row.label) == 1:
        return None if _normal(row.label) in nothing else row.label
    if mixed := [name for name in row.label if _normal(name) in nothing]:
        raise UserError(
            f"{row.place}: the label {mixed[0]!r}, which dataset.no_label says is none, is there with others; "
            "correct it"
        )
    return row.label


def _doubt(row: Row, names: tuple[str, ...] | None) -> str | None:
    """What to ask about a label that looks like none; None if it does not, or is the name of a class."""
    label = _sole(row.label)
    if label is None or label in (names or ()) or label.lower() not in LIKE_NONE:
        return None
    return (
        f"{row.place}: the label {label!r} looks like none; write dataset.no_label: [{label!r}] if such rows "
        "have no label, or [] if it is a class"
    )


def _sole(label: tasks.Label | None) -> str | None:
    """The text of a label, or of the only one that a row has."""
    if isinstance(label, tuple):
        return label[0] if len(label) == 1 else None
    return label


def _normal(label: tasks.Label | int | float | None) -> str | float | None:
    """A label as `dataset.no_label` is compared with it: numbers by their value, whatever their notation."""
    one = _sole(label) if isinstance(label, tuple) else label
    if one is None:
        return None
    try:
        return number if isfinite(number := float(one)) else str(one).lower()
    except ValueError:
        return str(one)


def _check_label(row: Row, task: str, names: tuple[str, ...] | None, doubt: str | None) -> None:
    """Make sure that the task can read a row's label, before a long pass ends with it."""
    assert row.label is not None
    if doubt and task in WITH_NAMES:
        raise UserError(doubt)
    try:
        tasks.encode(task, [row.label], names)
    except LabelError as error:
        raise UserError(f"{row.place}: {error}") from None


def _labels(codes: np.ndarray, values: np.ndarray, task: Task) -> tuple[np.ndarray, Int32[np.ndarray, " n"]]:
    """Labels of all rows, from numbers of distinct labels and the value of each; and codes that equal labels share."""
    # A code of -1 stands for the last one.
    none: np.ndarray[Any, Any] = np.full((1, *values.shape[1:]), task.missing, task.dtype)
    # Two texts may be one label, such as 1 and 1.0.
    same = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1) if len(values) else np.zeros(0, np.int64)
    return np.concatenate([values.astype(task.dtype), none])[codes], np.append(same, -1).astype(np.int32)[codes]


def tidied(row: Row) -> Row:
    """A row with its label and group as `tidy` has them.

    Raises:
        UserError: its id, label or group cannot be written in UTF-8.
    """
    labels = (row.label,) if isinstance(row.label, str) else row.label or ()
    names = (("id", row.id), ("group", row.group or ""), *(("label", name) for name in labels))
    for what, name in names:
        if not name.isascii() and not is_utf8(name):
            raise UserError(
                f"{place(ascii(row.id), row.line, row.file)}: its {what} {name!a} holds half a character, as left "
                "by programs that cut texts; correct it"
            )
    label = tidy(row.label) or None if isinstance(row.label, str) else row.label and tuple(map(tidy, row.label))
    group = tidy(row.group) or None if row.group else None
    return row if (label, group) == (row.label, row.group) else replace(row, label=label, group=group)


def tidy(name: str) -> str:
    """A name without space around it, in Unicode's composed form: what looks the same is the same."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).strip()


def row_hash(id: str) -> bytes:
    """8 bytes that stand for a row's id."""
    return _hash(b"row", id)


def _hash(kind: bytes, name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8, person=kind).digest()


def _chunks(reading: Reading) -> Iterator[list[Row]]:
    """The rows in pieces of at most `CHUNK`."""
    chunk: list[Row] = []
    for row in map(tidied, reading):
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _look(row: Row, key: Callable[[RowContent], bytes]) -> tuple[str | None, set[str], bytes]:
    """Why a row cannot be used, or None; the remarks on an image that can; and its key, zeros if it cannot."""
    problem, remarks = row.problem, set[str]()
    for part in row.content if isinstance(row.content, tuple) else (row.content,):
        if problem is None and isinstance(part, bytes):
            try:
                remarks |= images.remarks(part)
            except ValueError as error:
                problem = str(error)
        elif problem is None and isinstance(part, str):
            problem = _text_problem(part)
    return problem, remarks, bytes(16) if problem else key(row.content)


def _text_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not valid Unicode"
    if "\0" in text:
        return "NUL characters in the text; is its encoding right?"
    if "\x1b$" in text or "\x1b(" in text:
        return "escape sequences as of ISO-2022; set dataset.source.encoding, such as iso2022_jp"
    return None if text.strip() else "empty text"


def _split(row: Row) -> int:
    if row.split is None:
        return FREE
    if (split := split_of(row.split)) is None:
        raise UserError(f"{row.place}: no split is called {row.split!r}; write train, val or test")
    return ROLES[split]


def _refuse_repeated_ids(table: Scan) -> None:
    hashes = np.sort(table.rows)
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    if same.size:
        first, second = np.flatnonzero(table.rows == hashes[same[0]])[:2]
        one, other = (_number(table, int(row)) for row in (first, second))
        raise UserError(f"dataset.source: {one} and {other} have the same id, {table.ids[first]}; ids must be unique")


def _number(table: Scan, row: int) -> str:
    line, file = table.lines[row], table.file(row)
    return (f"line {line}" if line else f"row {row + 1:,}") + (f" of {file}" if file and line else "")


def _refuse_divided_groups(table: Scan) -> None:
    """Rows with a label that are in one group must be in one split, if the source has splits."""
    if not table.grouped:
        return
    rows = np.flatnonzero(table.codes >= 0)
    rows = rows[np.argsort(table.units[rows], kind="stable")]
    divided = (np.diff(table.units[rows]) == 0) & (np.diff(np.maximum(table.splits[rows], Role.LABELLED)) != 0)
    if divided.any():
        one, other = rows[np.argmax(divided)], rows[np.argmax(divided) + 1]
        raise UserError(
            f"dataset.source: {table.place(one)} and {table.place(other)} are of one group, but in different splits; "
            f"put the group into one"
        )
