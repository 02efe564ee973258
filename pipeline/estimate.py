"""What an extraction costs: `aft extract NAME --dry-run` measures a few batches, of which nothing is kept."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from pipeline.checks import missing_views, size
from pipeline.data import Dataset
from pipeline.errors import UserError, count
from pipeline.extraction import (
    MODEL_BOUND,
    Batch,
    ExtractSettings,
    Loader,
    Replicas,
    load_teacher,
    place_of_features,
    stored_heads,
)
from pipeline.machine import Machine, is_out_of_memory
from pipeline.params import Params
from pipeline.progress import duration
from pipeline.project import Project
from pipeline.runs import read_run, run_views
from pipeline.store import Shard
from pipeline.teachers import Teacher
from pipeline.training import TrainSettings, train_settings
from pipeline.views import teacher_views

SECONDS = 12.0
"""For the measurements of the model, about."""

BATCHES = 8
"""That are measured at most."""

WRITTEN = 64 << 20
"""Bytes that the disk is measured with at most, in a file without a name."""


@dataclass(frozen=True)
class Work:
    """Rows to compute, by one or several processes of one speed.

    Attributes:
        rows: each view counted.
        rows_per_second: of one process.
        row_bytes: of a row's features, by head.
        processes: that work at the same time.
    """

    rows: int
    rows_per_second: float
    row_bytes: dict[str, int]
    processes: int = 1

    @property
    def seconds(self) -> float:
        """Until all rows are computed; reading and writing are part of the speed."""
        return self.rows / self.rows_per_second / self.processes

    @property
    def bytes(self) -> int:
        """Of the store, uncompressed."""
        return self.rows * sum(self.row_bytes.values())


@dataclass(frozen=True)
class Estimate:
    """What an extraction would cost.

    Attributes:
        teacher: its name in params.yaml.
        device, precision: where and in what it would be computed.
        batch_size: rows in a batch; fewer than were asked for if these do not fit the memory.
        rows: to compute, each view counted.
        rows_per_second: from reading to writing.
        bare: rows per second of the model alone, on batches that are in memory.
        reading: rows per second of reading and preprocessing alone.
        writing: rows per second that the disk takes; None if it cannot be written, or the store is not on it.
        share: of the bare rate.
        bottleneck: what takes the time; see `_Rates.bottleneck`.
        seconds: for all rows.
        bytes: of the store, for the rows to compute, uncompressed.
        row_bytes: by head.
        url: where stores go on object storage; None if the store is on a disk.
        free: bytes on that disk.
        run: a run that reads the teacher, if there is one.
        rows_of_training: rows that the teacher would compute for one training of that run, if it ran alongside.
        students: from how many trainings on the store costs less time than running the teacher in each.
    """

    teacher: str
    device: str
    precision: str
    batch_size: int
    rows: int
    rows_per_second: float
    bare: float
    reading: float
    writing: float | None
    share: float
    bottleneck: str
    seconds: float
    bytes: int
    row_bytes: dict[str, int]
    url: str | None
    free: int | None
    run: str | None
    rows_of_training: int
    students: int

    def __str__(self) -> str:
        heads = ", ".join(f"{head} {number:,} B a row" for head, number in self.row_bytes.items())
        disk = "the disk cannot be written" if self.writing is None else f"the disk takes {self.writing:,.0f} rows/s"
        if self.url:
            disk = "writing to object storage is not measured"
        place = f"the store goes to {self.url}" if self.free is None else f"{size(self.free)} are free"
        train = f"a training of run {self.run}" if self.run else "a training with the section train"
        online = duration(self.rows_of_training / self.bare)
        lines = [
            f"{self.teacher}: {count(self.rows, 'row')} to compute, {self.precision} on {self.device}, by "
            f"{self.batch_size}",
            f"speed: {self.rows_per_second:,.0f} rows/s, {self.share:.0%} of the bare model ({self.bare:,.0f} rows/s); "
            f"held up by {self.bottleneck} (reading alone gives {self.reading:,.0f} rows/s, {disk})",
            f"time: {duration(self.seconds)}",
            f"size: {size(self.bytes)} ({heads}); {place}",
            f"students: {train} would have the teacher compute {count(self.rows_of_training, 'row')}, {online} each "
            f"time; the store pays from {'the first' if self.students == 1 else f'{self.students:,}'} on",
        ]
        if self.free is not None and self.bytes > self.free:
            lines.append("warning: the store does not fit on the disk; free some space, or keep fewer heads or views")
        return "\n".join(lines)


def estimate(name: str, params: Params, project: Project = Project()) -> Estimate:
    """Measure what the extraction of the teacher `name` costs.

    The rows are spread over the dataset. Reading, model and both together are measured in turns on the same batches, so
    that what else the machine does meets them alike.

    Raises:
        UserError: there is no prepared dataset, or the teacher cannot be loaded or reads other rows.
    """
    settings, machine = params.read(ExtractSettings, "extract"), params.read(Machine, "machine")
    data, views = Dataset.open(project.data), teacher_views(params, name)
    teacher, data = load_teacher(params, name, data)
    if teacher.kind not in (data.kind, "id"):
        raise UserError(f"extract {name}: this teacher reads {teacher.kind} rows, and the dataset holds {data.kind}")
    rate = _measure(data, teacher, settings, machine)
    row_bytes = {head: kept.row_bytes for head, kept in stored_heads(teacher, settings).items()}
    rows = len(data) * missing_views(project, name, data, views)
    url = place_of_features(params)
    place = next(folder for folder in (project.features, *project.features.absolute().parents) if folder.is_dir())
    disk = None if url else _disk(place, min(WRITTEN, max(rows * sum(row_bytes.values()), 1 << 20)))
    writing = None if disk is None else disk / sum(row_bytes.values())
    overall = min(rate.whole, writing or math.inf)
    run, online = _training(name, params, data)
    work = Work(rows, overall, row_bytes)
    return Estimate(
        teacher=name,
        device=machine.device_name(),
        precision=settings.precision,
        batch_size=rate.batch_size,
        rows=rows,
        rows_per_second=overall,
        bare=rate.bare,
        reading=rate.reading,
        writing=writing,
        share=overall / rate.bare,
        bottleneck=rate.bottleneck(writing),
        seconds=work.seconds,
        bytes=work.bytes,
        row_bytes=row_bytes,
        url=url,
        free=None if url else shutil.disk_usage(place).free,
        run=run,
        rows_of_training=online,
        students=max(1, math.ceil(work.seconds / (online / rate.bare))),
    )


@dataclass(frozen=True)
class _Rates:
    """Rows per second."""

    batch_size: int
    reading: float
    bare: float
    whole: float

    def bottleneck(self, writing: float | None) -> str:
        """What takes the time, where the disk takes `writing` rows per second."""
        if writing is not None and writing < self.whole:
            return "the disk"
        if self.whole >= MODEL_BOUND * self.bare:
            return "the model"
        # Where each alone is faster than the model, they are slow together: they share the processors.
        return "reading rows" if self.reading < self.bare else "reading rows and the model on the same processors"


def _measure(data: Dataset, teacher: Teacher, settings: ExtractSettings, machine: Machine) -> _Rates:
    batch_size = min(settings.batch_rows(teacher.device), len(data))
    while True:
        with Loader(data, teacher, batch_size, machine.workers) as loader:
            (batch,) = _batches(loader, _spread(data, batch_size))
            try:
                _forward(teacher, batch)  # the first one allocates, and chooses kernels
                seconds = _timed(partial(_forward, teacher, batch))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if batch_size == 1:
                    raise UserError(
                        f"{data.path}: a row does not fit the memory even alone; give the teacher a smaller size or "
                        "max_length, or use another machine.device"
                    ) from None
            else:
                break
        batch_size = (batch_size + 1) // 2
    number = max(1, min(BATCHES, int(SECONDS / 4 / seconds), len(data) // batch_size))
    rows = _spread(data, number * batch_size)
    with Loader(data, teacher, batch_size, machine.workers) as loader:
        batches = list(_batches(loader, rows))

        def read() -> None:
            for _ in _batches(loader, rows):
                pass

        replicas = Replicas(teacher)

        def bare() -> None:
            for _ in replicas.map(_forward, batches):
                pass

        def whole() -> None:
            for _ in replicas.map(_forward, _batches(loader, rows)):
                pass

        actions: tuple[Callable[[], None], ...] = (read, bare, whole)
        rounds = [[_timed(action) for action in actions] for _ in range(2)]
    reading, alone, together = (len(rows) / min(times) for times in zip(*rounds, strict=True))
    # The model alone is as fast as with reading, at the least: other work on the machine met it if it was slower.
    return _Rates(batch_size, reading, max(alone, together), together)


def _batches(loader: Loader, rows: np.ndarray) -> Iterator[Batch]:
    """Batches of rows, as an extraction makes them of the rows of a shard."""
    for _, batches in loader.shards([Shard(0, 0, len(rows), rows, ())]):
        yield from batches


def _forward(teacher: Teacher, batch: Batch) -> None:
    for values in teacher.forward({key: tensor.to(teacher.device) for key, tensor in batch[1].items()}).values():
        values.cpu()


def _timed(action: Callable[[], None]) -> float:
    began = perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - began


def _spread(data: Dataset, number: int) -> np.ndarray:
    """Rows spread over a dataset."""
    edges = np.linspace(0, len(data), number + 1).astype(int)
    return np.array([(start + stop) // 2 for start, stop in pairwise(edges.tolist())])


def _disk(folder: Path, number: int) -> float | None:
    """Bytes per second that a disk takes, flushed, by a file that has no name and is gone when it is closed."""
    content = os.urandom(number)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return number / (perf_counter() - began)
    except OSError:
        return None


def _training(name: str, params: Params, data: Dataset) -> tuple[str | None, int]:
    """The run that has the teacher compute the fewest rows, and how many; those of the section `train` if none has."""
    found: list[tuple[int, str]] = []
    section = params.section("train")
    for key in params.section("runs"):
        run = read_run(params, key)
        if any(source.teacher == name for source in run.reads):
            settings = train_settings(f"{params.source}: train (for {key})", section, run.train)
            found.append((_rows(settings, data, bool(run_views(params, key, run))), key))
    if not found:
        return None, _rows(params.read(TrainSettings, "train"), data, False)
    rows, of = min(found, key=lambda pair: pair[0])
    return of, rows


def _rows(settings: TrainSettings, data: Dataset, views: bool) -> int:
    split = data.split(0)
    transfer = settings.unlabelled and len(split.unlabelled) > 0
    return settings.of_trial(split, views).steps * (settings.transfer_batch_size if transfer else settings.batch_size)
