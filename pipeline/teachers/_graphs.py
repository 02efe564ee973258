"""ONNX files, opened by onnxruntime: their inputs and outputs, their digest, their runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError, Message

from pipeline.errors import UserError, listed
from pipeline.files import read_regular
from pipeline.provenance import digest_files

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
"""Types of inputs and outputs that can be a row's."""

Shape = tuple[int | None, ...]
"""The sides of an input or output; None for one that may have any length."""


class OnnxGraph:
    """A model in an ONNX file. Operators that onnxruntime does not have itself are refused: their code is never loaded.

    Args:
        path: the file.
        name: for messages.
        device: a GPU is used if onnxruntime was built for it.

    Attributes:
        inputs, outputs: types and shapes by name.
        digest: of the file and of the files with its weights.
        batch: the number of rows that it takes, no more and no fewer; None for any.
        notes: for the user.

    Raises:
        UserError: the file is missing, damaged, or refers to files outside of its folder; it needs operators that
            onnxruntime does not have.
    """

    def __init__(self, path: Path, name: str, device: torch.device):
        self.name = name
        self.digest = digest_files(path.parent, [path.name, *_external(path, name)])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        options.intra_op_num_threads = torch.get_num_threads()
        options.use_deterministic_compute = True
        providers: list[Any] = ["CPUExecutionProvider"]
        self.notes: tuple[str, ...] = ()
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        elif device.type != "cpu":
            self.notes = ("onnxruntime runs it on the CPU; for NVIDIA GPUs, install onnxruntime-gpu in its place",)
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers)
        except Exception as error:  # of many kinds, none of them public
            line = " ".join(str(error).split())[:200]
            if "not a registered function" in line or "No Op registered" in line:
                raise UserError(
                    f"{name}: it needs operators from a library of their own, which are not loaded ({line}); export it "
                    "with standard operators"
                ) from None
            raise UserError(f"{name}: onnxruntime cannot load it: {line}") from None
        self.inputs = {at.name: (TYPES.get(at.type), _shape(at.shape)) for at in self.session.get_inputs()}
        self.outputs = {at.name: (TYPES.get(at.type), _shape(at.shape)) for at in self.session.get_outputs()}
        if odd := [at.name for at in self.session.get_inputs() if at.type not in TYPES or not at.shape]:
            raise UserError(f"{name}: its input {odd[0]!r} is no array of numbers with rows; export it without")
        sizes = {shape[0] for _, shape in self.inputs.values()}
        if len(sizes) > 1:
            raise UserError(f"{name}: its inputs have different numbers of rows; export it with one")
        self.batch = sizes.pop()

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str], alone: bool = False) -> list[np.ndarray]:
        """The outputs of rows [n, ...]. A fixed batch that is not full repeats its last row.

        Args:
            feeds: by input, an array [n, ...].
            outputs: the names of those to return.
            alone: give it one row at a time.

        Raises:
            UserError: the rows do not fit the model, or an output has not one entry per row.
            MemoryError: the memory is full.
        """
        rows = len(next(iter(feeds.values())))
        step = 1 if alone else self.batch or rows
        parts: list[list[np.ndarray]] = []
        for start in range(0, rows, step):
            count = min(step, rows - start)
            places = np.minimum(np.arange(start, start + (self.batch or count)), start + count - 1)
            try:
                some = {key: np.ascontiguousarray(values[places]) for key, values in feeds.items()}
                found = self.session.run(list(outputs), some)
            except Exception as error:  # of many kinds, none of them public
                line = " ".join(str(error).split())[:200]
                if "allocate" in line or "out of memory" in line:
                    raise MemoryError(line) from None
                shapes = listed([f"{key} {values.shape[1:]}" for key, values in feeds.items()])
                raise UserError(f"{self.name}: it cannot take rows of {shapes}: {line}") from None
            for output, values in zip(outputs, found, strict=True):
                if not isinstance(values, np.ndarray) or values.ndim < 1 or len(values) != len(places):
                    raise UserError(f"{self.name}: its output {output!r} has not one entry per row; name another")
            parts.append([values[:count] for values in found])
        return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _external(path: Path, name: str) -> list[str]:
    """The files with weights outside of an ONNX file, relative to its folder.

    Raises:
        UserError: it is missing or damaged, or such a file is missing or not in its folder.
    """
    try:
        model = onnx.load_model_from_string(read_regular(path))
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except DecodeError:
        raise UserError(f"{name}: damaged, or not an ONNX file; export it again") from None
    found = set()
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
            parts = PurePosixPath(place)
            if not place or parts.is_absolute() or ".." in parts.parts or "\\" in place:
                raise UserError(f"{name}: its weights are in {place!r}, which is not below its folder; export it again")
            if not (path.parent / place).is_file():
                raise UserError(f"{name}: its weights are in {place}, which is not next to it; copy that file as well")
            found.add(place)
    return sorted(found)


def _tensors(message: Message) -> Iterator[Any]:
    """All tensors in a model, those of inner graphs and functions included."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                if isinstance(part, onnx.TensorProto):
                    yield part
                elif isinstance(part, Message):
                    yield from _tensors(part)


def _shape(sides: Sequence[Any]) -> Shape:
    return tuple(side if isinstance(side, int) and side > 0 else None for side in sides)
