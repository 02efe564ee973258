"""Stage one: run a frozen teacher over a dataset once, and keep what it says in a feature store."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import Settings
from pipeline.prepared import Prepared
from pipeline.progress import duration, progress
from pipeline.provenance import versions
from pipeline.store import Head, RowIndex, StoreWriter
from pipeline.teachers import Precision, Teacher

T = TypeVar("T")

CHUNK = 1024
"""Rows whose lengths are found by one task, where rows are sorted by length."""


class ExtractSettings(Settings):
    """The section `extract` of params.yaml.

    Attributes:
        precision: what the teacher computes in. bfloat16 is fast where the processor has it, and part of the recipe.
        dtype: what is stored.
        batch_size: rows in a batch; 32 on a CPU and 256 on a GPU if None.
        device: `auto` is the GPU if there is one.
        workers: threads that read and preprocess ahead of the model; one per core, at most 16, if None.
        shard_rows: rows a shard; chosen by the store if None.
    """

    precision: Precision = "float32"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    batch_size: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(default=None, ge=1)
    shard_rows: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes:
        path: the store.
        rows: how many rows it holds.
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


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises `UserError` if a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but torch finds no GPU here; set it to cpu or auto")
    return torch.device("cuda" if torch.cuda.is_available() and name != "cpu" else "cpu")


def extract(
    data: Prepared,
    teacher: Teacher,
    out: Path,
    settings: ExtractSettings,
    name: str = "features",
    say: Callable[[str], None] = lambda line: None,
) -> Extraction:
    """Run `teacher` over all rows of `data` and write the store `out`, or what is missing of it.

    Rows are computed shard by shard. Which rows share a batch hangs on their shard alone, so a store that was
    interrupted and continued has the same bits as one that was not (on the same hardware, with the same settings).

    Args:
        data: the dataset.
        teacher: a loaded teacher, on the device that it shall use.
        out: the store, new or there already.
        settings: `precision` and `device` were the loader's business; the rest is used here.
        name: what to call the work in the progress line.
        say: takes a line about what was found in the store, before work begins.

    Raises:
        UserError: the teacher reads another kind of rows, a row cannot be read (the line names its id), the features
            are not finite or too large for `dtype`, or memory or disk are full. Finished shards are kept.
    """
    if teacher.kind != data.kind:
        raise UserError(
            f"{name}: this teacher reads {teacher.kind} rows, and the dataset {data.path} holds {data.kind}"
        )
    began = perf_counter()
    on_gpu = teacher.device.type == "cuda"
    batch_size = settings.batch_size or (256 if on_gpu else 32)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    writer = StoreWriter.open(
        out,
        rows=RowIndex(data.ids, data.row_digests),
        dataset=data.digest,
        recipe=teacher.recipe,
        heads={head: Head(shape=shape, dtype=settings.dtype) for head, shape in teacher.heads.items()},
        shard_rows=settings.shard_rows,
        created_by=versions("aft-pipeline", "torch", "timm", "transformers", "tokenizers", "pillow", "numpy"),
    )
    with writer:
        for note in writer.notes:
            say(note)
        shards = list(writer.missing())
        ranges = [range(shard.start, shard.stop) for shard in shards]
        missing = sum(map(len, ranges))
        loader = Loader(data, teacher, batch_size, settings.workers)
        with loader, progress(name, len(data), f"{data.kind}s", len(data) - missing) as advance:
            for shard, batches in zip(shards, loader.shards(ranges), strict=True):
                started = perf_counter()
                said = _run(teacher, batches, shard.stop - shard.start, dtype, advance)
                writer.write(shard, said, seconds=perf_counter() - started)
    seconds = perf_counter() - began
    return Extraction(
        path=out,
        rows=len(data),
        written=missing,
        reused=len(data) - missing,
        seconds=seconds,
        rows_per_second=missing / seconds,
        notes=tuple(writer.notes),
    )


Batch = tuple[np.ndarray, Mapping[str, Tensor]]
"""Places of rows in their shard, and the rows as the teacher's `forward` takes them."""


