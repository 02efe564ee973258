"""Weights as safetensors next to student.json: the project's own format, for every student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.exports import Model
from pipeline.students import Blueprint, Student, load_student, place, save_student

PACKAGES: tuple[str, ...] = ()
RUNS_CODE = False
USE: tuple[str, ...] = ()


def refusal(blueprint: Blueprint) -> str:
    """Empty: it holds every student."""
    return ""


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """student.json and weights.safetensors."""
    save_student(folder, blueprint, student)


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The student itself."""
    _, student = load_student(folder, blueprint.classes)
    student.to(device)

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            return student(place(batch, device))[1].float().cpu().numpy()

    return outputs
