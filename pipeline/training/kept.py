"""Which weights are validated and kept: the last ones, their moving average, or those of the best validation."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.students import Student
from pipeline.training.config import TrialSettings


class Kept:
    """The student that a trial validates and keeps.

    Args:
        trained: the student that the optimiser moves.
        settings: of the trial.
        higher_is_better: of the score that stops.

    Attributes:
        student: what is validated: the trained student itself, or the moving average of its weights.
    """

    def __init__(self, trained: Student, settings: TrialSettings, higher_is_better: bool):
        self._trained, self._decay, self._patience = trained, settings.average, settings.early_stopping
        self._sign = 1 if higher_is_better else -1
        self.student = _copy(trained) if settings.average else trained
        self._best = _copy(trained) if self._patience else None
        pairs = list(zip(_state(self.student), _state(trained), strict=True)) if settings.average else []
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The copies of the student that a step may change, by name."""
        copies = {"average": self.student if self._decay else None, "best": self._best}
        return {name: copy for name, copy in copies.items() if copy is not None}

    def update(self, step: int) -> None:
        """Take the weights after a step into the average.

        average <- decay * average + (1 - decay) * weights, with the decay at most (1 + step) / (10 + step), so that the
        initial weights are soon forgotten. BatchNorm's statistics are averaged, too.
        """
        if self._decay:
            averages, values = map(list, zip(*self._floats, strict=True))
            get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))(averages, values, torch.empty(0))
            for average, value in self._counts:
                average.copy_(value)

    def over(self, scores: list[float]) -> bool:
        """Whether to stop after a validation; the student of the best one is kept in memory.

        Args:
            scores: of all validations so far; the last is that of the current `student`.
        """
        if self._best is None or self._patience is None:
            return False
        best = self.best(scores)
        if best == len(scores) - 1:
            self._best.load_state_dict(self.student.state_dict())
        return len(scores) - 1 - best >= self._patience

    def best(self, scores: list[float]) -> int:
        """The validation that is used: the best, the first among ties; without early stopping the last."""
        if self._patience is None:
            return len(scores) - 1
        return max(range(len(scores)), key=lambda place: self._sign * scores[place])

    def settle(self) -> None:
        """Set `student` to the one of the best validation."""
        if self._best is not None:
            self.student.load_state_dict(self._best.state_dict())


def _copy(student: Student) -> Student:
    return deepcopy(student).requires_grad_(False)


def _state(student: Student) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*(parameter.detach() for parameter in student.parameters()), *student.buffers()]
