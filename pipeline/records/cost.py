"""What `aft cost` measures of a run's student and its teachers."""

from typing import ClassVar

from pipeline.errors import count
from pipeline.records.record import Record


class BatchCost(Record):
    """Batches of `rows` rows: rows a second, and milliseconds of a batch at the median and the 95th percentile."""

    rows: int
    rows_per_second: float
    p50: float
    p95: float


class ModelCost(Record):
    """A model that serves: its parameters, the bytes of its weights, and what batches take."""

    name: str
    parameters: int
    bytes: int
    batches: tuple[BatchCost, ...]


class CostRecord(Record):
    """logs/<run>.cost.json: the cost of serving a run's student, and its teachers, measured in one run on one device.

    Attributes:
        students: digest of the run's students.
        device: such as `cpu` or `NVIDIA H100`.
        threads: of the CPU that torch used.
        models: the student, then the teachers.
    """

    command: ClassVar[str] = "aft cost {name}"

    run: str
    students: str
    device: str
    threads: int
    models: tuple[ModelCost, ...]

    def __str__(self) -> str:
        lines = [f"{self.run} on {self.device}, {count(self.threads, 'thread')}:"]
        for model in self.models:
            lines.append(f"{model.name}: {count(model.parameters, 'parameter')}, {model.bytes:,} bytes")
            lines += [
                f"  batch {each.rows}: {each.rows_per_second:,.0f} rows/s, p50 {each.p50:.3g} ms, p95 {each.p95:.3g} ms"
                for each in model.batches
            ]
        return "\n".join(lines)
