"""Running a teacher over shards of a store, and writing them."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.extraction.clock import ModelClock, Waiting
from pipeline.extraction.loader import Batch, Loader, slices
from pipeline.extraction.replicas import Replicas
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.variety import Variety
from pipeline.machine import is_out_of_memory
from pipeline.provenance import OF_FEATURES, versions
from pipeline.sources import view_head
from pipeline.store import Dtype, Head, RowIndex, Shard, StoreWriter, Widened, differences, is_shared
from pipeline.teachers import Teacher
from pipeline.views import Views

LARGEST = {"float16": 65520.0, "bfloat16": (2 - 2**-8) * 2.0**127}
"""From here on, a number is rounded to infinity."""


@dataclass(frozen=True)
class Done:
    """What a worker has done since it last said so.

    Attributes:
        rows: that were computed.
        seconds: that it took.
        reading, writing: of these, seconds that it waited for rows, and for the disk.
        computing: seconds that the model took; on a GPU, it may compute while the worker waits for rows.
        missing: how many rows are missing now, where rows that were there have to be computed again.
        notes: for the user, a line each.
    """

    rows: int = 0
    seconds: float = 0.0
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    missing: int | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Growing:
    """The features of a shard while its batches are computed.

    Nothing waits for the device until the shard is done: batches go there asynchronously, results are put in their
    places there, and come back in one copy.

    Attributes:
        shard: whose rows they are of.
        heads: of the store, by name.
        names: by head of the store, the teacher's head.
        features: by head of the store, the values so far, on the device, in row order.
        highest: by head of the store with a narrow dtype, the largest size of a value, by row.
        left: how many rows are still to come.
    """

    shard: Shard
    heads: Mapping[str, Head]
    names: Mapping[str, str]
    features: dict[str, Tensor]
    highest: dict[str, Tensor]
    left: int

    def put(self, places: np.ndarray, outputs: Mapping[str, Tensor]) -> None:
        """Keep a teacher's outputs for the rows at some places of the shard; several threads may do so."""
        at = _to(next(iter(self.features.values())).device, torch.from_numpy(places))
        for name, head in self.heads.items():
            values = outputs[self.names[name]]
            kept = values if head.largest is None else _packed(values.float(), head.largest)
            self.features[name].index_copy_(0, at, kept.to(self.features[name].dtype))
            if name in self.highest:
                self.highest[name].index_copy_(0, at, values.reshape(len(values), -1).abs().amax(1).float())


Batched = tuple[Growing, int, tuple[str, ...]]
"""After a batch: the features of its shard so far, how many rows it had, and what the user should know."""


def recipe_of(teacher: Teacher, data: Dataset) -> dict[str, Any]:
    """The recipe of a teacher's features of a dataset: its own, and the side of pairs that it reads."""
    return {**teacher.recipe, **({"reads": data.side} if data.side else {})}


def stored_heads(teacher: Teacher, settings: ExtractSettings) -> dict[str, Head]:
    """How a teacher's heads are stored. One that keeps its largest values is never int8, whose scale is that of all."""
    found = {}
    for name, shape in teacher.heads.items():
        largest = teacher.largest.get(name)
        dtype: Dtype = "float16" if settings.dtype == "int8" and largest else settings.dtype
        found[name] = Head(shape, dtype, settings.codec, recipe=teacher.head_recipes.get(name), largest=largest)
    return found


