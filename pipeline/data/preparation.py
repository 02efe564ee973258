"""Prepare: one canonical local copy of a dataset, without duplicates, with the roles of all rows in every split.

Two passes over the source. The first, `pipeline.data.scan`, keeps some numbers per row, and all decisions are made on
them; the second, `pipeline.data.copying`, copies what is kept. So memory does not grow with the content, and `out` is
not touched before all checks have passed. What took longer than some seconds until a run was interrupted is left in
`.data.partial`, and not done again; see `pipeline.data.journal`.
"""

import csv
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from jaxtyping import Bool, Int8, Int64
from pydantic import BeforeValidator, Field

from pipeline import images
from pipeline.checksum import file_checksum
from pipeline.code import Code
from pipeline.data.copying import copy_rows
from pipeline.data.dataset import (
    CONTENT,
    FORMAT,
    MANIFEST,
    QUARANTINE,
    ROWS,
    Role,
    content_digest,
)
from pipeline.data.duplicates import CONFLICT, DUPLICATE, KEPT, merged, near_key, repeats, resolve, words_digest
from pipeline.data.journal import Journal
from pipeline.data.scan import Scan, scan
from pipeline.data.sources import Known, Sources, read_sources
from pipeline.data.splits import Amount, apportion, assign, choose, sort_keys
from pipeline.datasets import Kind, Row, SourceChanged, rows_called
from pipeline.errors import UserError, count
from pipeline.files import cell, explained
from pipeline.params import Settings
from pipeline.plugins import plugins
from pipeline.provenance import digest_of
from pipeline.records import ManifestRecord
from pipeline.tasks import is_number

KEYS = {"token_set": words_digest, "near": near_key}
"""By `dataset.deduplicate`, what makes the key that duplicates share; content_digest for the others."""

FOUND_BY = ("source", "unlabelled", "task", "classes", "no_label", "unit", "deduplicate", "content")
"""The settings that decide what a scan finds."""

UNREADABLE, SKIPPED, SEPARATED, LIMIT = 3, 4, 5, 6
REASONS = {
    UNREADABLE: "unreadable",
    SKIPPED: "skipped",
    DUPLICATE: "duplicate",
    CONFLICT: "label differs among duplicates",
    SEPARATED: "no label, and its group is in val or test",
    LIMIT: "over the limit",
}


def _rows_or_share(amount: Any) -> Any:
    rows = isinstance(amount, int) and not isinstance(amount, bool) and amount > 0
    if not rows and not (isinstance(amount, float) and 0 < amount < 1):
        raise ValueError("should be a number of rows from 1, or a share between 0 and 1")
    return amount


_Amount = Annotated[Amount, BeforeValidator(_rows_or_share)]


class PrepareSettings(Settings):
    """The section `dataset` of params.yaml.

    Attributes:
        source: a family of `pipeline/datasets/` and its settings.
        unlabelled: further sources, one or a list, of rows without labels: they are used for transfer only, and never
            in val or test. Labels that they have are not read; ids begin with `unlabelled:`. A row that is also in
            `source` is left out, for any `deduplicate`.
        task: what a label is: `classification`, `regression` or `multilabel`, or another file in `pipeline/tasks/`.
            None: found from the labels, unless they are numbers, which is refused.
        classes: the names of the classes, in order; None takes those that occur, sorted.
        no_label: labels that mean "no label", such as `[-1, "?"]`; `[]` if all are classes. None: all are classes, but
            one that may mean "no label" is refused.
        unit: the unit of labels that are numbers, such as `kWh`, for the report.
        deduplicate: which rows are duplicates, of which one is kept: `exact`, the same content; `token_set`, for text
            the same set of words in lower case (which includes the former), for images the same bytes; `near`, for
            images that look alike: photos at another size, quality or brightness.
        near_bits: the number of bits, of 64, by which the perceptual hashes of such images may differ. Drawings and
            digits on a plain background differ by few; 0 is the strictest.
        limit: keep only this many rows, a stratified subset.
        splits: number of independent splits.
        val, test: number of rows, or share of the rows to choose from, if the source does not fix them.
        labelled: number of training rows whose label may be used, or share of those that have one; None: all of them.
        content: `copy`, or `reference`: images stay where they are, in files, tar files or at URLs, and the dataset has
            the place and the digest of each. Stages read them there, and refuse those that have changed.
        tolerance: the share of rows that may be unreadable.
        seed: seed of everything random.
    """

    source: dict[str, Any]
    unlabelled: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=list)
    task: str | None = None
    classes: tuple[str, ...] | None = Field(default=None, strict=False)
    no_label: tuple[str | int | float, ...] | None = Field(default=None, strict=False)
    unit: str = ""
    deduplicate: Literal["none", "exact", "token_set", "near"] = "exact"
    near_bits: int = Field(default=4, ge=0, le=8)
    limit: int | None = Field(default=None, gt=0)
    splits: int = Field(default=1, gt=0, le=1000)
    val: _Amount = 0.1
    test: _Amount = 0.2
    labelled: _Amount | None = None
    content: Literal["copy", "reference"] = "copy"
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0


