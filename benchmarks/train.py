"""Where a training step's time goes, on a CPU: data, the student, the penalties, the optimiser, and all the rest.

    python -m benchmarks.train RUN --project FOLDER

trains one trial of a run of a prepared project twice, once to warm up, and prints milliseconds per step. The rest is
what is neither the student's forward pass, the penalties, the backward pass nor the optimiser: it should be at most
10 % of a step.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import torch

from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training.config import Plan
from pipeline.training.log import TrialLog
from pipeline.training.session import Session
from pipeline.training.trial import build_penalties, run_trial


class Stopwatch:
    """Adds up CPU time by what it was spent on. Time in a measured method that another one calls counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

    @contextmanager
    def on(self, what: str, owner: Any, name: str) -> Iterator[None]:
        """Inside, a method is measured."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def measured(*args: Any, **options: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            started = process_time()
            try:
                return function(*args, **options)
            finally:
                spent = process_time() - started
                self.seconds[what] += spent - self._inner
                self._inner = outer + spent

        with patch.object(owner, name, measured):
            yield


def measure(session: Session, seed: int, candidate: Candidate) -> tuple[dict[str, float], int]:
    """Seconds by what they were spent on, and steps."""
    data = session.trial_data(seed, candidate)
    student = data.blueprint.build()
    methods = {type(penalty.transfer) for penalty in build_penalties(session, data, student, candidate).values()}
    watch = Stopwatch()
    with ExitStack() as stack:
        places: list[tuple[str, Any, str]] = [
            ("student", type(student), "forward"),
            ("backward", torch.Tensor, "backward"),
        ]
        places += [("optimiser", torch.optim.AdamW, name) for name in ("step", "zero_grad")]
        places += [("penalties", method, "forward") for method in methods]
        places += [("log", TrialLog, "line"), ("log", TrialLog, "finish"), ("data", type(data.inputs), "batch")]
        for what, owner, name in places:
            stack.enter_context(watch.on(what, owner, name))
        started = process_time()
        steps = sum(run_trial(session, seed, candidate))
        total = process_time() - started
    return watch.seconds | {"rest": total - sum(watch.seconds.values())}, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", help="keys of `runs` in params.yaml")
    parser.add_argument("--project", type=Path, default=Path("."), help="a project with data, features and probes")
    arguments = parser.parse_args()
    os.chdir(arguments.project)
    torch.set_num_threads(1)
    params = Params.load("params.yaml", ["machine.device=cpu"])
    for name in arguments.run:
        session = Session(Plan.read(name, params, Project()))
        # The last candidate has the largest weight of every method.
        candidate = session.run.candidates()[-1]
        sum(run_trial(session, 0, candidate))
        seconds, steps = measure(session, 0, candidate)
        total = sum(seconds.values())
        outside = sum(seconds.get(what, 0.0) for what in ("data", "rest"))
        print(f"{name} ({candidate.label}): {1e3 * total / steps:.2f} ms per step")
        for what, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"  {what:<10} {1e3 * spent / steps:6.2f} ms {spent / total:6.1%}")
        print(f"  outside of student, penalties, backward, optimiser and log: {outside / total:.1%}")


if __name__ == "__main__":
    main()
