"""A folder that timm itself loads, `timm.create_model("local-dir:FOLDER", pretrained=True)`, for students of timm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import save_for_hf

from pipeline.errors import UserError
from pipeline.exports import Model
from pipeline.students import STUDENT, Blueprint, Scaled, Student, place

PACKAGES: tuple[str, ...] = ()
RUNS_CODE = False
USE = ("import timm", 'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()')


def refusal(blueprint: Blueprint) -> str:
    """Why it cannot hold a student: it holds those of the family timm."""
    return "" if blueprint.family == "timm" else "timm has no such model"


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """student.json, config.json and model.safetensors, as timm publishes models.

    The scale of the labels, if there is one, is applied to the last layer.

    Raises:
        UserError: the last layer is not one of timm's.
    """
    inner: Any = student.student if isinstance(student, Scaled) else student
    if inner.head is not None:
        raise UserError("--format timm: the last layer of this student is not timm's own; use --format native")
    if isinstance(student, Scaled):
        last = inner.model.get_classifier()
        with torch.no_grad():
            last.weight.mul_(student.scale)
            last.bias.mul_(student.scale).add_(student.shift)
    blueprint.write(folder / STUDENT)
    fitted = blueprint.fitted
    save_for_hf(
        inner.model,
        str(folder),
        safe_serialization=True,
        model_config={"label_names": list(blueprint.classes)},
        data_config={
            "input_size": (fitted["channels"], fitted["size"], fitted["size"]),
            "mean": tuple(fitted["mean"]),
            "std": tuple(fitted["std"]),
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bicubic",
        },
    )


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The model, loaded by timm alone."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(device)

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = model(place(batch, device)).float().cpu().numpy()
            return found

    return outputs
