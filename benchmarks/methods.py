"""What transfer costs: `python -m benchmarks.methods [--json]`. Every number is a ratio measured within one run.

1. A training step with AFT over the same step without it, for a ResNet-18 and a ViT-Tiny at several batch sizes and
   teacher widths.
2. Every method's penalty, forward, backward and the step of its own parameters, as a share of a ResNet-18's step.
3. AFT on the outer product of two modalities of width 1024 and 4096, through Gram matrices and by forming the product.

What is compared is interleaved, and a ratio is the median of those of neighbours in time. Times are CPU time on one
thread: other work on the machine and the scheduling of threads then hardly count.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product as product_of
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from torch.nn import functional as F

from pipeline import tasks
from pipeline.functional.kernels import centre, cosine, gram, rms_gap
from pipeline.methods import Context, Directions, Signals, TeacherProfile, Transfer
from pipeline.params import plugin, plugins

CLASSES = 100
PIXELS = 96
STUDENTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ResNet-18": ("resnet18", {}, 512),
    "ViT-Tiny": ("vit_tiny_patch16_224", {"img_size": PIXELS}, 192),
}
"""Their names in timm, their settings, and the width of their features."""
STEPS = [(128, 384), (256, 1536), (512, 4096)]
"""Rows of a batch, and width of the teacher."""
LIMIT = 1.03
Actions = dict[str, Callable[[], None]]
MODALITIES = (1024, 4096)


class AnyKind(dict[Any, Any]):
    """Random outputs of teachers, the same for every kind that a method reads."""

    def __init__(self, teachers: int, batch: int):
        super().__init__()
        self.outputs = tuple(torch.randn(batch, CLASSES) for _ in range(teachers))

    def __missing__(self, kind: Any) -> tuple[torch.Tensor, ...]:
        return self.outputs


def context(student_width: int, widths: tuple[int, ...], rows: int = 512) -> Context:
    """Random teachers, a random student, random labels: cost does not depend on values."""
    features = [torch.randn(rows, width) for width in widths]
    student, labels = torch.randn(rows, student_width), torch.arange(rows) % CLASSES
    profiles = [
        TeacherProfile(
            f"teacher{number}", x.mean(0), x.std(0), x.shape[1] ** 0.5, "kernel",
            dict.fromkeys(("linear", "kernel"), Directions(torch.zeros(CLASSES), torch.ones(CLASSES))),
        )
        for number, x in enumerate(features)
    ]  # fmt: skip
    every = np.arange(rows)
    return Context(
        student_width, tasks.build("classification", [str(number) for number in range(CLASSES)]), tuple(profiles),
        every, every, every[:64], labels, lambda number, chosen: features[number][chosen],
        lambda kind, number, chosen: torch.randn(len(chosen), CLASSES), lambda chosen: student[chosen], 0,
    )  # fmt: skip


class Step:
    """One training step of a student, with or without a method."""

    def __init__(self, student: str, batch: int, width: int, transfer: Transfer | None):
        torch.manual_seed(0)
        model, settings, features = STUDENTS[student]
        self.backbone = timm.create_model(model, num_classes=0, **settings)
        self.head = torch.nn.Linear(features, CLASSES)
        self.transfer = transfer
        self.optimizer = torch.optim.Adam([*self.backbone.parameters(), *self.head.parameters()], 1e-4)
        if transfer is not None and (own := [p for p in transfer.parameters() if p.requires_grad]):
            self.optimizer.add_param_group({"params": own, "lr": transfer.learning_rate})
        self.images = torch.randn(batch, 3, PIXELS, PIXELS)
        self.labels = torch.arange(batch) % CLASSES
        self.teachers = (torch.randn(batch, width),)
        self.outputs = AnyKind(1, batch)

    def __call__(self) -> None:
        features = self.backbone(self.images)
        logits = self.head(features)
        loss = F.cross_entropy(logits, self.labels)
        if self.transfer is not None:
            loss = loss + 10 * self.transfer(Signals(features, logits, self.labels, self.teachers, self.outputs))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class Penalty:
    """A method alone: its penalty of given features, backward, and the step of its own parameters."""

    def __init__(self, transfer: Transfer, batch: int, widths: tuple[int, ...], student_width: int = 512):
        self.transfer = transfer
        own = [p for p in transfer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(own, transfer.learning_rate) if own else None
        self.features = torch.randn(batch, student_width, requires_grad=True)
        self.logits = torch.randn(batch, CLASSES, requires_grad=True)
        self.teachers = tuple(torch.randn(batch, width) for width in widths)
        self.outputs = AnyKind(len(widths), batch)
        self.labels = torch.arange(batch) % CLASSES

    def __call__(self) -> None:
        self.transfer(Signals(self.features, self.logits, self.labels, self.teachers, self.outputs)).backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def seconds(actions: Actions, repeats: int, calls: dict[str, int] | None = None) -> dict[str, list[float]]:
    """CPU times of each action, taken in turns; `calls` of a quick one are timed together."""
    for action in actions.values():
        action()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            count = (calls or {}).get(name, 1)
            started = time.process_time()
            for _ in range(count):
                action()
            taken[name].append((time.process_time() - started) / count)
    return taken


def over(some: list[float], others: list[float]) -> float:
    """How many times as long: the median over neighbours in time."""
    return median(one / other for one, other in zip(some, others, strict=True))


def steps(repeats: int) -> list[dict[str, Any]]:
    """AFT's step over the plain step, directly, and as the plain step plus AFT's penalty alone."""
    lines = []
    for student, (batch, width) in product_of(STUDENTS, STEPS):
        features = STUDENTS[student][2]
        aft, alone = (plugin("methods", "aft").Settings().build(context(features, (width,))) for _ in range(2))
        actions: Actions = {
            "plain": Step(student, batch, width, None),
            "aft": Step(student, batch, width, aft),
            "alone": Penalty(alone, batch, (width,), features),
        }
        took = seconds(actions, repeats, {"alone": 5})
        lines.append({
            "student": student, "batch": batch, "width": width, "plain_seconds": median(took["plain"]),
            "ratio": over(took["aft"], took["plain"]), "added": 1 + over(took["alone"], took["plain"]),
        })  # fmt: skip
    return lines


def table(repeats: int, batch: int = 256, width: int = 1536) -> list[dict[str, Any]]:
    """Every method with its defaults, and AFT's dearer options: milliseconds, and share of a plain step."""
    options: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in plugins("methods")]
    options = [(name, {"epochs": 1} if name == "factor_transfer" else keys) for name, keys in options]
    options += [("aft", keys) for keys in (
        {"form": "dense"}, {"kernel": "rbf"}, {"task_directions": True}, {"scaling": "whitened"},
        {"objective": "debiased_cka"}, {"queue": 256},
    )]  # fmt: skip
    setting = context(512, (width,))
    built = {
        " ".join([name, *(f"{k}: {v}" for k, v in keys.items())]): plugin("methods", name)
        .Settings(**keys)
        .build(setting)
        for name, keys in options
    }
    plain = Step("ResNet-18", batch, width, None)
    actions: Actions = {name: Penalty(made, batch, (width,)) for name, made in built.items()}
    took = seconds(actions | {"plain": plain}, repeats)
    return [
        {"method": name, "milliseconds": 1e3 * median(took[name]), "share": over(took[name], took["plain"])}
        for name in actions
    ]


