"""A folder that timm itself loads, `timm.create_model("local-dir:FOLDER", pretrained=True)`, for students of timm."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.exports import Model
from pipeline.students import Blueprint, Scaled, Student, place

PACKAGES: tuple[str, ...] = ()


def refusal(blueprint: Blueprint) -> str:
    """It holds students of the family timm."""
    return "" if blueprint.family == "timm" else "timm has no such model"


def write(folder: Path, blueprint: Blueprint, student: Student, batch: Any) -> None:
    """config.json and model.safetensors, as timm publishes models. The scale of labels goes into the last layer.

    Raises:
        UserError: the last layer is not one that can take it.
    """
    from timm.models import save_for_hf

    inner = student.student if isinstance(student, Scaled) else student
    model: Any = inner.model
    if isinstance(student, Scaled):
        head = model.get_classifier()
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise UserError("--format timm: its last layer cannot hold the scale of the labels; take --format native")
        with torch.no_grad():
            head.weight.mul_(student.scale)
            head.bias.mul_(student.scale).add_(student.shift)
    fitted = blueprint.fitted
    model.pretrained_cfg = model.pretrained_cfg | {
        "input_size": (3, fitted["size"], fitted["size"]),
        "mean": tuple(fitted["mean"]),
        "std": tuple(fitted["std"]),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "num_classes": len(blueprint.classes),
        "label_names": list(blueprint.classes),
    }
    save_for_hf(model, str(folder), model_args=dict(fitted["options"]) or None, safe_serialization=True)


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The model, by timm alone."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(device)

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(place(batch, device)).float().cpu().numpy()

    return outputs
