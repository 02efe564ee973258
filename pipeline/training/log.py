"""The log of one trial: losses, validation score, and diagnostics that show a student collapsing or diverging."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.functional.schedules import Schedule, factor
from pipeline.methods import Signals, Transfer
from pipeline.records import DiagnosticsRecord
from pipeline.students import Student, predict
from pipeline.training.auto_weight import gradient_norm
from pipeline.training.mixing import Mixed
from pipeline.training.session import TrialData

LINES = 20
"""The number of lines in the log of a trial. A line waits for the device and runs the student on validation rows."""


Line = dict[str, int | float]
"""A line of the log: its step, and losses, scores and diagnostics by column."""


class Diverged(Exception):
    """A training diverged: a loss, a gradient, a weight or an output is NaN or infinite. The message has no run.

    Args:
        message: what is not finite, and when that was seen.
        sound: steps after which all was still finite.
    """

    def __init__(self, message: str, sound: int = 0):
        super().__init__(message)
        self.sound = sound


@dataclass(frozen=True)
class WeightedPenalty:
    """One method in one trial, its weight, and how the weight changes."""

    weight: float
    schedule: Schedule
    transfer: Transfer

    def at(self, progress: float) -> float:
        """The weight when training is `progress` of the way, from 0 to 1."""
        return self.weight * factor(self.schedule, progress)


@torch.no_grad()
def chance_level(transfer: Transfer, signals: Signals) -> float:
    """The penalty of a batch in which each row has the teachers' features and outputs of another row.

    A student that has learned from its teachers is below; one that has learned the class shares only is not.
    """
    transfer.eval()  # or a queue would take these rows in
    level = transfer(signals.with_other_rows()).item()
    transfer.train()
    return level


class TrialLog:
    """Losses, validation score and diagnostics of one trial, on about `LINES` of its steps and after the last.

    Args:
        data: what the trial learns from.
        student: what is validated.
        penalties: the methods.

    Attributes:
        lines: by column, for curves.csv.
        tell: takes each of them as soon as it is there.
        scores: the validation scores of the last look.
    """

    scores: dict[str, float]
    _outputs: Float[np.ndarray, "val c"]

    def __init__(self, data: TrialData, student: Student, penalties: Mapping[str, WeightedPenalty]):
        self.data, self.student, self.penalties = data, student, penalties
        self.steps = data.settings.steps
        self.every = max(1, self.steps // LINES)
        self.lines: list[Line] = []
        self.tell: Callable[[Line], None] = lambda line: None
        self._diagnostics: dict[str, Any] = {"seed": data.seed}
        self._sum = torch.zeros((), device=data.session.device)

    def watch(self, loss: Float[Tensor, ""]) -> None:
        """Note whether a loss is finite, without waiting for the device: all are as long as their sum is."""
        self._sum.add_(loss.detach())

    @property
    def sound(self) -> bool:
        """Whether all losses so far were finite. Waits for the device."""
        return bool(self._sum.isfinite())

    def due(self, step: int) -> bool:
        """Whether this step gets a line."""
        return step % self.every == 0 or step == self.steps - 1

    def line(
        self,
        step: int,
        task_loss: Float[Tensor, ""],
        penalties: Mapping[str, Float[Tensor, ""]],
        weighted: Mapping[str, Float[Tensor, ""]],
        features: Float[Tensor, "n d"],
        signals: Signals | None,
    ) -> None:
        """Measure one step, before its update.

        Args:
            step: from 0.
            task_loss: of the labelled rows.
            penalties: of each method, unweighted.
            weighted: the same as they are in the loss.
            features: the student's, of all rows of the step.
            signals: the methods' input; None without methods.

        Raises:
            Diverged: a loss or an output is not finite.
        """
        line: dict[str, int | float] = {
            "step": step,
            "task_loss": task_loss.item(),
            "penalty": sum(penalty.item() for penalty in weighted.values()),
        }
        if not self.sound:
            self._diverged(f"step {step}: the loss is not finite")
        when = "start" if step == 0 else "end"
        self._diagnostics[f"feature_spread_{when}"] = (features - features.mean(0)).norm(dim=1).mean().item()
        for name, penalty in penalties.items():
            assert signals is not None
            line[f"penalty_{name}"] = penalty.item()
            line[f"chance_{name}"] = chance_level(self.penalties[name].transfer, signals)
            line |= {f"{name}_{key}": value for key, value in self.penalties[name].transfer.log().items()}
        if weighted:
            strength = gradient_norm(sum(weighted.values(), start=torch.zeros_like(task_loss)), features)
            ratio = strength / max(gradient_norm(task_loss, features), 1e-12)
            line["gradient_ratio"] = self._diagnostics[f"gradient_ratio_{when}"] = ratio
            self._diagnostics["penalties"] = {
                name: {"end": line[f"penalty_{name}"], "chance": line[f"chance_{name}"]} for name in penalties
            }
        self._add(line | self._validate(f"step {step}"))

    def last(self, step: int) -> None:
        """Add the line after the last step.

        Raises:
            Diverged: an output is not finite.
        """
        self._add({"step": step} | self._validate("after the last step"))

    def _add(self, line: Line) -> None:
        self.lines.append(line)
        self.tell(line)

    def finish(self, kept: int) -> DiagnosticsRecord:
        """Sum the trial up.

        Args:
            kept: the line whose student is kept. Unless it is the last one, the student has become that again.

        Raises:
            Diverged: a level or a weight is not finite, or the score that chooses is not defined.
        """
        when = "after the last step"
        if kept < len(self.lines) - 1:
            self._validate(when)
            self._diagnostics["kept"] = self.lines[kept]["step"]
        if not isfinite(self.history[kept]):
            self._diverged(f"{when}: {self.data.session.metric.label} of the outputs on validation rows is not defined")
        levels = [value for level in self._diagnostics.get("penalties", {}).values() for value in level.values()]
        numbers = levels + [value for value in self._diagnostics.values() if isinstance(value, float)]
        if not np.isfinite(numbers).all():
            self._diverged(f"{when}: a penalty or a gradient is not finite")
        # Lines are measured before the update of their step, so only this sees what the last update did.
        modules = [self.student, *(penalty.transfer for penalty in self.penalties.values())]
        if not all(bool(tensor.isfinite().all()) for module in modules for tensor in module.state_dict().values()):
            self._diverged(f"{when}: a weight is not finite")
        return DiagnosticsRecord(**self._diagnostics)

    def mixed(self, mixed: Mixed) -> DiagnosticsRecord:
        """Take the scores of the student whose last layer was mixed after training, in place of those of the last line.

        Raises:
            Diverged: an output is not finite.
        """
        when = "after the last layer was mixed"
        if not np.isfinite(mixed.outputs).all():
            self._diverged(f"{when}: the outputs on validation rows are not finite")
        self._score(mixed.outputs)
        self._diagnostics["mixture"] = mixed.record
        return DiagnosticsRecord(**self._diagnostics)

    def kept(self) -> dict[str, Any]:
        """The state for `restore`, as JSON-like data."""
        return {"lines": self.lines, "diagnostics": self._diagnostics}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Continue from the state that `kept` returned."""
        self.lines, self._diagnostics = list(kept["lines"]), dict(kept["diagnostics"])

    @property
    def history(self) -> list[float]:
        """The validation score that chooses, of every line; infinitely bad where it is not defined."""
        metric = self.data.session.metric
        return [line.get(f"val_{metric.name}", -inf if metric.higher_is_better else inf) for line in self.lines]

    @property
    def row_scores(self) -> Float[np.ndarray, " val"]:
        """What each validation row adds to the primary score of the last look."""
        return self.data.task.row_scores(self._outputs, self._labels).astype(np.float32)

    @property
    def _labels(self) -> np.ndarray:
        return self.data.session.data.labels[self.data.split.val]

    def _diverged(self, message: str) -> NoReturn:
        # A line is measured before the update of its step.
        raise Diverged(message, int(self.lines[-1]["step"]) if self.lines else 0)

    def _validate(self, when: str) -> dict[str, float]:
        data = self.data
        outputs = predict(self.student, data.inputs, data.split.val, data.session.device)  # [val, c]
        if not np.isfinite(outputs).all():
            self._diverged(f"{when}: the outputs on validation rows are not finite")
        return self._score(outputs)

    def _score(self, outputs: Float[np.ndarray, "val c"]) -> dict[str, float]:
        """Take the scores of outputs on validation rows; those that are shown in a line."""
        task = self.data.task
        self._outputs = outputs
        self._diagnostics |= {"collapsed": task.collapsed(outputs), "largest_share": task.largest_share(outputs)}
        chosen = self.data.session.metric.name
        self.scores = task.scores(outputs, self._labels)
        if chosen not in self.scores:
            self.scores[chosen] = task.more_score(chosen, outputs, self._labels)
        # A score that is not defined, such as a correlation with one output for every row, has no place in a line.
        shown = {name: self.scores[name] for name in (task.primary.name, chosen)}
        return {f"val_{name}": score for name, score in shown.items() if isfinite(score)}
