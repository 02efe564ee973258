"""Stage one: run a frozen teacher over a dataset once, and keep its outputs in a feature store."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.data import Dataset
from pipeline.datasets import rows_called
from pipeline.engines import engine
from pipeline.errors import UserError, listed
from pipeline.extraction.variety import Variety
from pipeline.machine import Machine
from pipeline.params import Settings
from pipeline.progress import duration, progress
from pipeline.provenance import versions
from pipeline.sources import view_head
from pipeline.store import Head, RowIndex, Shard, StoreWriter
from pipeline.teachers import Precision, Teacher
from pipeline.views import Views

T = TypeVar("T")

FLOAT16 = 65520.0
"""From here on, a number is rounded to infinity in float16."""

CHUNK = 1024
"""Rows whose lengths are found by one task, where rows are sorted by length."""


class ExtractSettings(Settings):
    """The section `extract` of params.yaml.

    Attributes:
        precision: what the teacher computes in. bfloat16 is fast where the processor has it, and part of the recipe.
        dtype: what is stored; int8 with a scale for each row (of tokens, for each token).
        codec: raw, so that rows are read straight from the file; zstd; or auto, which is zstd where that halves them.
        batch_size: rows in a batch; 32 on a CPU and 256 on a GPU if None.
        shard_rows: rows a shard; chosen by the store if None.
    """

    precision: Precision = "float32"
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    codec: Literal["raw", "zstd", "auto"] = "raw"
    batch_size: int | None = Field(default=None, ge=1)
    shard_rows: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes:
        path: the store.
        rows: how many rows it holds, each view counted.
        written: rows that the teacher was run on now.
        reused: rows that were there already.
        seconds: from opening the store to its last byte on disk.
        rows_per_second: of the rows written now; 0 if there were none.
        notes: what was found in the store, a line each.
    """

    path: Path
    rows: int
    written: int
    reused: int
    seconds: float
    rows_per_second: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        if not self.written:
            return f"{self.path}: complete, all {self.rows:,} rows were there"
        reused = f", {self.reused:,} were there" if self.reused else ""
        return (
            f"{self.path}: {self.rows:,} rows; {self.written:,} extracted in {duration(self.seconds)}"
            f" ({self.rows_per_second:,.0f} rows/s){reused}"
        )


def extract(
    data: Dataset,
    teacher: Teacher,
    out: Path,
    settings: ExtractSettings,
    machine: Machine = Machine(),
    name: str = "features",
    say: Callable[[str], None] = lambda line: None,
    done: Callable[[int, int], None] = lambda written, reused: None,
    views: Views | None = None,
) -> Extraction:
    """Run `teacher` over all rows of `data` and write the store `out`, or what is missing of it.

    Rows are computed shard by shard. Which rows share a batch depends on their shard alone, so a store that was
    interrupted and continued has the same bits as one that was not (on the same hardware, with the same settings).

    Args:
        data: the dataset.
        teacher: a loaded teacher, on its device.
        out: the store, new or there already.
        settings: `precision` is used where the teacher is loaded; the rest is used here.
        machine: its `workers` are the threads that read and preprocess ahead of the model; by default one per core, at
            most 16.
        name: what to call the work in the progress line.
        say: takes a line about what was found in the store, and one about the work to do, before it begins.
        done: takes, after every shard, how many rows were computed so far, and how many were there already.
        views: views of the rows whose features to keep alongside those of the clean rows. Every view counts as a row.

    Raises:
        UserError: the teacher reads another kind of rows, a row cannot be read (the line names its id), the features
            are not finite or too large for `dtype`, or equal for most rows, or memory or disk are full. Finished shards
            are kept.
    """
    if teacher.kind not in (data.kind, "id"):
        raise UserError(
            f"{name}: this teacher reads {teacher.kind} rows, and the dataset {data.path} holds {data.kind}"
        )
    if views:
        views.check(data.kind, f"{name}: views")
        if teacher.kind == "id":
            raise UserError(f"{name}: a teacher that knows ids alone sees no views of rows; remove `views`")
    if teacher.kind == "id":
        _check_ids(data, teacher, name)
    began = perf_counter()
    written, everything = 0, len(data) * (1 + (views.count if views else 0))
    with ShardWorker(data, teacher, out, settings, machine.workers, views) as worker:
        writer = worker.writer
        for note in (*teacher.notes, *writer.notes):
            say(f"{name}: {note}")
        missing = worker.rows_missing()
        if missing:
            amount = f"{missing:,} {rows_called(data.kind)}"
            if views:
                amount += f" ({len(data):,} rows, {views} of each)"
            say(
                f"{name}: {amount}, {teacher.recipe['precision']} on {teacher.device}, by {worker.loader.batch_size}; "
                f"{worker.size()}"
            )
        with progress(name, everything, rows_called(data.kind), everything - missing) as advance:
            for rows in engine(machine.engine)(partial(_same, worker), range(writer.layout.shards)):
                advance(rows)
                written += rows
                done(written, everything - missing)
        if left := worker.rows_missing():
            raise UserError(f"{out}: {left:,} rows are still missing; run it again")
    seconds = perf_counter() - began
    return Extraction(
        path=out,
        rows=everything,
        written=written,
        reused=everything - written,
        seconds=seconds,
        rows_per_second=written / seconds,
        notes=tuple(writer.notes),
    )


