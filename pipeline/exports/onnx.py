"""An ONNX graph, model.onnx, for batches of any size: runs with onnxruntime, without torch.

tokenizer.json, vocabulary.json or preprocessing.json next to it describes how its inputs are prepared.
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
USE = ("import onnxruntime", 'model = onnxruntime.InferenceSession("FOLDER/model.onnx")')

MODEL, OUTPUTS = "model.onnx", "outputs"


def refusal(blueprint: Blueprint) -> str:
    """Empty: whether ONNX has the operators for a student shows when it is written."""
    return ""


def write(folder: Path, blueprint: Blueprint, student: Student, rows: Sequence[Any]) -> None:
    """model.onnx and the preprocessing files.

    Raises:
        UserError: ONNX has no operator for a part of the student.
    """
    graph, tensors = traced(folder, blueprint, student, rows)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Inputs share their axes; the exporter warns that the second name of an axis is not used.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module, tensors, folder / MODEL, input_names=graph.names, output_names=[OUTPUTS],
                dynamic_shapes=graph.dynamic_shapes, dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except OSError:  # a full disk says nothing about the student
        raise
    except Exception as error:  # the exporter fails in many ways
        line = " ".join(str(error).split())[:160]
        raise UserError(f"--format onnx: cannot export this student ({line}); use --format torch-export") from None


def load(folder: Path, blueprint: Blueprint, device: torch.device) -> Model:
    """A session of onnxruntime, on the CPU, or on a GPU if its package for GPUs is installed."""
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(folder / MODEL, providers=providers)
    graph = graph_of(blueprint)

    def outputs(batch: Any) -> np.ndarray:
        tensors = (tensor.numpy() for tensor in graph.arrange(batch))
        return np.asarray(session.run([OUTPUTS], dict(zip(graph.names, tensors, strict=True)))[0], np.float32)

    return outputs
