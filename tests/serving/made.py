"""Exports that are there in a moment: students that were not trained, in the layout that `aft export` writes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data import Dataset
from pipeline.exports import export_format
from pipeline.predict import EXPORT, VERSION, table_of
from pipeline.records import ExportRecord
from pipeline.students import Blueprint, Student, student_blueprint
from pipeline.verified import checksums

CPU = torch.device("cpu")


def made_student(section: dict[str, Any], data: Dataset) -> tuple[Blueprint, Student]:
    """A student with random weights, also where its last layer starts at zero."""
    split = data.split(0)
    blueprint = student_blueprint(section, "students.x", data, split.train, task=data.split_task(0))
    torch.manual_seed(0)
    student = blueprint.build().eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return blueprint, student


def made_export(
    folder: Path, section: dict[str, Any], data: Dataset, format: str = "native"
) -> tuple[Blueprint, Student]:
    """Write an export; returns its student."""
    blueprint, student = made_student(section, data)
    folder.mkdir()
    rows = np.arange(4)
    example = data.content(rows) if data.kind == "text" else [data.image(int(row)) for row in rows]
    export_format(format).write(folder, blueprint, student, example)
    ExportRecord(
        version=VERSION, format=format, run="x", seed=0, kind=data.kind, task=data.task.name, outputs=data.task.outputs,
        unit=data.manifest.unit, table=table_of(data.manifest), compared=0, largest_difference=0.0,
        versions={}, files=checksums(folder),
    ).write(folder / EXPORT)  # fmt: skip
    return blueprint, student