@dataclass(frozen=True)
class Preparation:
    """What `prepare` did.

    Attributes:
        path: the folder.
        kind: what its rows hold.
        rows: how many rows the dataset has.
        classes: names of the classes, if the task has any.
        dropped: how many rows of the source it does not have, by reason.
        roles: rows of each role in the first split.
        digest: names ids and content; feature stores are keyed on it.
        seconds: how long it took.
        notes: what the user should know of the data.
    """

    path: str
    kind: Kind
    rows: int
    classes: tuple[str, ...]
    dropped: dict[str, int]
    roles: dict[str, int]
    digest: str
    seconds: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        roles = ", ".join(f"{rows:,} {role}" for role, rows in self.roles.items() if rows)
        classes = f" of {count(len(self.classes), 'class')}" if self.classes else ""
        lines = [f"{self.path}: {self.rows:,} {rows_called(self.kind)}{classes}: {roles}"]
        if any(self.dropped.values()):
            seen = self.rows + sum(self.dropped.values())
            reasons = "".join(f" + {rows:,} {reason}" for reason, rows in self.dropped.items() if rows)
            lines.append(
                f"{count(seen, 'row')} seen = {self.rows:,} used{reasons} (listed in {self.path}/{QUARANTINE})"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def prepare(settings: PrepareSettings, out: str | Path) -> Preparation:
    """Write the dataset that `settings` describe to the folder `out`. The same settings and source give the same bytes.

    Raises:
        UserError: the source cannot be read; a row has a label or split that is not allowed; ids repeat; too many rows
            are unreadable; the sizes of the splits do not fit. What was in `out` before is then as it was.
    """
    out = Path(out)
    partial = out.with_name(f".{out.name}.partial")
    journal = _journal(partial, settings)
    try:
        return _prepare(settings, out, partial, journal)
    except SourceChanged:
        print("the source has changed since the run that was interrupted; all of it is read again", file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)
        journal = _journal(partial, settings)
        return _prepare(settings, out, partial, journal)
    finally:
        if not journal.begun:
            shutil.rmtree(partial, ignore_errors=True)


def _journal(partial: Path, settings: PrepareSettings) -> Journal:
    """What an interrupted run has found with settings and code that find the same."""
    found_by = settings.model_dump(mode="json", include=set(FOUND_BY))
    further = [settings.unlabelled] if isinstance(settings.unlabelled, dict) else settings.unlabelled
    families = sorted({str(source.get("family")) for source in (settings.source, *further)} & set(plugins("datasets")))
    code = Code().digest(__name__, *(f"pipeline.datasets.{family}" for family in families))
    digest = digest_of({"format": FORMAT, "settings": found_by, "code": code})
    journal = Journal(partial / "scan", digest, settings.deduplicate not in KEYS)
    if journal.begun:
        rows = count(len(journal.found), "row")
        print(f"{partial}: the first {rows} were looked at by a run that was interrupted", file=sys.stderr)
    else:
        shutil.rmtree(partial, ignore_errors=True)
    return journal


def _prepare(settings: PrepareSettings, out: Path, partial: Path, journal: Journal) -> Preparation:
    start = time.perf_counter()
    sources, table = scan_sources(settings, journal=journal)
    fate, partner = _fates(table, settings)
    if len(table.problems) > settings.tolerance * (len(fate) - len(table.skipped)):
        _refuse_unreadable(table, fate, out)
    kept = _rows_of(fate == KEPT)
    task, labels, known = table.task, table.labels[kept], table.codes[kept] >= 0
    rows = table.rows[kept]
    units = table.units[kept] if table.grouped else rows
    if known.any() or not labels.nbytes:  # labels of which there is no name at all
        task.check(labels)
    strata = task.strata(labels)
    try:
        splits = [
            assign(
                strata, table.splits[kept], rows, units, task.stratum,
                settings.val, settings.test, settings.labelled, settings.seed, split,
            )
            for split in range(settings.splits)
        ]  # fmt: skip
    except UserError as error:
        raise UserError(f"{error}{task.hint(labels)}") from None
    dropped = {reason: int((fate == code).sum()) for code, reason in REASONS.items()}
    notes = _notes(table, int(table.further[kept].sum()))

    try:
        partial.mkdir(parents=True, exist_ok=True)
        roles = np.stack(splits, axis=1)
        referring = out.parent if settings.content == "reference" else None
        digest = copy_rows(partial, sources, table, fate == KEPT, roles, referring, journal)
        _write_quarantine(partial / QUARANTINE, table, fate, partner)
        manifest = ManifestRecord(
            format=FORMAT,
            kind=sources.kind,
            rows=len(rows),
            digest=digest,
            task=task.name,
            outputs=task.outputs,
            unit=settings.unit,
            label_shape=labels.shape[1:],
            classes=task.classes,
            without_label=int((~known).sum()),
            splits=settings.splits,
            roles={role.name.lower(): role.value for role in Role},
            rows_of_class=[
                {role.name.lower(): task.class_rows(labels[split == role]).tolist() for role in Role}
                for split in splits
                if task.classes
            ],
            dropped=dropped,
            notes=notes,
            settings=settings.model_dump(mode="json"),
            files={name: file_checksum(partial / name) for name in (CONTENT, QUARANTINE, ROWS)},
        )
        manifest.write(partial / MANIFEST)
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        for name in (CONTENT, ROWS, QUARANTINE, MANIFEST):
            os.replace(partial / name, out / name)
        _listed(out).unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, out) from None
    shutil.rmtree(partial, ignore_errors=True)
    return Preparation(
        path=str(out),
        kind=sources.kind,
        rows=len(rows),
        classes=task.classes,
        dropped=dropped,
        roles={role.name.lower(): int((splits[0] == role).sum()) for role in Role},
        digest=digest,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
    )