def _check_ids(data: Dataset, teacher: Teacher, name: str) -> None:
    """Make sure that a teacher knows every id, before the first shard. Raises `UserError` if not."""
    lacking, why = [], ""
    for id in data.ids.tolist():
        try:
            teacher.transform(id)
        except ValueError as error:
            lacking.append(id)
            why = why or str(error)
    if lacking:
        some = listed(lacking[:5]) + (" ..." if len(lacking) > 5 else "")
        raise UserError(f"{name}: {len(lacking):,} of {len(data):,} rows have no features: {some}; {why}")


def recipe_of(teacher: Teacher, data: Dataset) -> dict[str, Any]:
    """The recipe of a teacher's features of a dataset: its own, and the side of pairs that it reads."""
    return {**teacher.recipe, **({"reads": data.side} if data.side else {})}


class ShardWorker:
    """Runs a teacher over shards of a store and writes them. A pickled copy opens the same store in another process.

    Args:
        data, teacher, out, settings: as in `extract`.
        threads: that read ahead of the teacher.
        views: as in `extract`.
    """

    def __init__(
        self,
        data: Dataset,
        teacher: Teacher,
        out: Path,
        settings: ExtractSettings,
        threads: int | None = None,
        views: Views | None = None,
    ):
        self._arguments = (data, teacher, out, settings, threads, views)
        self.teacher = teacher
        heads = {head: Head(shape, settings.dtype, settings.codec) for head, shape in teacher.heads.items()}
        # By view, the heads of the store that hold its features, and the teacher's heads that they come from.
        self.heads_of = {0: {head: head for head in heads}}
        if views:
            for number in range(1, views.count + 1):
                names = {view_head(head, views.family, number): head for head in teacher.heads}
                record = views.record(number, data)
                heads |= {name: replace(heads[head], view=record) for name, head in names.items()}
                self.heads_of[number] = names
        self.dtype: torch.dtype = torch.float32 if settings.dtype == "int8" else getattr(torch, settings.dtype)
        self.writer = StoreWriter.open(
            out,
            rows=RowIndex(data.ids, data.row_digests),
            dataset=data.digest,
            recipe=recipe_of(teacher, data),
            heads=heads,
            shard_rows=settings.shard_rows,
            created_by=versions("aft-pipeline", "torch", "timm", "transformers", "tokenizers", "pillow", "numpy"),
        )
        batch_size = settings.batch_size or (256 if teacher.device.type == "cuda" else 32)
        self.loader = Loader(data, teacher, batch_size, threads, views)
        self.variety = Variety(str(out))

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardWorker, self._arguments

    def __enter__(self) -> "ShardWorker":
        return self

    def __exit__(self, *error: Any) -> None:
        self.loader.__exit__(*error)
        self.writer.__exit__(*error)

    def __call__(self, shards: Iterable[int]) -> Iterator[int]:
        """Compute shards that are missing; yields rows that are computed, batch by batch.

        One view after the other, the clean rows first: so that a worker holds one view of a shard at a time.
        """
        numbers = list(shards)
        progressed = True
        # The second pass waits until all these shards are on the disk, and takes over those of a process that died.
        while progressed:
            progressed = False
            for view, names in self.heads_of.items():
                for shard, batches in self.loader.shards(self.writer.missing(numbers, self._heads(view)), view):
                    features = yield from _run(self.teacher, batches, len(shard.rows), self.dtype)
                    named = {name: features[head] for name, head in names.items()}
                    self.variety.check(self.loader.data.row_digests[shard.rows], named)
                    self.writer.write(shard, named)
                    progressed = True

    def rows_missing(self) -> int:
        """How many rows are still to compute, by any process, each view counted."""
        return sum(self.writer.rows_missing(self._heads(view)) for view in self.heads_of)

    def size(self) -> str:
        """What the store takes on the disk, uncompressed, and how much of it each head of a row."""
        heads = self.writer.layout.heads
        total = sum(head.row_bytes for head in heads.values()) * len(self.loader.data)
        size = f"{total / 1e9:,.1f} GB" if total >= 1e9 else f"{total / 1e6:,.1f} MB"
        return f"{size} ({', '.join(f'{head} {heads[head].row_bytes:,} B a row' for head in self.teacher.heads)})"

    def _heads(self, view: int) -> set[str]:
        """The heads of the store that are written with a view: with the clean rows, also those kept from before."""
        if view:
            return set(self.heads_of[view])
        return set(self.writer.heads) - {name for number, names in self.heads_of.items() if number for name in names}


