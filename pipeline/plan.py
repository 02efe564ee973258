"""An extraction of any number of rows by any number of GPUs: `aft plan` counts on from the speed that was measured."""

from dataclasses import dataclass

from pipeline.checks import size
from pipeline.errors import count
from pipeline.estimate import Work, estimate
from pipeline.extraction import ExtractSettings
from pipeline.files import file_exists
from pipeline.params import Params
from pipeline.plugins import plugins
from pipeline.progress import duration
from pipeline.project import Project
from pipeline.records import LogRecord
from pipeline.store import FeatureStore, default_shard_rows
from pipeline.views import teacher_views

MOST_ROWS = 100_000_000
"""Rows of one store and dataset, from which on `plan` divides them into parts; see docs/scale.md for the limits."""

SCAN_BYTES, WRITER_BYTES = 110, 60
"""Bytes a row that `aft prepare`, and a process that writes a store, hold in memory, with ids of about 20 letters."""


@dataclass(frozen=True)
class ExtractionPlan:
    """An extraction of many rows by many GPUs, each with a process of its own.

    Attributes:
        teacher: its name in params.yaml.
        rows: of the dataset.
        views: of each row besides the clean one.
        gpus: that work at the same time.
        rows_per_second: of one of them, each view counted.
        measured: how that was found.
        seconds: until the last row is there.
        gpu_hours: of all GPUs together.
        cost: of these, in the unit of the price; None without a price.
        bytes: of the features, uncompressed.
        row_bytes: by head.
        parts: datasets that the rows are divided into, each with a store of its own.
        part_rows: rows of each, the last one may have fewer.
        shard_rows: rows of a shard.
        shards: of all parts and one head.
        files: of all parts and heads: shards and their markers.
        prepare_bytes, writer_bytes: memory that preparing a part, and each process that writes its store, take.
    """

    teacher: str
    rows: int
    views: int
    gpus: int
    rows_per_second: float
    measured: str
    seconds: float
    gpu_hours: float
    cost: float | None
    bytes: int
    row_bytes: dict[str, int]
    parts: int
    part_rows: int
    shard_rows: int
    shards: int
    files: int
    prepare_bytes: int
    writer_bytes: int

    def __str__(self) -> str:
        views = f", each with {count(self.views, 'view')}" if self.views else ""
        heads = ", ".join(f"{head} {number:,} B a row" for head, number in self.row_bytes.items())
        price = "" if self.cost is None else f", cost {self.cost:,.2f}"
        each = f" of {count(self.part_rows, 'row')}" if self.parts > 1 else ""
        lines = [
            f"{self.teacher}: {count(self.rows, 'row')}{views}, by {count(self.gpus, 'GPU')}",
            f"speed: {self.rows_per_second:,.0f} rows/s each ({self.measured}), "
            f"{self.rows_per_second * self.gpus:,.0f} together",
            f"time: {duration(self.seconds)}; {self.gpu_hours:,.1f} GPU hours{price}",
            f"size: {size(self.bytes)} ({heads})",
            f"layout: {count(self.parts, 'dataset')}{each}, each with a store; {count(self.shards, 'shard')} of "
            f"{count(self.shard_rows, 'row')} a head, {count(self.files, 'file')}",
            f"memory: {size(self.prepare_bytes)} to prepare a dataset, {size(self.writer_bytes)} a process that writes "
            "its store",
        ]
        if self.shards < self.gpus:
            lines.append(
                f"warning: {count(self.shards, 'shard')} for {self.gpus:,} GPUs: some have nothing to do; set "
                "extract.shard_rows to fewer rows"
            )
        return "\n".join(lines)


def plan(
    name: str, params: Params, rows: int, gpus: int = 1, price: float | None = None, project: Project = Project()
) -> ExtractionPlan:
    """What extracting `rows` rows with the teacher `name` takes, at the speed that it has in this project.

    The speed is that of the project's finished extraction by this teacher, if there is one; otherwise it is measured
    as by `estimate`.

    Args:
        name: of the teacher.
        params: the settings.
        rows: of the dataset.
        gpus: that work at the same time, each as fast as what was measured.
        price: of an hour of one.
        project: where the speed is from.

    Raises:
        UserError: there is neither a finished extraction nor a dataset to measure on, or as `estimate`.
    """
    rate, row_bytes, measured = _known_rate(name, project) or _measured_rate(name, params, project)
    views, settings = teacher_views(params, name), params.read(ExtractSettings, "extract")
    more = views.count if views else 0
    work = Work(rows * (1 + more), rate, row_bytes, gpus)
    parts = -(-rows // MOST_ROWS)
    part_rows = -(-rows // parts)
    shard_rows = settings.shard_rows or default_shard_rows(part_rows, max(row_bytes.values()))
    shards = (parts - 1) * -(-part_rows // shard_rows) + -(-(rows - (parts - 1) * part_rows) // shard_rows)
    gpu_hours = work.seconds * gpus / 3600
    return ExtractionPlan(
        teacher=name,
        rows=rows,
        views=more,
        gpus=gpus,
        rows_per_second=rate,
        measured=measured,
        seconds=work.seconds,
        gpu_hours=gpu_hours,
        cost=None if price is None else gpu_hours * price,
        bytes=work.bytes,
        row_bytes=row_bytes,
        parts=parts,
        part_rows=part_rows,
        shard_rows=shard_rows,
        shards=shards,
        files=2 * shards * len(row_bytes) * (1 + more),
        prepare_bytes=part_rows * SCAN_BYTES,
        writer_bytes=part_rows * WRITER_BYTES,
    )


def _known_rate(name: str, project: Project) -> tuple[float, dict[str, int], str] | None:
    """Rows per second of the finished extraction by a teacher, bytes a row by head, and what these are from."""
    path, place = project.log("extract", name), project.store(name)
    if not (file_exists(path) and place.exists()):
        return None
    log, store = LogRecord.read(path), FeatureStore.open(place)
    # The speed of a cluster is not that of one GPU.
    if not log.rows or not log.seconds or log.device in plugins("engines"):
        return None
    row_bytes = {head: kept.row_bytes for head, kept in store.heads.items() if kept.view is None}
    return log.rows / log.seconds, row_bytes, f"{count(log.rows, 'row')} on {log.device} in {path}"


def _measured_rate(name: str, params: Params, project: Project) -> tuple[float, dict[str, int], str]:
    found = estimate(name, params, project)
    return found.rows_per_second, found.row_bytes, f"measured now on {found.device}"