class Loader:
    """Reads, preprocesses and batches rows in threads, ahead of the model.

    Rows of uneven length are sorted by it within their shard, so that little of a batch is padding; the longest come
    first, so that a batch too large for the memory fails at once.
    """

    def __init__(self, data: Prepared, teacher: Teacher, batch_size: int, workers: int | None = None):
        self.data = data
        self.teacher = teacher
        self.batch_size = batch_size
        self.workers = workers or min(16, torch.get_num_threads())
        self.pin = teacher.device.type == "cuda"
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="aft-load")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def shards(self, shards: Sequence[range]) -> Iterator[Iterator[Batch]]:
        """For each range of rows, its batches. Each must be used up before the next is asked for."""
        return self._even(shards) if self.teacher.uniform else self._sorted(shards)

    def _even(self, shards: Sequence[range]) -> Iterator[Iterator[Batch]]:
        tasks = (partial(self._load, rows) for shard in shards for rows in _slices(shard, self.batch_size))
        loaded = self._ahead(tasks, self.workers + 2)
        for shard in shards:
            places = _slices(range(len(shard)), self.batch_size)
            yield ((np.array(place), next(loaded)) for place in places)

    def _sorted(self, shards: Sequence[range]) -> Iterator[Iterator[Batch]]:
        tasks = (partial(self._read, rows) for shard in shards for rows in _slices(shard, CHUNK))
        read = self._ahead(tasks, 64)
        for shard in shards:
            chunks = islice(read, len(_slices(shard, CHUNK)))
            examples = [example for chunk in chunks for example in chunk]
            costs = np.array([self.teacher.cost(example) for example in examples])
            order = np.argsort(-costs, kind="stable")
            places = [order[at.start : at.stop] for at in _slices(range(len(order)), self.batch_size)]
            collated = self._ahead((partial(self._collate, [examples[row] for row in place]) for place in places), 8)
            yield zip(places, collated, strict=True)

    def _read(self, rows: range) -> list[Any]:
        examples = []
        for row, content in zip(rows, self.data.content(np.array(rows)), strict=True):
            try:
                examples.append(self.teacher.transform(content))
            except ValueError as error:
                raise UserError(f"{self.data.path}: row {self.data.ids[row]} cannot be read: {error}") from None
        return examples

    def _collate(self, examples: Sequence[Any]) -> Mapping[str, Tensor]:
        batch = self.teacher.collate(examples)
        return {key: tensor.pin_memory() for key, tensor in batch.items()} if self.pin else batch

    def _load(self, rows: range) -> Mapping[str, Tensor]:
        return self._collate(self._read(rows))

    def _ahead(self, tasks: Iterable[Callable[[], T]], window: int) -> Iterator[T]:
        """Results in order, while the next `window` tasks are under way."""
        pending: deque[Future[T]] = deque()
        for task in tasks:
            pending.append(self.pool.submit(task))
            if len(pending) > window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _run(
    teacher: Teacher, batches: Iterator[Batch], rows: int, dtype: torch.dtype, advance: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """All heads of one shard, in row order.

    Nothing waits for the device until the shard is done: batches go there asynchronously, results are put in their
    places there, and come back in one copy.
    """
    device = teacher.device
    said = {head: torch.empty((rows, *shape), dtype=dtype, device=device) for head, shape in teacher.heads.items()}
    try:
        for places, batch in batches:
            at = torch.from_numpy(places).to(device, non_blocking=True)
            for head, values in teacher.forward(
                {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()}
            ).items():
                said[head][at] = values.to(dtype)
            advance(len(places))
        return {head: _array(values.cpu()) for head, values in said.items()}
    except torch.OutOfMemoryError:
        raise UserError("the GPU has too little memory for this batch; lower extract.batch_size") from None


def _array(values: Tensor) -> np.ndarray:
    """numpy has no bfloat16: its bits go to the store as uint16."""
    return values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()


def _slices(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
