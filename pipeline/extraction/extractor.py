"""Stage one: run a frozen teacher over a dataset once, and keep its outputs in a feature store."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from pipeline.data import Dataset
from pipeline.datasets import rows_called
from pipeline.engines import engine
from pipeline.errors import UserError, count, listed
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.speed import Speed
from pipeline.extraction.worker import ShardWorker
from pipeline.machine import Machine
from pipeline.progress import duration, progress
from pipeline.teachers import Teacher
from pipeline.views import Views


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
            return f"{self.path}: complete, nothing to do for {count(self.rows, 'row')}"
        reused = f", {self.reused:,} were there" if self.reused else ""
        return (
            f"{self.path}: {count(self.rows, 'row')}; {self.written:,} extracted in {duration(self.seconds)}"
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
    load: Callable[[], Teacher] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Extraction:
    """Run `teacher` over all rows of `data` and write the store `out`, or what is missing of it.

    Rows are computed shard by shard. Which rows share a batch depends on their shard alone, and whether a batch is
    computed in parts on its size and the memory, so a store that was interrupted and continued has the same bits as one
    that was not (on the same hardware, with the same settings).

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
        load: loads the same teacher in another process, where `machine.engine` needs it; None where it can be pickled.
        rank, world: of several such calls at once, the number of this one from 0, and how many there are. Each begins
            with its own part of the shards, and goes on with what the others have left.

    Raises:
        UserError: the teacher reads another kind of rows, a row cannot be read or does not fit the memory (the line
            names its id), the features are not finite, or equal for most rows, or the disk is full. Finished shards are
            kept.
    """
    if teacher.kind not in (data.kind, "id"):
        raise UserError(
            f"{name}: this teacher reads {teacher.kind} rows, and the dataset {data.path} holds {data.kind}"
        )
    if views:
        # Of the whole row: a side of pairs has no views, because the students of pairs see none.
        views.check(data.manifest.kind, f"{name}: views")
        if teacher.kind == "id":
            raise UserError(f"{name}: a teacher that knows ids alone sees no views of rows; remove `views`")
    if teacher.kind == "id":
        _check_ids(data, teacher, name)
    began = perf_counter()
    everything = len(data) * (1 + (views.count if views else 0))
    # On other machines, `workers` are processes; each reads with as many threads as it has cores.
    here = machine.engine == "local"
    threads, workers = (machine.workers, 1) if here else (None, machine.workers)
    with ShardWorker(data, teacher, out, settings, threads, views, load) as worker:
        for note in (*teacher.notes, *worker.notes()):
            say(f"{name}: {note}")
        missing = worker.rows_missing()
        if missing:
            amount = f"{missing:,} {rows_called(data.kind)}"
            if views:
                amount += f" ({count(len(data), 'row')}, {views} of each)"
            say(
                f"{name}: {amount}, {teacher.recipe['precision']} on {teacher.device}, by {worker.loader.batch_size}; "
                f"{worker.size()}"
            )
        written, there, speed = 0, everything - missing, Speed()
        shards = worker.writer.layout.shards
        first = rank * shards // world
        worker.writer.rest()
        # As many threads as here, because another number may round differently.
        spread = machine.model_copy(update={"threads": torch.get_num_threads()})
        order, make = [*range(first, shards), *range(first)], partial(_same, worker)
        steps = engine(machine.engine)(make, order, workers, spread, lambda line: say(f"{name}: {line}"))
        with progress(name, everything, rows_called(data.kind), there) as advance, closing(steps):
            for step in steps:
                for note in step.notes:
                    say(f"{name}: {note}")
                before = there + written
                if step.missing is None:
                    written += step.rows
                else:
                    written, there = 0, everything - step.missing
                speed.add(step)
                if there + written != before:
                    advance(there + written - before, str(speed))
                done(written, there)
        worker.resume()
        if left := worker.rows_missing():
            raise UserError(f"{out}: {count(left, 'row')} still missing; run it again")
    seconds = perf_counter() - began
    return Extraction(
        path=out,
        rows=everything,
        written=written,
        reused=everything - written,
        seconds=seconds,
        rows_per_second=written / seconds,
        notes=worker.notes(),
    )


def _check_ids(data: Dataset, teacher: Teacher, name: str) -> None:
    """Make sure that a teacher knows every id, before the first shard. Raises `UserError` if not."""
    lacking, some, why = 0, [], ""
    for id in data.ids:
        try:
            teacher.transform(id)
        except ValueError as error:
            lacking += 1
            if lacking <= 5:
                some.append(id)
            why = why or str(error)
    if lacking:
        shown = listed(some) + (" ..." if lacking > 5 else "")
        raise UserError(f"{name}: {lacking:,} of {count(len(data), 'row')} have no features: {shown}; {why}")


def _same(worker: ShardWorker) -> ShardWorker:
    """The worker itself: in the process that made it no other is needed, and a pickled copy is a new one."""
    return worker