class ShardWorker:
    """Runs a teacher over shards of a store and writes them. Between two calls it holds no claims on the store.

    A pickled copy loads the teacher and opens the same store in another process, on any machine that sees the data.

    A batch that does not fit the memory is computed in parts: of half the rows, or half of that, as they are in the
    batch, padding included. So a row has the same bits as in the whole batch, wherever the kernels of the model work
    row by row. Which batches are divided depends on the batch and the memory alone, and not on what was done before.

    Values too large for the dtype of their head have the store opened again with a wider one, by every process that
    writes it, and the head's shards computed again.

    Args:
        data, teacher, out, settings: as in `extract`.
        threads: that read ahead of the teacher.
        views: as in `extract`.
        load: loads the same teacher, for copies; None where the teacher itself can be pickled.
        asks: of a copy, what the original writes; None in the original.

    Raises:
        UserError: a copy would write other features.
    """

    writer: StoreWriter

    def __init__(
        self,
        data: Dataset,
        teacher: Teacher,
        out: Path | str,
        settings: ExtractSettings,
        threads: int | None = None,
        views: Views | None = None,
        load: Callable[[], Teacher] | None = None,
        asks: Mapping[str, Any] | None = None,
    ):
        self._arguments = (data, teacher, out, settings, threads, views)
        self.teacher = teacher
        self.load = load or partial(_itself, teacher)
        self._asked = stored_heads(teacher, settings)
        # By view, the heads of the store that hold its features, and the teacher's heads that they come from.
        self.heads_of = {0: {head: head for head in self._asked}}
        if views:
            for number in range(1, views.count + 1):
                names = {view_head(head, views.family, number): head for head in teacher.heads}
                record = views.record(number, data)
                self._asked |= {name: replace(self._asked[head], view=record) for name, head in names.items()}
                self.heads_of[number] = names
        if asks is not None and (other := ", ".join(differences(asks, self._asks()))):
            raise UserError(
                f"{out}: would write other features than the command that it works for ({other}); give all machines "
                "the same weights, data and versions"
            )
        self._open()
        self.loader = Loader(data, teacher, settings.batch_rows(teacher.device), threads, views)
        self.replicas = Replicas(teacher)
        self._too_large: set[tuple[int, int]] = set()

    def _open(self) -> None:
        data, teacher, out, settings, _, _ = self._arguments
        self.writer = StoreWriter.open(
            out,
            rows=RowIndex(data.ids, data.row_digests),
            dataset=data.digest,
            recipe=recipe_of(teacher, data),
            heads=self._asked,
            shard_rows=settings.shard_rows,
            created_by=versions(*OF_FEATURES),
        )
        self.variety = Variety(str(out))

    def __reduce__(self) -> tuple[Any, ...]:
        data, _, _, settings, threads, views = self._arguments
        # The store's own name: a folder may stand for a URL here, and not where the copy is.
        return _copy, (self.load, data, self.writer.path, settings, threads, views, self._asks(), self.writer.witness())

    def _asks(self) -> dict[str, Any]:
        """What features this worker would write, as JSON."""
        data, heads = self._arguments[0], {name: head.record() for name, head in self._asked.items()}
        asks = {"dataset": data.digest, "recipe": recipe_of(self.teacher, data), "heads": heads}
        found: dict[str, Any] = json.loads(json.dumps(asks))
        return found

    def __enter__(self) -> "ShardWorker":
        return self

    def __exit__(self, *error: Any) -> None:
        self.loader.__exit__(*error)
        self.writer.__exit__(*error)

    def __call__(self, shards: Iterable[int]) -> Iterator[Done]:
        """Compute shards that are missing; reports after every batch and every shard."""
        numbers = list(shards)
        self._lapped = perf_counter()
        self.resume()
        progressed = True
        # Another pass waits until all these shards are on the disk, and takes over those of a process that died.
        while progressed:
            try:
                progressed = yield from self._pass(numbers)
            except Widened:
                self._reopen()
                yield Done(missing=self.rows_missing(), notes=self.notes())
        self.writer.rest()

    def resume(self) -> None:
        """Claim the store again, after a call; its heads may have wider dtypes since."""
        try:
            self.writer.resume()
        except Widened:
            self._reopen()

    def _reopen(self) -> None:
        self.writer.__exit__(None, None, None)
        self._open()

    def notes(self) -> tuple[str, ...]:
        """What was found in the store, a line each."""
        heads = self.writer.layout.heads
        wider = [name for name in self._asked if heads[name].asked]
        return (
            *self.writer.notes,
            *(f"head `{name}` has values too large for {heads[name].asked}: {heads[name].dtype}" for name in wider),
        )

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

    def _pass(self, numbers: list[int]) -> Generator[Done, None, bool]:
        """Compute those of the shards that are missing; returns whether there were any.

        One view after the other, the clean rows first: so that a worker holds one view of a shard at a time. Where
        several batches are computed at once, a shard is begun while the one before it is finished.
        """
        progressed = False
        for view, names in self.heads_of.items():
            clock = ModelClock(self.teacher.device, self.replicas.at_once)
            waiting = Waiting(self._batches(self.writer.missing(numbers, self._heads(view)), view, names))
            with closing(self.replicas.map(partial(self._run, clock), waiting)) as computed:
                for growing, rows, notes in computed:
                    yield Done(rows, self._lap(), waiting.seconds(), clock.seconds(), notes=notes)
                    growing.left -= rows
                    if not growing.left:
                        yield from self._finish(growing, clock)
                        progressed = True
        return progressed

    def _batches(self, shards: Iterable[Shard], view: int, names: Mapping[str, str]) -> Iterator[tuple[Growing, Batch]]:
        """Batches of shards, each with the features of its shard so far."""
        for shard, batches in self.loader.shards(shards, view):
            growing = self._growing(shard, names)
            for batch in batches:
                yield growing, batch

    def _finish(self, growing: Growing, clock: ModelClock) -> Iterator[Done]:
        """Write a shard whose rows are all there.

        Raises:
            Widened: values are too large for the dtype of a head.
        """
        features = {name: _array(values.cpu()) for name, values in growing.features.items()}
        growing.features.clear()  # the next shard is to have their place on the device
        if wider := self._too_narrow({name: values.cpu().numpy() for name, values in growing.highest.items()}):
            yield Done(notes=tuple(note for _, note in wider.values()))
            self.writer.widen({name: dtype for name, (dtype, _) in wider.items()})
        yield Done(seconds=self._lap(), computing=clock.seconds(wait=True))
        began = perf_counter()
        self.variety.check(self.loader.data.row_digests[growing.shard.rows], features)
        self.writer.write(growing.shard, features)
        yield Done(seconds=self._lap(), writing=perf_counter() - began)

    def _lap(self) -> float:
        """Seconds since the last time."""
        before, self._lapped = self._lapped, perf_counter()
        return self._lapped - before

    def _growing(self, shard: Shard, names: Mapping[str, str]) -> Growing:
        """Room for the features of a shard.

        Args:
            shard: from the loader.
            names: by head of the store, the teacher's head.

        Raises:
            UserError: they do not fit the memory.
        """
        device, rows = self.teacher.device, len(shard.rows)
        heads = {name: self.writer.layout.heads[name] for name in names}
        try:
            features = {
                name: torch.empty((rows, *_arriving(head)), dtype=_torch_dtype(head), device=device)
                for name, head in heads.items()
            }
            highest = {name: torch.zeros(rows, device=device) for name, head in heads.items() if head.dtype in LARGEST}
        except Exception as error:
            if is_out_of_memory(error):
                raise UserError(
                    f"{self.writer.path}: the features of one shard, {count(rows, 'row')}, do not fit the memory; set "
                    "extract.shard_rows to fewer"
                ) from None
            raise
        return Growing(shard, heads, names, features, highest, rows)

    def _run(self, clock: ModelClock, teacher: Teacher, item: tuple[Growing, Batch]) -> Batched:
        growing, (places, batch) = item
        with clock.running():
            return growing, len(places), self._forward(teacher, growing, places, batch)

    def _forward(
        self, teacher: Teacher, growing: Growing, places: np.ndarray, batch: Mapping[str, Tensor]
    ) -> tuple[str, ...]:
        """Run the teacher on a batch and put its outputs into their places; in parts where it does not fit.

        Returns:
            What the user should know.

        Raises:
            UserError: a single row does not fit.
        """
        rows, numbers = len(places), max(tensor.numel() for tensor in batch.values()) // len(places)
        if not any(rows >= more and numbers >= longer for more, longer in self._too_large):
            try:
                growing.put(places, teacher.forward({key: _to(teacher.device, part) for key, part in batch.items()}))
                return ()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not in the handler: its traceback holds on to what the model had computed.
            self._too_large.add((rows, numbers))
            if teacher.device.type == "cuda":
                torch.cuda.empty_cache()
            notes: tuple[str, ...] = ()
            if rows > 1:
                of = f"{count(rows, 'row')} (of {count(numbers, 'number')})"
                notes = (f"a batch of {of} does not fit the memory: computed in parts",)
        else:
            notes = ()
        if rows == 1:
            row = self.loader.data.ids[growing.shard.rows[places[0]]]
            raise UserError(
                f"{self.loader.data.path}: row {row} does not fit the memory even alone; give the teacher a smaller "
                "size or max_length, or use another machine.device"
            )
        # Half a power of two, also of the last batch of a shard, so that parts are those of a smaller batch_size.
        part = 1 << ((rows - 1).bit_length() - 1)
        for at in slices(np.arange(rows), part):
            some = {key: tensor[at[0] : at[-1] + 1] for key, tensor in batch.items()}
            notes += self._forward(teacher, growing, places[at], some)
        return notes

    def _too_narrow(self, highest: Mapping[str, np.ndarray]) -> dict[str, tuple[Any, str]]:
        """The heads with finite values too large for their dtype: a wider one, and a line about it.

        Args:
            highest: by head, the largest size of a value, by row.
        """
        found: dict[str, tuple[Any, str]] = {}
        for name, sizes in highest.items():
            dtype = self.writer.layout.heads[name].dtype
            large = sizes[(sizes >= LARGEST[dtype]) & np.isfinite(sizes)]
            if not large.size:
                continue
            wider = "bfloat16" if large.max() < LARGEST["bfloat16"] else "float32"
            cost = "as many bytes and fewer digits" if wider == "bfloat16" else "twice the bytes"
            line = (
                f"head `{name}`: {large.size:,} of {count(sizes.size, 'row')} have values too large for {dtype}, up to "
                f"{_plain(float(large.max()))}; all rows are stored as {wider}, with {cost}"
            )
            found[name] = wider, line
        return found


