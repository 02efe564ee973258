"""The log of one training: losses, validation accuracy, and the guards that show a student collapsing."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.functional.metrics import accuracy
from pipeline.functional.schedules import Schedule, factor
from pipeline.methods import Signals, Transfer
from pipeline.students import Student, predict
from pipeline.training import auto_weight
from pipeline.training.session import TrialData

LINES = 20
"""Lines per training in the log of losses and guards."""


class Diverged(UserError):
    """A training has left the numbers: a loss, a gradient, a weight or an answer is not finite."""


@dataclass(frozen=True)
class WeightedPenalty:
    """One method at work in one training, its weight, and how the weight changes."""

    weight: float
    schedule: Schedule
    transfer: Transfer

    def at(self, progress: float) -> float:
        """The weight when training is `progress` of the way, from 0 to 1."""
        return self.weight * factor(self.schedule, progress)


@torch.no_grad()
def chance(transfer: Transfer, signals: Signals) -> float:
    """The penalty of a batch in which each row has the teachers' features and logits of another.

    A student that has learned from its teachers is below; one that has learned the shares of the classes only is not.
    """
    teachers, heads = (tuple(rows.roll(1, 0) for rows in each) for each in (signals.teachers, signals.heads))
    transfer.eval()  # or a queue would take these rows in
    level = transfer(replace(signals, teachers=teachers, folds=signals.folds.roll(1), heads=heads)).item()
    transfer.train()
    return level


class Log:
    """Losses, validation accuracy and guards of one training, on `LINES` of its steps and after the last."""

    def __init__(self, draw: TrialData, student: Student, pulls: dict[str, WeightedPenalty]):
        self.draw, self.student, self.pulls = draw, student, pulls
        self.steps = draw.settings.steps
        self.every = max(1, self.steps // LINES)
        self.lines: list[dict[str, int | float]] = []
        self.guard: dict[str, Any] = {"seed": draw.seed}

    def due(self, step: int) -> bool:
        """Whether this step is worth a line: waiting for the device is not for every step."""
        return step % self.every == 0 or step == self.steps - 1

    def line(
        self,
        step: int,
        task: Tensor,
        penalties: dict[str, Tensor],
        weighted: dict[str, Tensor],
        features: Tensor,
        signals: Signals | None,
    ) -> None:
        """Measure one step, before its update. `weighted` are the penalties as the loss has them, `signals` what the
        methods saw, if there are any.

        Raises:
            Diverged: a loss or an answer is not a number.
        """
        line: dict[str, int | float] = {
            "step": step,
            "task_loss": task.item(),
            "penalty": sum(p.item() for p in weighted.values()),
        }
        if not np.isfinite([line["task_loss"], line["penalty"]]).all():
            raise Diverged(
                f"{self.draw.world.plan.name}: seed {self.draw.seed}, step {step}: the loss is not finite; "
                "lower train.learning_rate or the method's weight"
            )
        when = "start" if step == 0 else "end"
        spread = (features - features.mean(0)).norm(dim=1).mean()
        self.guard[f"feature_spread_{when}"] = spread.item()
        for name, penalty in penalties.items():
            assert signals is not None
            line[f"penalty_{name}"] = penalty.item()
            line[f"chance_{name}"] = chance(self.pulls[name].transfer, signals)
            line |= {f"{name}_{key}": value for key, value in self.pulls[name].transfer.log().items()}
        if weighted:
            strength = auto_weight.pull(sum(weighted.values(), start=torch.zeros_like(task)), features)
            ratio = strength / max(auto_weight.pull(task, features), 1e-12)
            line["gradient_ratio"] = self.guard[f"gradient_ratio_{when}"] = ratio
            self.guard["penalties"] = {
                name: {"end": line[f"penalty_{name}"], "chance": line[f"chance_{name}"]} for name in penalties
            }
        self.lines.append(line | self._validate())

    def last(self) -> None:
        """The line after the last step, and the share of the class that is predicted most.

        Raises:
            Diverged: an answer is not a number.
        """
        self.lines.append({"step": self.steps} | self._validate())

    def _validate(self) -> dict[str, float]:
        draw = self.draw
        logits = predict(self.student, draw.inputs, draw.split.val, draw.world.device)
        if not np.isfinite(logits).all():
            raise Diverged(
                f"{draw.world.plan.name}: seed {draw.seed}: what the student says of validation rows is not finite; "
                "lower train.learning_rate or the method's weight"
            )
        share = np.bincount(logits.argmax(1), minlength=logits.shape[1]).max() / len(logits)
        self.guard |= {"largest_class_share": float(share), "one_class": bool(share == 1.0)}
        return {"val_accuracy": accuracy(logits, draw.world.data.labels[draw.split.val])}