def scan_sources(
    settings: PrepareSettings, watch: Callable[[Row], None] | None = None, journal: Journal | None = None
) -> tuple[Sources, Scan]:
    """The sources that `settings` describe, and what a pass over their rows finds.

    Args:
        settings: of the dataset.
        watch: is called with each row of the pass, if it is not None.
        journal: of an earlier pass, and to go on with.

    Raises:
        UserError: as `prepare`, before anything is decided.
    """
    sources = read_sources(settings.source, settings.unlabelled)
    if settings.deduplicate == "near" and sources.kind != "image":
        raise UserError(
            f"dataset.deduplicate: near compares images, and the source holds {rows_called(sources.kind)}; write exact "
            "or token_set"
        )
    if settings.content == "reference" and sources.kind != "image":
        raise UserError(
            f"dataset.content: reference is for images, and the source holds {rows_called(sources.kind)}; write copy"
        )
    given, key = settings.task or sources.task, KEYS.get(settings.deduplicate, content_digest)
    reading = sources.rows(journal.known() if journal else Known())
    watches: list[Callable[[Row], None]] = [_refuse_without_place] if settings.content == "reference" else []
    watches += [watch] if watch else []
    return sources, scan(reading, watches, given, settings.classes, settings.no_label, settings.unit, key, journal)


def _refuse_without_place(row: Row) -> None:
    if row.problem is None and row.location is None:
        raise UserError(
            f"dataset.content: reference needs images in files, in tar files without compression, or at URLs, and "
            f"{row.place} is in none; write copy"
        )


def _rows_of(chosen: Bool[np.ndarray, " n"]) -> slice | Int64[np.ndarray, " m"]:
    """Which rows are chosen, as an index; of all rows a slice, which copies nothing."""
    return slice(None) if chosen.all() else np.flatnonzero(chosen)


