"""The contract of students: a model that also returns its features, and a dataset as its family reads it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

from pipeline.augmentations import Augmented

Kind = Literal["text", "image", "pair", "features"]

CPU = torch.device("cpu")


@runtime_checkable
class Inputs(Protocol):
    """A dataset as one student family reads it."""

    def batch(
        self,
        rows: np.ndarray,
        views: np.ndarray | None = None,
        augmented: Augmented | None = None,
        device: torch.device = CPU,
    ) -> Any:
        """The input of `Student.forward` for rows of the dataset, in the order given, on a device.

        Args:
            rows: row numbers.
            views: the number of each row's view, if the inputs were made with views; clean rows if None.
            augmented: what augmentations make of these rows; they stay as they are if None.
            device: where pixels are computed. A copy to a GPU is not waited for.
        """
        ...

    def keep_on(self, device: torch.device, budget: int) -> int:
        """Keep on a device what its batches are read from, if that fits into `budget` bytes; the bytes that it takes.

        Only images do: numbers of words and tokens take no more time to copy than the numbers of their rows.
        """
        ...


def is_on(tensor: Tensor, device: torch.device) -> bool:
    """Whether a tensor is on a device. To torch, `cuda` does not equal `cuda:0`; here it is any GPU."""
    return device in (tensor.device, torch.device(tensor.device.type))


def place(inputs: Any, device: torch.device) -> Any:
    """A tensor or a tuple of such, on a device. A copy to a GPU is not waited for, which needs pinned memory."""
    if isinstance(inputs, Tensor):
        if is_on(inputs, device):
            return inputs
        inputs = inputs.pin_memory() if device.type == "cuda" and inputs.device.type == "cpu" else inputs
        return inputs.to(device, non_blocking=True)
    return tuple(place(part, device) for part in inputs)


@runtime_checkable
class Preprocessing(Protocol):
    """How one student family turns rows of any dataset into its input. `Inputs` caches the result.

    Attributes:
        in_python: whether Python does it, on one thread, and it takes longer than what the student then does.
    """

    @property
    def in_python(self) -> bool: ...

    def __call__(self, rows: Sequence[Any]) -> Any:
        """The input of `Student.forward` for texts, or for images as `pipeline.images.decode` gives them.

        Raises:
            ValueError: a text has no token.
        """
        ...

    def files(self) -> dict[str, str]:
        """Files, by name, from which a service without this project can prepare rows for `Student.graph`."""
        ...


class Student(nn.Module, ABC):
    """A model that also returns its features. `width` is d, the width of the input of its last layer."""

    width: int

    @abstractmethod
    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The features and the outputs of a batch that `Inputs.batch` made."""

    def depths(self) -> dict[str, int]:
        """By name of a parameter, the number of its layer: 0 at the input, the largest is that of the new head.

        A family with `pretrained` among its settings says; others train all layers alike, as if they were one.
        """
        return {name: 0 for name, _ in self.named_parameters()}

    def graph(self) -> "Graph":
        """This student as a function of plain tensors, for formats that keep a graph; by default, of images."""
        return Graph(_Outputs(self), ("pixel_values",), ((0,),), lambda batch: (batch,))


class Scaled(Student):
    """A student whose outputs are in the unit of the labels: those of its last layer times `scale` plus `shift`.

    Args:
        student: its last layer learns labels of mean 0 and standard deviation 1.
        shift, scale: the mean and standard deviation of the labels it learns from.
    """

    def __init__(self, student: Student, shift: float, scale: float):
        super().__init__()
        self.student, self.width = student, student.width
        self.shift, self.scale = shift, scale

    def forward(self, inputs: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """The student's features, and its outputs, scaled in float32."""
        features, outputs = self.student(inputs)
        return features, outputs.float() * self.scale + self.shift

    def depths(self) -> dict[str, int]:
        """Those of the student inside."""
        return {f"student.{name}": depth for name, depth in self.student.depths().items()}

    def graph(self) -> "Graph":
        """The graph of the student inside, with its outputs scaled."""
        inner = self.student.graph()
        return replace(inner, module=_Rescaled(inner.module, self.shift, self.scale))


@dataclass(frozen=True)
class Graph:
    """A student as a function from plain tensors to its outputs.

    Attributes:
        module: takes the tensors as `*inputs` and returns the outputs [n, c].
        names: of the tensors.
        axes: the axes of each tensor whose length changes from batch to batch; the first is that of rows.
        arrange: turns a batch of the family's `Preprocessing` into these tensors.
    """

    module: nn.Module
    names: tuple[str, ...]
    axes: tuple[tuple[int, ...], ...]
    arrange: Callable[[Any], tuple[Tensor, ...]]

    @property
    def dynamic_shapes(self) -> tuple[tuple[dict[int, Any], ...]]:
        """The axes as `torch.export` takes them; to it, `*inputs` are one argument.

        The number of rows is free; the tracer finds the range of other axes, such as the length of texts.
        """
        rows = Dim("rows", min=1)
        return (tuple({axis: Dim.DYNAMIC if axis else rows for axis in axes} for axes in self.axes),)


class _Outputs(nn.Module):
    """The outputs of a student for one tensor, or several as a tuple."""

    def __init__(self, student: Student):
        super().__init__()
        self.student = student

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.student(inputs[0] if len(inputs) == 1 else inputs)[1]
        return outputs


class _Rescaled(nn.Module):
    def __init__(self, module: nn.Module, shift: float, scale: float):
        super().__init__()
        self.module, self.shift, self.scale = module, shift, scale

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.module(*inputs).float() * self.scale + self.shift
        return outputs
