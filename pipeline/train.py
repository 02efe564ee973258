"""Stage two: train small students from a feature store.

A run is trained once per seed and per candidate weight; validation rows choose the weight, and the chosen students are
kept. Runs with the same seed share the draw of the splits, the student's initial weights and the order of the labelled
batches, whatever their methods do, so their differences are paired. A weight of 0 is plain training, exactly.
"""

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from torch import Tensor
from torch.nn import functional

from pipeline import checkpoints, runs
from pipeline.guards import Log, Pull
from pipeline.machine import Machine, cores
from pipeline.methods import Signals
from pipeline.params import Params, parse, part
from pipeline.prepared import Prepared, Split
from pipeline.progress import progress
from pipeline.provenance import commit, versions
from pipeline.students import Student
from pipeline.world import Draw, Plan, TrainSettings, World


@dataclass(frozen=True)
class Fitted:
    """One training: its seed, its weights (one per method), what became of it."""

    seed: int
    weights: tuple[float, ...]
    val_accuracy: float
    seconds: float
    parameters: int
    width: int
    curve: list[dict[str, int | float]]
    guard: dict[str, Any]
    gates: dict[str, list[float]] = field(repr=False)


@dataclass(frozen=True)
class Training:
    """What `train` returns.

    Attributes:
        run: its name.
        chosen: the weight of each method, chosen on validation rows.
        val_accuracy: per seed, at the chosen weights.
        candidates: mean validation accuracy of every candidate.
        seconds: wall time of the stage.
        warnings: what should be looked at, such as a student that predicts one class only.
    """

    run: str
    chosen: tuple[float, ...]
    val_accuracy: list[float]
    candidates: dict[str, float]
    trainings: int
    seconds: float
    warnings: list[str]

    def __str__(self) -> str:
        weight = f" with weight {_label(self.chosen)}" if self.chosen else ""
        mean = f"{np.mean(self.val_accuracy):.4f}"
        lines = [f"{self.run}: val accuracy {mean}{weight}, {self.trainings} trainings in {self.seconds:.0f} s"]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def train(
    name: str, params: Params, root: Path = Path("."), say: Callable[[str], None] = lambda line: None
) -> Training:
    """Train the run `name` of params.yaml; write its students, curves and record to `<root>/runs/<name>/`.

    What an earlier training wrote there stays until this one is whole.

    Args:
        name: a key of `runs`.
        params: all settings.
        root: the project's folder, which holds data/, features/ and probes/.
        say: takes a line per teacher, on where its features are read and why, before the work begins.

    Raises:
        UserError: a setting is wrong, a store or probe is missing or belongs to another dataset, a method needs what
            is not there, or a loss is not finite.
    """
    started = time.perf_counter()
    run = runs.read(params, name)
    settings = parse(TrainSettings, params.section("train") | run.train, f"{params.source}: train (for {name})")
    plan = Plan(name, params, root, run, settings, params.read(Machine, "machine"), uuid4().hex)
    shutil.rmtree(plan.out, ignore_errors=True)
    jobs = [(seed, weights) for seed in settings.seeds for weights in run.candidates()]
    results = sorted(_fit_all(plan, jobs, say), key=lambda fitted: jobs.index((fitted.seed, fitted.weights)))
    chosen = _choose(results)
    for seed in settings.seeds:
        (plan.out / "students").mkdir(exist_ok=True)
        (plan.out / "candidates" / f"{_label(chosen)}-{seed}").rename(plan.out / "students" / str(seed))
    shutil.rmtree(plan.out / "candidates")
    training = _write(plan, results, chosen, time.perf_counter() - started)
    shutil.rmtree(root / "runs" / name, ignore_errors=True)
    plan.out.rename(root / "runs" / name)
    return training