def _same(worker: ShardWorker) -> ShardWorker:
    """The worker itself: in the process that made it no other is needed, and a pickled copy is a new one."""
    return worker


Batch = tuple[np.ndarray, Mapping[str, Tensor]]
"""Places of rows among those of their shard, and the rows as the teacher's `forward` takes them."""


class Loader:
    """Reads, preprocesses and batches rows in threads, ahead of the model.

    Rows of uneven length are sorted by it within their shard, so that little of a batch is padding; the longest come
    first, so that a batch too large for the memory fails at once.
    """

    def __init__(
        self,
        data: Dataset,
        teacher: Teacher,
        batch_size: int,
        workers: int | None = None,
        views: Views | None = None,
    ):
        self.data = data
        self.teacher = teacher
        self.views = views
        self.batch_size = batch_size
        self.workers = workers or min(16, torch.get_num_threads())
        self.on_gpu = teacher.device.type == "cuda"
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="aft-read")
        # Sorted batches have a thread of their own: in the pool they would queue behind the reading of the next shard.
        self.batcher = self.pool if teacher.uniform else ThreadPoolExecutor(1, thread_name_prefix="aft-batch")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.batcher.shutdown(cancel_futures=True)
        self.pool.shutdown(cancel_futures=True)

    def shards(self, shards: Iterable[Shard], view: int = 0) -> Iterator[tuple[Shard, Iterator[Batch]]]:
        """Each shard with its batches, which must be used up before the next shard is asked for.

        Shards are taken from the iterable only a little before their turn, because taking one claims it.

        Args:
            shards: of the store.
            view: the number of the view of their rows.
        """
        tasks = self._in_order(shards, view) if self.teacher.uniform else self._by_cost(shards, view)
        for _, group in groupby(self._ahead(tasks), key=lambda item: item[0].index):
            first = next(group)
            yield first[0], ((places, batch) for _, places, batch in chain([first], group))

    def _in_order(self, shards: Iterable[Shard], view: int) -> Iterator[tuple[Shard, np.ndarray, Callable[[], Any]]]:
        for shard in shards:
            for places in _slices(np.arange(len(shard.rows)), self.batch_size):
                yield shard, places, partial(self._load, shard.rows[places], view)

    def _by_cost(self, shards: Iterable[Shard], view: int) -> Iterator[tuple[Shard, np.ndarray, Callable[[], Any]]]:
        def reading() -> Iterator[tuple[Shard, list[Future[list[Any]]]]]:
            for shard in shards:
                yield shard, [self.pool.submit(self._read, rows, view) for rows in _slices(shard.rows, CHUNK)]

        for shard, chunks in _one_ahead(reading()):
            examples = [example for chunk in chunks for example in chunk.result()]
            costs = np.array([self.teacher.cost(example) for example in examples])
            for places in _slices(np.argsort(-costs, kind="stable"), self.batch_size):
                yield shard, places, partial(self._collate, [examples[place] for place in places])

    def _ahead(
        self, tasks: Iterable[tuple[Shard, np.ndarray, Callable[[], Any]]]
    ) -> Iterator[tuple[Shard, np.ndarray, Mapping[str, Tensor]]]:
        """Batches in order, while the next few are under way."""
        pending: deque[tuple[Shard, np.ndarray, Future[Any]]] = deque()
        for shard, places, task in tasks:
            pending.append((shard, places, self.batcher.submit(task)))
            if len(pending) > self.workers + 1:
                shard, places, batch = pending.popleft()
                yield shard, places, batch.result()
        for shard, places, batch in pending:
            yield shard, places, batch.result()

    def _read(self, rows: np.ndarray, view: int) -> list[Any]:
        examples = []
        by_id = self.teacher.kind == "id"
        contents: Iterable[Any] = rows if view else self.data.ids[rows].tolist() if by_id else self.data.content(rows)
        for row, content in zip(rows, contents, strict=True):
            try:
                seen = self.views.content(self.data, int(row), view) if self.views and view else content
                examples.append(self.teacher.transform(seen))
            except ValueError as error:
                which = f"view {view} of row" if view else "row"
                raise UserError(f"{self.data.path}: {which} {self.data.ids[row]} cannot be read: {error}") from None
        return examples

    def _collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        batch = self.teacher.collate(examples)
        return {key: tensor.pin_memory() for key, tensor in batch.items()} if self.on_gpu else batch

    def _load(self, rows: np.ndarray, view: int) -> Mapping[str, Tensor]:
        return self._collate(self._read(rows, view))