def _itself(teacher: Teacher) -> Teacher:
    return teacher


def _copy(
    load: Callable[[], Teacher],
    data: Dataset,
    out: str,
    settings: ExtractSettings,
    threads: int | None,
    views: Views | None,
    asks: Mapping[str, Any],
    witness: str,
) -> ShardWorker:
    """A `ShardWorker` in another process than the one that it was pickled in.

    Raises:
        UserError: it would write other features, or elsewhere.
    """
    if not is_shared(out, witness):
        raise UserError(
            f"{out}: is not the store that the command writes, or its file system has no locks between machines; "
            "use a file system with locks that all machines share, or `features` in params.yaml on object storage"
        )
    return ShardWorker(data, load(), out, settings, threads, views, load, asks)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value < 1e12 else f"{value:.3g}"


def _torch_dtype(head: Head) -> torch.dtype:
    """What a head's values are rounded to on the device; int8 and largest values are made of float32 by the store."""
    return torch.float32 if head.dtype == "int8" or head.largest else getattr(torch, head.dtype)


def _arriving(head: Head) -> tuple[int, ...]:
    """The shape of a row as it goes to the store: of largest values, packed."""
    return head.shape if head.largest is None else (2 * head.largest + 1,)


def _packed(values: Float[Tensor, "n c"], largest: int) -> Float[Tensor, "n packed"]:
    """As `pipeline.store.largest.pack`, on the device."""
    kept, places = values.topk(largest, dim=1)
    rest = values.scatter(1, places, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([kept, rest, places.float()], 1)


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """On the device, without waiting: only from pinned memory does a copy run while the model does."""
    if device.type == "cpu":
        return tensor
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def _array(values: Tensor) -> np.ndarray:
    """numpy has no bfloat16: its bits go to the store as uint16."""
    return values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
