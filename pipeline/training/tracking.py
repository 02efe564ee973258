"""One training, told to a tracker of experiments, if `machine.track` names one."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import printable
from pipeline.trackers import Tracker, start
from pipeline.training.config import Plan
from pipeline.training.ledger import Trial


class Tracked:
    """Takes the lines of one training's log. A tracker that fails is left out, and the training goes on.

    Args:
        plan: of the run; its machine says which tracker, if any.
        trial: that is trained.
        inputs: all that its result depends on.
    """

    def __init__(self, plan: Plan, trial: Trial, inputs: Mapping[str, Any]):
        self._tracker: Tracker | None = None
        if track := plan.machine.track:
            name = f"{plan.name}-seed{trial.seed}-{trial.digest[:8]}"
            settings = {"run": plan.name, "candidate": trial.candidate.label} | flattened(inputs)
            self._tracker = self._try(lambda: start(track, plan.project.tracking, name, settings))

    def __call__(self, line: Mapping[str, int | float]) -> None:
        """Tell a line of the log."""
        values = {key: float(value) for key, value in line.items() if key != "step"}
        if tracker := self._tracker:
            self._try(lambda: tracker.log(int(line["step"]), values))

    def close(self) -> None:
        """The training has ended."""
        if tracker := self._tracker:
            self._try(tracker.close)

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            # Whatever a service answers, or a library does: nothing that is trained depends on it.
            self._tracker = None
            line = f"machine.track: {type(error).__name__}: {error}; training goes on without"
            print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
            return None


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name: `train.steps`, `methods.0.weight`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, Mapping):
            found |= flattened({str(name): each for name, each in inner.items()}, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