def _fit_all(plan: Plan, jobs: list[tuple[int, tuple[float, ...]]], say: Callable[[str], None]) -> Iterator[Fitted]:
    device = plan.machine.torch_device()
    workers = min(plan.machine.workers or (1 if device.type == "cuda" else cores()), len(jobs))
    fit_here = _fitter(plan, say)  # opens and checks everything, so that what is wrong is said before any worker starts
    with progress(f"train {plan.name}", len(jobs) * plan.settings.steps, "step") as advance:
        if workers == 1:
            for seed, weights in jobs:
                yield fit_here(seed, weights, advance)
            return
        # loky rather than multiprocessing: it does not import the caller's script again, guarded or not.
        with parallel_config("loky", inner_max_num_threads=max(1, cores() // workers)):
            pool = Parallel(n_jobs=workers, return_as="generator_unordered")
            for fitted in pool(delayed(_fit_there)(plan, seed, weights) for seed, weights in jobs):
                yield fitted
                advance(plan.settings.steps)


def _fit_there(plan: Plan, seed: int, weights: tuple[float, ...]) -> Fitted:
    """One training in a worker process, which opens the data for its first training and keeps it for the rest."""
    if plan.id not in _THERE:
        _THERE.clear()  # workers outlive a call of `train`, and what they opened may have changed since
        _THERE[plan.id] = _fitter(plan)
    return _THERE[plan.id](seed, weights, lambda steps: None)


_THERE: dict[str, Callable[..., Fitted]] = {}


def _fitter(plan: Plan, say: Callable[[str], None] = lambda line: None) -> Callable[..., Fitted]:
    world = World(plan)
    for line in world.reading:
        say(f"train {plan.name}: {line}")
    methods = [part("methods", term.name) for term in plan.run.methods]
    where = f"{plan.params.source}: runs.{plan.name}.methods"
    settings = [
        parse(module.Settings, term.options, f"{where}.{term.name}")
        for module, term in zip(methods, plan.run.methods, strict=True)
    ]
    draw = world.draw(plan.settings.seeds[0])

    def build(student: Student, draw: Draw, weights: tuple[float, ...]) -> dict[str, Pull]:
        context = draw.context(student)
        terms = zip(plan.run.methods, weights, settings, strict=True)
        return {
            term.name: Pull(weight, term.schedule, s.build(context).to(world.device))
            for term, weight, s in terms
            if weight > 0
        }

    # A method that misses something says so now, before the first step of the first candidate.
    build(draw.recipe.build().to(world.device), draw, tuple(1.0 for _ in methods))
    return lambda seed, weights, advance: _fit(world.draw(seed), weights, build, advance)


def _fit(draw: Draw, weights: tuple[float, ...], build: Callable[..., Any], advance: Callable[[int], None]) -> Fitted:
    """One training. Its random numbers depend on the seed alone, never on the methods or their weights."""
    started = time.perf_counter()
    world, settings, seed = draw.world, draw.world.plan.settings, draw.seed
    torch.manual_seed(seed)
    student = draw.recipe.build().to(world.device)
    pulls: dict[str, Pull] = build(student, draw, weights)
    torch.manual_seed(seed + 1)  # whatever the methods drew
    optimizer = torch.optim.AdamW(
        student.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    for pull in pulls.values():
        if own := list(pull.transfer.parameters()):
            optimizer.add_param_group({"params": own, "lr": pull.transfer.learning_rate, "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
    log = Log(draw, student, pulls)
    student.train()
    for step, (rows, labelled) in enumerate(_batches(draw.split, seed, settings, bool(pulls))):
        inputs = checkpoints.place(draw.inputs.batch(rows), world.device)
        with autocast:
            features, logits = student(inputs)  # [n, d], [n, c]
        features, logits = features.float(), logits.float()
        task = functional.cross_entropy(logits[:labelled], draw.labels[rows[:labelled]])
        progress = step / settings.steps
        penalties: dict[str, Tensor] = {}
        if pulls:
            # Where there are unlabelled rows, the transfer batch follows the labelled one; else they are the same.
            start = labelled if labelled < len(rows) else 0
            seen = rows[start:]
            teachers = tuple(draw.teacher_features(k, seen) for k in range(len(draw.profiles)))
            signals = Signals(features[start:], logits[start:], teachers, draw.labels[seen], progress)
            penalties = {name: pull.transfer(signals) for name, pull in pulls.items()}
        weighted = {name: pulls[name].at(progress) * penalty for name, penalty in penalties.items()}
        if log.due(step):
            log.line(step, task, penalties, weighted, features)
        loss = sum(weighted.values(), start=task)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(1)
    log.last()
    plan = world.plan
    checkpoints.save(plan.out / "candidates" / f"{_label(weights)}-{seed}", draw.recipe, student)
    gates = {name: g.detach().float().cpu().tolist() for p in pulls.values() for name, g in p.transfer.gates().items()}
    parameters = sum(p.numel() for p in student.parameters())
    accuracies = log.lines[-1]["val_accuracy"]
    seconds = time.perf_counter() - started
    return Fitted(seed, weights, accuracies, seconds, parameters, student.width, log.lines, log.guard, gates)


def _rate(step: int, settings: TrainSettings) -> float:
    """The learning rate at a step, as a share of its peak: a linear rise, then a cosine to 0."""
    rise = max(1, round(settings.warmup * settings.steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, settings.steps - rise))))


def _batches(split: Split, seed: int, settings: TrainSettings, transfer: bool) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of each step and how many of them, at the start, form the labelled batch."""
    labelled = _shuffled(split.labelled, settings.batch_size, np.random.default_rng([seed, 0]))
    everyone = _shuffled(split.train, settings.transfer_batch_size, np.random.default_rng([seed, 1]))
    apart = transfer and len(split.unlabelled) > 0
    for _ in range(settings.steps):
        rows = next(labelled)
        yield (np.concatenate([rows, next(everyone)]), len(rows)) if apart else (rows, len(rows))


def _shuffled(rows: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches without end, in a new order every epoch; the last short batch is dropped, kernels need whole ones."""
    size = min(size, len(rows))
    while True:
        order = random.permutation(rows)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def _choose(results: list[Fitted]) -> tuple[float, ...]:
    """The weights with the best mean validation accuracy over seeds; the smallest of those that tie."""
    candidates = dict.fromkeys(fitted.weights for fitted in results)
    return max(candidates, key=lambda weights: _mean(results, weights))  # max keeps the first, and they are sorted


def _mean(results: list[Fitted], weights: tuple[float, ...]) -> float:
    return float(np.mean([fitted.val_accuracy for fitted in results if fitted.weights == weights]))


def _label(weights: tuple[float, ...]) -> str:
    return "+".join(f"{weight:g}" for weight in weights) or "none"


def _write(plan: Plan, results: list[Fitted], chosen: tuple[float, ...], seconds: float) -> Training:
    kept = [fitted for fitted in results if fitted.weights == chosen]
    candidates = list(dict.fromkeys(fitted.weights for fitted in results))
    data = Prepared.open(plan.root / "data")
    split = data.split(plan.settings.seeds[0] % data.splits)
    section = plan.params.section(f"students.{plan.run.student}")
    family = section["family"]
    student = {"name": plan.run.student, "family": family, "reads": part("students", family).KIND}
    record = {
        "run": plan.name,
        "student": student | {"parameters": kept[0].parameters, "width": kept[0].width},
        "teachers": plan.run.teachers,
        "methods": [{"name": term.name, "settings": term.options} for term in plan.run.methods],
        "shuffled_teacher": plan.run.shuffle_teachers,
        "seeds": plan.settings.seeds,
        "draws": {seed: data.draw_digest(seed % data.splits) for seed in plan.settings.seeds},
        "labelled": len(split.labelled),
        "unlabelled": len(split.unlabelled),
        "steps": plan.settings.steps,
        "settings": plan.settings.model_dump(),
        "candidates": [
            {"weights": weights, "val_accuracy": [f.val_accuracy for f in results if f.weights == weights]}
            for weights in candidates
        ],
        "chosen": chosen,
        "trainings": len(results),
        "seconds": seconds,
        "guards": [fitted.guard for fitted in kept],
        "provenance": commit(plan.root)
        | {"versions": versions("aft-pipeline", "torch", "numpy"), "device": str(plan.machine.torch_device())},
    }
    (plan.out / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [{"seed": f.seed, "weight": _label(f.weights)} | line for f in results for line in f.curve]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with (plan.out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
    if kept[0].gates:
        gates = {name: [fitted.gates[name] for fitted in kept] for name in kept[0].gates}
        (plan.out / "gates.json").write_text(json.dumps(gates) + "\n")
    warnings = [
        f"seed {fitted.seed} predicts one class only: raise the LayerNorm'ed width or lower the weight"
        for fitted in kept
        if fitted.guard["one_class"]
    ]
    means = {_label(weights): _mean(results, weights) for weights in candidates}
    accuracies = [fitted.val_accuracy for fitted in kept]
    return Training(plan.name, chosen, accuracies, means, len(results), seconds, warnings)