def product(how: str, batch: int, repeats: int) -> dict[str, float]:
    """One way through the outer product: median seconds, and by how many bytes the process grew at most."""
    torch.manual_seed(0)
    if how == "grams":
        settings = plugin("methods", "aft").Settings(combine="outer_product")
        action: Callable[[], None] = Penalty(settings.build(context(512, MODALITIES)), batch, MODALITIES)
    else:
        rows = [torch.randn(batch, width) for width in MODALITIES]
        features = torch.randn(batch, 512, requires_grad=True)
        scores = [torch.zeros(width, requires_grad=True) for width in MODALITIES]
        optimizer = torch.optim.Adam(scores, 1e-2)

        def action() -> None:
            a, b = (x * score.sigmoid() for x, score in zip(rows, scores, strict=True))
            formed = (a[:, :, None] * b[:, None, :]).flatten(1)
            rms_gap(cosine(gram(centre(features))), cosine(gram(centre(formed)))).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, that of importing torch
    took = median(seconds({how: action}, repeats, {"grams": 5})[how])
    return {"seconds": took, "bytes": memory("VmHWM") - before}


def memory(field: str) -> float:
    """Of this process in bytes, from Linux: VmRSS what it holds, VmHWM the most it held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024.0 * int(line.split()[1])


def products(repeats: int, batch: int = 64) -> dict[str, float]:
    """Both ways, each in a process of its own so that its memory is its own."""

    def apart(how: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.methods", "--product", how, "--batch", str(batch)]
        ran = subprocess.run([*command, "--repeats", str(repeats)], capture_output=True, text=True, check=True)
        result: dict[str, float] = json.loads(ran.stdout)
        return result

    formed, grams = apart("formed"), apart("grams")
    return {
        "batch": batch, "seconds_formed": formed["seconds"], "seconds_grams": grams["seconds"],
        "time_ratio": formed["seconds"] / grams["seconds"], "bytes_formed": formed["bytes"],
        "bytes_grams": grams["bytes"], "memory_ratio": formed["bytes"] / grams["bytes"],
    }  # fmt: skip


def main() -> None:
    """Measure, print tables; with --json, one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each thing; the median counts")
    parser.add_argument("--product", choices=["formed", "grams"], help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=64, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.product:
        print(json.dumps(product(arguments.product, arguments.batch, arguments.repeats)))
        return
    stepped, costs = steps(arguments.repeats), table(arguments.repeats)
    outer = products(arguments.repeats)
    # Whole steps vary by more between themselves than AFT adds, so the verdict is on the step plus the penalty alone.
    worst = max(step["added"] for step in stepped)
    print(f"A step at {PIXELS} pixels, and AFT's penalty on top, over the step: at most {worst:.3f}, limit {LIMIT}")
    print(f"{'student':>10} {'batch':>6} {'width':>6} {'plain s':>8} {'ratio':>7} {'1 + penalty alone':>18}")
    for step in stepped:
        print("{student:>10} {batch:>6} {width:>6} {plain_seconds:>8.3f} {ratio:>7.3f} {added:>18.3f}".format(**step))
    print("\nEvery method alone, batch 256, teacher width 1536: milliseconds, and share of the plain step")
    for cost in sorted(costs, key=lambda cost: cost["milliseconds"]):
        print("{milliseconds:>9.2f} {share:>8.2%}  {method}".format(**cost))
    print(
        f"\nOuter product {MODALITIES[0]} x {MODALITIES[1]} at batch {outer['batch']}: "
        f"{outer['time_ratio']:.0f} times faster and {outer['memory_ratio']:.0f} times less memory than forming it"
    )
    if arguments.json:
        print(
            json.dumps({"steps": stepped, "methods": costs, "product": outer, "limit": LIMIT, "within": worst <= LIMIT})
        )


if __name__ == "__main__":
    main()