def _fates(table: Scan, settings: PrepareSettings) -> tuple[Int8[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """What becomes of every row: KEPT or a key of `REASONS`; and the duplicate for which it is dropped, or -1."""
    fate = np.full(len(table.codes), KEPT, np.int8)
    fate[list(table.problems)] = UNREADABLE
    fate[list(table.skipped)] = SKIPPED
    readable = _rows_of(fate == KEPT)
    keys = table.keys[readable]
    if settings.deduplicate == "none":
        fate[readable], other = repeats(keys, table.further[readable])
    else:
        keys = merged(keys, settings.near_bits) if settings.deduplicate == "near" else keys
        fate[readable], other = resolve(keys, table.codes[readable], table.splits[readable])
    partner = other
    if not isinstance(readable, slice):
        partner = np.full(len(fate), -1)
        partner[readable] = np.where(other < 0, -1, readable[other])
    if table.grouped:
        held_out = table.units[(fate == KEPT) & (table.splits > Role.LABELLED)]
        fate[(fate == KEPT) & (table.codes < 0) & np.isin(table.units, held_out)] = SEPARATED
    kept = np.flatnonzero(fate == KEPT)
    if settings.limit is not None and settings.limit < len(kept):
        kinds = np.stack([table.task.strata(table.labels[kept]), table.splits[kept]])
        _, stratum, counts = np.unique(kinds, axis=1, return_inverse=True, return_counts=True)
        if settings.limit < len(counts):
            noun = table.task.stratum(0).partition(" ")[0]
            raise UserError(
                f"dataset.limit: {count(settings.limit, 'row')} for every {noun} in every part are too few; raise "
                f"it to {len(counts)} or more"
            )
        order = sort_keys(table.rows[kept], settings.seed, "limit")
        fate[kept[~choose(apportion(settings.limit, counts, counts), stratum, order)]] = LIMIT
    return fate, partner


def _refuse_unreadable(table: Scan, fate: Int8[np.ndarray, " n"], out: Path) -> NoReturn:
    row, problem = next(iter(table.problems.items()))
    rows = count(len(fate) - len(table.skipped), "row")
    message = (
        f"dataset.source: {len(table.problems):,} of {rows} cannot be read, the first is {table.place(row)}: {problem}"
        "; correct them, or raise dataset.tolerance"
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_quarantine(
            _listed(out), table, np.where(fate == UNREADABLE, fate, np.int8(KEPT)), np.full(len(fate), -1)
        )
    except OSError as error:
        raise UserError(f"{message} (no list of them: {_listed(out)} cannot be written: {error.strerror})") from None
    raise UserError(f"{message} (all are listed in {_listed(out)})")


def _listed(out: Path) -> Path:
    """Where unreadable rows are listed if there are too many, since `out` stays as it was."""
    return out.with_name(f"{out.name}.{QUARANTINE}")


def _notes(table: Scan, kept: int) -> list[str]:
    notes = []
    if table.further.any():
        notes.append(f"of dataset.unlabelled: {count(table.further.sum(), 'row')} seen, {kept:,} used")
    if table.moved:
        notes.append(f"{count(table.moved, 'row')} of val or test without a label: for training, as rows without one")
    if (table.codes < 0).all():
        notes.append("no row has a label; features can be extracted, but nothing can be trained")
    elif table.task.name == "multilabel":
        unknown = (table.codes < 0) & ~table.further
        unknown[[*table.problems, *table.skipped]] = False
        if number := int(unknown.sum()):
            notes.append(
                f"{count(number, 'row')} with an empty label, used without labels; a row that has none of them is "
                "`[]` in JSON or Parquet, or 0 in every column of labels"
            )
    alike: dict[str | float, str] = {}
    for name in table.task.classes:
        other = alike.setdefault(_look(name), name)
        if other != name:
            notes.append(f"classes {other!a} and {name!a} look alike; if they are one, correct the labels")
    for remark in (*images.REMARKS, *sorted(table.remarks.keys() - images.REMARKS.keys())):
        if remark in table.remarks:
            number, first = table.remarks[remark]
            noun = "image" if remark in images.REMARKS else "row"
            words = images.REMARKS.get(remark, remark)
            notes.append(f"{count(number, noun)}: {words} (the first is {table.place(first)})")
    return notes


def _look(name: str) -> str | float:
    """What is left of a name without case, spaces and characters that do not show; of a number, its value."""
    if is_number(name):
        return float(name)
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isprintable()).strip()


def _write_quarantine(path: Path, table: Scan, fate: Int8[np.ndarray, " n"], partner: Int64[np.ndarray, " n"]) -> None:
    """List the rows that are left out: their number in the source from 1, line, id, reason, details."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["row", "line", "id", "reason", "detail"])
        for row in np.flatnonzero(fate != KEPT).tolist():
            other = "" if partner[row] < 0 else f"see {table.ids[partner[row]]}"
            line = ":".join(str(part) for part in (table.file(row), table.lines[row]) if part)
            detail = table.problems.get(row) or table.skipped.get(row) or other
            found = [row + 1, line, table.ids[row], REASONS[int(fate[row])], detail]
            lines.writerow([cell(value) for value in found])
