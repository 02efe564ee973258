"""The cost of serving a student and its teachers: from rows in memory to outputs, for several batch sizes.

A row is a text, or the encoded bytes of an image; the time to prepare it is included. The models take turns, so that
other load on the machine affects them alike.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data import Dataset
from pipeline.datasets import SIDES
from pipeline.extraction import load_teacher
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.predict import Predictor, seed_of
from pipeline.project import Project
from pipeline.records import BatchCost, CostRecord, ModelCost, RunRecord
from pipeline.sources import Source

BATCHES = (1, 32, 256)

ROUNDS = (3, 200)
"""The least and the greatest number of batches per model."""

SECONDS = 2.0
"""Seconds for all models together at one batch size, once each has had its least number of batches."""


@dataclass(frozen=True)
class Served:
    """A model that is measured: `call` takes contents of rows, and returns when their outputs are computed."""

    name: str
    parameters: int
    bytes: int
    call: Callable[[Sequence[Any]], object]


def measure_cost(name: str, params: Params, project: Project = Project()) -> CostRecord:
    """Measure the student of the run `name` and its teachers; write logs/<name>.cost.json.

    Raises:
        UserError: the run was not trained, or the weights of a teacher cannot be loaded.
    """
    folder = project.run(name)
    run = RunRecord.read(folder / "run.json", name)
    data = Dataset.open(project.data)
    machine = params.read(Machine, "machine")
    seed = seed_of(run, folder, None)
    predictor = Predictor(folder, seed, machine.device, trust=True)  # a run of this project's own params.yaml
    weights = folder / "students" / str(seed) / "weights.safetensors"

    def student(rows: Sequence[Any]) -> object:
        return predictor.outputs(predictor.encode([predictor.read(row) for row in rows]))

    models = [Served(f"student {run.student.name}", run.student.parameters, weights.stat().st_size, student)]
    for teacher in dict.fromkeys(Source.parse(text).teacher for text in run.sources):
        models.append(_teacher(teacher, params, data))
    test = data.split(seed % data.splits).test
    contents = data.content(test[: max(BATCHES)])
    measured = {size: _measure(models, list(islice(cycle(contents), size))) for size in BATCHES}
    record = CostRecord(
        run=name,
        students=run.students_digest,
        device=machine.device_name(),
        threads=torch.get_num_threads(),
        models=tuple(
            ModelCost(
                name=model.name,
                parameters=model.parameters,
                bytes=model.bytes,
                batches=tuple(measured[size][number] for size in BATCHES),
            )
            for number, model in enumerate(models)
        ),
    )
    record.write(project.log("cost", name))
    return record


def _teacher(name: str, params: Params, data: Dataset) -> Served:
    model, seen = load_teacher(params, name, data)
    inside = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    weights = [weight for part in inside for weight in part.parameters()]
    side = SIDES.index(seen.side) if seen.side else None

    def call(rows: Sequence[Any]) -> object:
        read = rows if side is None else [row[side] for row in rows]
        outputs = model.forward(model.collate([model.transform(row) for row in read]))
        return [values.cpu() for values in outputs.values()]

    parameters = sum(weight.numel() for weight in weights)
    return Served(f"teacher {name}", parameters, sum(w.numel() * w.element_size() for w in weights), call)


def _measure(models: Sequence[Served], rows: list[Any]) -> list[BatchCost]:
    """The cost of a batch with each model."""
    seconds: list[list[float]] = [[] for _ in models]
    for model in models:
        model.call(rows)  # the first one compiles and allocates
    least, most = ROUNDS
    started = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - started > SECONDS:
            break
        for model, taken in zip(models, seconds, strict=True):
            begin = time.perf_counter()
            model.call(rows)
            taken.append(time.perf_counter() - begin)
    return [
        BatchCost(
            rows=len(rows),
            rows_per_second=len(rows) / float(np.median(taken)),
            p50=1000 * float(np.median(taken)),
            p95=1000 * float(np.quantile(taken, 0.95)),
        )
        for taken in seconds
    ]
