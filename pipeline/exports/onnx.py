"""An ONNX graph, model.onnx, with batches of any size: runs with onnxruntime, without torch.

Next to it is what prepares its inputs: tokenizer.json, vocabulary.json or preprocessing.json.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.exports import Model
from pipeline.exports._graphs import graph_of, traced
from pipeline.students import Blueprint, Student

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
RUNS_CODE = False

MODEL, OUTPUTS = "model.onnx", "outputs"


def refusal(blueprint: Blueprint) -> str:
    """Whether there are operators for a student shows when it is exported."""
    return ""


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """model.onnx, and what prepares its inputs.

    Raises:
        UserError: ONNX has no operator for a part of the student.
    """
    graph, tensors = traced(folder, blueprint, student, rows)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Two inputs share their axes, and the second name of one is not used.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module, tensors, folder / MODEL, input_names=graph.names, output_names=[OUTPUTS],
                dynamic_shapes=graph.dynamic_shapes, dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter fails in many ways
        line = " ".join(str(error).split())[:160]
        raise UserError(f"--format onnx: cannot export this student ({line}); take --format torch-export") from None


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """A session of onnxruntime, on the CPU, or on a GPU where its package for GPUs is installed."""
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(folder / MODEL, providers=providers)
    graph = graph_of(blueprint)

    def outputs(batch: Any) -> np.ndarray:
        tensors = (tensor.numpy() for tensor in graph.arrange(batch))
        return np.asarray(session.run([OUTPUTS], dict(zip(graph.names, tensors, strict=True)))[0], np.float32)

    return outputs
