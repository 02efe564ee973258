"""What the host starts in a step of training, counted on a CPU: on a GPU each is a launch that takes the host time.

    python -m benchmarks.operations [--students NAME...] [--methods NAME...] [--compiled] [--json]

For each student, plain and with each method: the operations of one step in the middle of a training, from reading a
batch to the optimiser. An operation is what torch dispatches below autograd, or one kernel of inductor; views and
memory that is only made are none. Pictures are small, because their size changes no count.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch._inductor import config
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.train import make_project
from pipeline.params import Params
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.training.config import Plan
from pipeline.training.session import Session
from pipeline.training.trial import run_trial

STUDENTS: dict[str, dict[str, Any]] = {
    "bag_of_words": {"family": "bag_of_words", "width": 64},
    "compact_cnn": {"family": "compact_cnn", "size": 32},
    "resnet18": {"family": "timm", "model": "resnet18", "pretrained": False, "size": 32},
    "vit_small": {"family": "timm", "model": "vit_small_patch16_224", "pretrained": False, "size": 32},
}
METHODS = ("none", "kd", "aft", "aft_plus")
STEPS, WARM = 400, 4
"""A line of the log every 20 steps."""
DISPATCHED = set(torch._C._dispatch_get_all_op_names())
"""Some names are those of operations of lists and numbers, too."""


@cache
def _counts(name: str) -> bool | None:
    """Whether an event of the profiler is an operation; None if what it calls is."""
    if "fused" in name and not name.startswith("aten::"):
        return True
    if not name.startswith("aten::"):
        return None
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"))
    overloads = [each for each in map(packet.__getattr__, packet.overloads()) if each.name() in DISPATCHED]
    if any(each._can_decompose() for each in overloads):
        return None
    return not any(each.is_view for each in overloads) and not name.startswith(("aten::empty", "aten::_unsafe_view"))


def started(events: Iterator[FunctionEvent]) -> Counter[str]:
    """The operations among events of the profiler and what these call, by name."""
    found: Counter[str] = Counter()
    for event in events:
        counted = _counts(event.name)
        if counted is None:
            found += started(iter(event.cpu_children))
        elif counted:
            found[event.name] += 1
    return found


def operations(session: Session, weight: float) -> Counter[str]:
    """Those of one step of a trial, by name."""
    training = run_trial(session, 0, Candidate((weight,) * len(session.run.methods)))
    for _ in range(1 + WARM):
        next(training)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        next(training)
    training.close()
    return started(event for event in found.events() if event.cpu_parent is None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--compiled", action="store_true", help="with train.compile")
    parser.add_argument("--json", action="store_true", help="print counts by name as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config.cpp.enable_kernel_profile = True
    counts: dict[str, dict[str, Counter[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images, words = make_project(Path(folder), 600, 1200, 32, short=True)
        for name in arguments.students:
            params, project = (words, "texts") if name == "bag_of_words" else (images, "pictures")
            for method in arguments.methods:
                torch.compiler.reset()
                methods = {} if method == "none" else {"methods": {method: {"weight": 3.0}}}
                run = {"student": "one", **({"teachers": ["made_up"], **methods} if methods else {})}
                train = {"seeds": [0], "steps": STEPS, "batch_size": 128, "compile": arguments.compiled}
                values = params.values | {"students": {"one": STUDENTS[name]}, "runs": {"one": run}, "train": train}
                session = Session(Plan.read("one", Params(values), Project(Path(folder) / project)))
                found = counts.setdefault(name, {})[method] = operations(session, 3.0)
                if not arguments.json:
                    kernels = sum(number for each, number in found.items() if not each.startswith("aten::"))
                    print(f"{name}, {method}: {found.total()} operations, {kernels} of them inductor's", flush=True)
    if arguments.json:
        print(json.dumps(counts))


if __name__ == "__main__":
    main()
