"""Compiled steps of every method against the same ones as they are; a process of its own for `test_compiled.py`.

    python -m tests.training.compiled FOLDER BACKEND

In the process of the tests, types are checked at each call, and torch.compile does not see through that. It prints, by
method, the largest difference of losses and gradients, and how many functions were compiled for the steps.
"""

import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.params import Params
from pipeline.plugins import plugins
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training.batches import batches
from pipeline.training.config import Plan
from pipeline.training.prefetch import Ready
from pipeline.training.session import Session
from pipeline.training.trial import Compiled, losses, ready_parts, start

STEPS = 4
Methods = dict[str, dict[str, Any]]
TRIALS: dict[str, tuple[Methods, dict[str, Any], float]] = {
    **{name: ({name: {"epochs": 2} if name == "factor_transfer" else {}}, {}, 0.0) for name in plugins("methods")},
    "options": ({"aft": {"queue": 20}, "aft_plus": {}}, {"class_weights": "balanced", "accumulate": 2}, 0.0),
    "dropout": ({"aft": {"form": "dense"}}, {"augment": {"word_dropout": {}}}, 0.5),
}
"""By name, methods with their settings, settings of `train`, and dropout. Weights change with every step."""


def compared(folder: Path, methods: Methods, train: dict[str, Any], dropout: float, backend: str) -> dict[str, float]:
    weighted = {name: {"weight": 3.0, "schedule": "cosine_decay", **options} for name, options in methods.items()}
    params = Params.load(folder / "params.yaml")
    params.values["students"]["bag"]["dropout"] = dropout
    params.values["train"] |= train | {"compile": True}
    params.values["runs"] = {"one": {"student": "bag", "teachers": ["wise", "loud"], "methods": weighted}}
    session = Session(Plan.read("one", params, Project(folder)))
    trial = start(session, 0, Candidate((3.0,) * len(methods)))
    drawn = islice(enumerate(batches(trial.data.split, 0, trial.data.settings, True, trial.data.strata)), STEPS)
    parts = list(ready_parts(trial.data, drawn, trial.penalties))
    own = [x for x in trial.state.modules.values() for x in x.parameters() if x.requires_grad]
    kept = [{name: x.clone() for name, x in module.state_dict().items()} for module in trial.state.modules.values()]
    with patch.object(torch, "compile", partial(torch.compile, fullgraph=True, backend=backend)):
        compiled = Compiled(trial.data, trial.penalties)

    def as_it_is(ready: Ready, progress: float) -> Tensor:
        task_loss, unweighted, _, _ = losses(trial.data, trial.student, trial.penalties, ready, progress)
        return ready.part.loss(task_loss, [trial.penalties[name].at(progress) * x for name, x in unweighted.items()])

    found: list[list[Tensor]] = []
    for way in (partial(compiled, trial.student), as_it_is):
        for module, state in zip(trial.state.modules.values(), kept, strict=True):
            module.load_state_dict(state)
        results: list[Tensor] = []
        for number, ready in enumerate(parts):
            loss = way(ready, number / len(parts))
            results += [loss.detach(), *torch.autograd.grad(loss, own, materialize_grads=True, allow_unused=True)]
        found.append(results)
    return {
        "difference": max(float((one - other).abs().max()) for one, other in zip(*found, strict=True)),
        "compiled": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    }


def main(folder: Path, backend: str) -> None:
    torch.set_num_threads(1)
    report = {}
    for name, settings in TRIALS.items():
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        report[name] = compared(folder, *settings, backend)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