def _run(
    teacher: Teacher, batches: Iterator[Batch], rows: int, dtype: torch.dtype
) -> Generator[int, None, dict[str, np.ndarray]]:
    """All heads of one shard, in row order; yields the rows of every batch.

    Nothing waits for the device until the shard is done: batches go there asynchronously, results are put in their
    places there, and come back in one copy.
    """
    device = teacher.device
    features = {head: torch.empty((rows, *shape), dtype=dtype, device=device) for head, shape in teacher.heads.items()}
    highest = {head: torch.zeros(rows, device=device) for head in teacher.heads if dtype == torch.float16}
    try:
        for places, batch in batches:
            at = _to(device, torch.from_numpy(places))
            for head, values in teacher.forward({key: _to(device, tensor) for key, tensor in batch.items()}).items():
                features[head].index_copy_(0, at, values.to(dtype))
                if head in highest:
                    highest[head].index_copy_(0, at, values.flatten(1).abs().amax(1).float())
            yield len(places)
        for head, values in highest.items():
            _check_range(head, values.cpu().numpy())
        return {head: _array(values.cpu()) for head, values in features.items()}
    except torch.OutOfMemoryError:
        raise UserError("the GPU has too little memory for this batch; lower extract.batch_size") from None


def _check_range(head: str, highest: np.ndarray) -> None:
    """Refuse rows whose values are finite and too large for float16, which would store them as infinite.

    Args:
        head: its name.
        highest: the largest size of a value, by row.
    """
    large = highest[(highest >= FLOAT16) & np.isfinite(highest)]
    if large.size:
        raise UserError(
            f"head `{head}`: {len(large):,} of {len(highest):,} rows have values too large for float16, up to "
            f"{large.max():,.0f}; set extract.dtype to bfloat16 or float32, or leave this head out"
        )


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """On the device, without waiting: only from pinned memory does a copy run while the model does."""
    if device.type == "cpu":
        return tensor
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def _array(values: Tensor) -> np.ndarray:
    """numpy has no bfloat16: its bits go to the store as uint16."""
    return values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()


def _slices(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each after its successor was asked for."""
    ahead = list(islice(items, 1))
    for item in items:
        yield ahead.pop()
        ahead.append(item)
    yield from ahead
