"""A dataset of Hugging Face: a folder that `save_to_disk` wrote, or one by name, which needs the package `datasets`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.datasets import Kind, Row, split_of
from pipeline.datasets._arrow import arrow, arrow_rows
from pipeline.datasets._columns import Columns, SecondColumn, examples
from pipeline.datasets._images import image_content
from pipeline.datasets._rows import TableRow, Wanted, check
from pipeline.datasets._texts import paired, text_content
from pipeline.errors import UserError, listed
from pipeline.files import file_exists, read_regular, refuse_url
from pipeline.params import Settings as Section

KIND = None

BATCH = 1024

RECORD_BYTES = 64 << 20
"""The most bytes of a record of `save_to_disk`."""


class SavedOrNamed(Section):
    """Which dataset.

    Attributes:
        path: a folder that `save_to_disk` wrote; or
        name: the name of a dataset on the hub, such as `stanfordnlp/imdb`, or anything else that `load_dataset` takes;
            or several names, whose splits differ.
        config: which of its configurations.
        revision: a commit, tag or branch of its repository.
        splits: which of its splits to read and what each is used for, such as `{train: train, validation_matched:
            val}`. None: all, by their names; a single split is divided.
    """

    path: str | None = None
    name: str | list[str] | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[str, Literal["train", "val", "test"]] | None = None


class Settings(Columns, SecondColumn, SavedOrNamed):
    """Keys of a dataset of Hugging Face.

    Attributes:
        text_column: the column of texts; or
        template: makes one text from several columns, such as `"{premise} Question: {hypothesis}"`; or
        image_column: the column of images.
    """

    text_column: str | None = None
    template: str | None = None
    image_column: str | None = None

    @property
    def kind(self) -> Kind:
        """What the rows hold."""
        return self.paired("image" if self.image_column else "text")


Table = tuple[pa.Schema, Iterable[pa.RecordBatch]]


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of all splits, one split after the other."""
    named = [column for column in (settings.text_column, settings.template, settings.image_column) if column]
    if len(named) != 1:
        raise UserError("dataset.source: write one of text_column, template and image_column")
    if (settings.path is None) == (settings.name is None):
        raise UserError("dataset.source: write either path, a folder of `save_to_disk`, or name")
    if settings.image_column:
        first = image_content(settings.image_column, Path(settings.path or "."))
    else:
        first = text_content(settings.text_column or "", settings.template)
    columns, content = paired(first, settings.second_column)
    there = _loaded(settings) if settings.path is None else _saved(Path(settings.path))
    splits = _splits(list(there), settings)

    def records(wanted: Wanted) -> Iterator[TableRow]:
        for split in splits:
            schema, batches = there[split]
            check(f"split {split}", wanted.columns, schema.names)
            yield from arrow_rows((schema, (batch.select(list(wanted.columns)) for batch in batches)), split, wanted)

    for row in examples(settings, records, columns, content, several_files=True):
        assert row.file is not None
        yield replace(row, split=row.split or splits[row.file], file=f"split {row.file}")


def _splits(there: list[str], settings: Settings) -> dict[str, str | None]:
    """What each split that is read is used for; None if it is divided."""
    if settings.splits is not None:
        for name in settings.splits:
            if name not in there:
                raise UserError(f"dataset.source.splits: no split {name!r}; there are {listed(there)}")
        return dict(settings.splits)
    if len(there) == 1:
        return {there[0]: None}
    unknown = [name for name in there if split_of(name) is None]
    if unknown:
        guess = ", ".join(f"{name}: {split_of(name) or 'train'}" for name in there)
        raise UserError(
            f"dataset.source.splits: the use of split {unknown[0]!r} is not known; write the splits to read, such "
            f"as {{{guess}}}"
        )
    return {name: split_of(name) for name in there}


def _saved(folder: Path) -> dict[str, Table]:
    """The splits of a folder that `save_to_disk` wrote; a dataset without splits is one split, `all`."""
    if not folder.is_dir():
        refuse_url(folder)
        raise UserError(f"{folder}: no such folder; check dataset.source.path")
    index = folder / "dataset_dict.json"
    if not file_exists(index):
        return {"all": _shards(folder)}
    return {name: _shards(folder / _inside(name, index)) for name in _json(index, "splits")}


def _shards(folder: Path) -> Table:
    state = folder / "state.json"
    names = [shard.get("filename") if isinstance(shard, dict) else None for shard in _json(state, "_data_files")]
    if not names:
        raise UserError(f"{folder}: it has no data files; save it again with `save_to_disk`")
    tables = [arrow(folder / _inside(name, state)) for name in names]
    return tables[0][0], chain.from_iterable(batches for _, batches in tables)


def _json(path: Path, key: str) -> list[Any]:
    try:
        found = json.loads(read_regular(path, RECORD_BYTES).decode("utf-8"))[key]
        if not isinstance(found, list):
            raise TypeError
        return found
    except FileNotFoundError:
        raise UserError(f"{path.parent}: not a folder of `save_to_disk`: no {path.name}; see dataset.source") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path) from None


def _inside(name: Any, record: Path) -> str:
    """The name of a file or folder next to the record that names it. Raises `UserError` if it leads elsewhere."""
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name or not name.isprintable():
        raise _damaged(record)
    return name


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged; save the dataset again with `save_to_disk`")


def _loaded(settings: Settings) -> dict[str, Table]:
    """The splits of a dataset by name, or of several."""
    found: dict[str, Table] = {}
    for name in [settings.name] if isinstance(settings.name, str) else settings.name or []:
        splits = _named(name, settings)
        if twice := found.keys() & splits.keys():
            raise UserError(f"dataset.source: {name} has the split {min(twice)!r}, as one before it; name one of them")
        found |= splits
    return found


def _named(name: str, settings: Settings) -> dict[str, Table]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "dataset.source: the package datasets, which loads by name, is not installed; run pip install "
            "'aft-pipeline[huggingface]'"
        ) from None
    try:
        found = datasets.load_dataset(name, settings.config, revision=settings.revision)
    except Exception as error:  # builders of datasets fail in many ways
        what = " ".join(str(error).split())[:300]
        raise UserError(
            f"dataset.source: {name} cannot be loaded: {what}; check name, config and revision, and whether "
            "the machine may reach the hub"
        ) from None

    def batches(split: Any) -> Iterator[pa.RecordBatch]:
        for table in split.with_format("arrow").iter(BATCH):
            yield from table.to_batches()

    return {name: (split.features.arrow_schema, batches(split)) for name, split in found.items()}
