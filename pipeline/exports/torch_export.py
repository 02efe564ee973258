"""A graph of torch.export, model.pt2: runs with torch alone, in Python, or from C++ with AOTInductor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.exports import Model
from pipeline.exports._graphs import graph_of, traced
from pipeline.files import patient
from pipeline.students import Blueprint, Student, place

PACKAGES: tuple[str, ...] = ()
RUNS_CODE = True
USE = ("import torch", 'model = torch.export.load("FOLDER/model.pt2").module()')

MODEL = "model.pt2"


def refusal(blueprint: Blueprint) -> str:
    """Empty: whether a student can be traced shows when it is written."""
    return ""


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """model.pt2 and the preprocessing files.

    Raises:
        UserError: an operator of the student cannot be traced.
    """
    graph, tensors = traced(folder, blueprint, student, rows)
    try:
        with torch.no_grad():
            program = torch.export.export(graph.module, tensors, dynamic_shapes=graph.dynamic_shapes)
    except Exception as error:  # the tracer fails in many ways
        line = " ".join(str(error).split())[:160]
        raise UserError(f"--format torch-export: cannot trace this student ({line}); use --format native") from None
    with patient(folder / MODEL) as file:
        torch.export.save(program, file)


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """The graph."""
    module = torch.export.load(folder / MODEL).module().to(device)
    arrange = graph_of(blueprint).arrange

    def outputs(batch: Any) -> np.ndarray:
        with torch.inference_mode():
            return module(*place(arrange(batch), device)).float().cpu().numpy()

    return outputs
