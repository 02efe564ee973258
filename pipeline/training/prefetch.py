"""What a step needs of the dataset and the stores, on the device, made while the step before runs.

On a CUDA GPU a thread reads the rows of the next step, copies them on a stream of its own, and augments and scales them
there. On a CPU nothing is copied, and the thread would take the core of another training: each step's is made when it
is needed. Either way the numbers are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ahead import ahead
from pipeline.augmentations import Augmented
from pipeline.methods import Reads, TeacherOutput
from pipeline.students import place
from pipeline.training.batches import Part
from pipeline.training.session import TrialData


@dataclass(frozen=True)
class Ready:
    """A part of a step, ready for the student and the methods.

    Attributes:
        part: whose rows these are.
        inputs: of the student, for all n rows.
        labels: of all rows [n, ...].
        mixed: where the labelled rows are mixed with others, the labels of those, and the share of each row's own.
        start: the methods see the rows from here on.
        teachers, teacher_outputs: of these m rows; see `Signals`.
    """

    part: Part
    inputs: Any
    labels: Tensor
    mixed: tuple[Tensor, Float[Tensor, " labelled"]] | None
    start: int
    teachers: tuple[Float[Tensor, "m _"], ...]
    teacher_outputs: dict[TeacherOutput, tuple[Float[Tensor, "m c"], ...]]

    def tensors(self) -> Iterator[Tensor]:
        """All of its tensors."""
        yield from _tensors((self.inputs, self.labels, self.mixed or (), self.teachers, *self.teacher_outputs.values()))


def get_ready(data: TrialData, part: Part, reads: frozenset[Reads], augmented: Augmented | None = None) -> Ready:
    """Read a part of a step. Nothing here waits for the device.

    Args:
        data: the split and its features.
        part: rows, and the number of the view of each, for student and teachers alike.
        reads: what the methods read.
        augmented: what augmentations make of the labelled rows; they stay as they are if None.
    """
    rows, labelled, device = part.rows, part.labelled, data.session.device
    inputs = data.inputs.batch(rows, part.views, augmented, device)
    labels = place(torch.from_numpy(data.labels[rows]), device)
    mixed = None
    if augmented and augmented.mixed:
        others, shares = data.labels[augmented.partners], augmented.shares.astype(np.float32)
        mixed = place((torch.from_numpy(others), torch.from_numpy(shares)), device)
    # The methods see the rows after the labelled batch; where there are none, the labelled batch itself.
    start = labelled if labelled < len(rows) else 0
    teachers, outputs = data.teachers(rows[start:], reads, None if part.views is None else part.views[start:])
    return Ready(part, inputs, labels, mixed, start, teachers, outputs)


@contextmanager
def prefetched(made: Iterator[Ready], device: torch.device) -> Iterator[Iterator[Ready]]:
    """Parts of steps in their order; on a CUDA GPU, each is made while the one before is used."""
    if device.type != "cuda":
        yield made
        return
    stream = torch.cuda.Stream(device)
    # What is kept on the device was copied by the current stream.
    stream.wait_stream(torch.cuda.current_stream(device))

    def copied() -> Iterator[tuple[Ready, torch.cuda.Event]]:
        while True:
            with torch.cuda.stream(stream):
                ready = next(made, None)
            if ready is None:
                return
            yield ready, stream.record_event()

    with ahead(copied()) as found:

        def arrived() -> Iterator[Ready]:
            for ready, event in found:
                current = torch.cuda.current_stream(device)
                current.wait_event(event)
                for tensor in ready.tensors():
                    tensor.record_stream(current)  # its memory is not used again before this stream is done with it
                yield ready

        yield arrived()


def _tensors(of: Any) -> Iterator[Tensor]:
    if isinstance(of, Tensor):
        yield of
    elif isinstance(of, tuple):
        for each in of:
            yield from _tensors(each)
