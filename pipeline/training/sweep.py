"""Stage two: train small students from a feature store.

A run is trained once per seed and per candidate: a weight for each method, and the settings that the run searches.
Validation rows choose the candidate, and its students are kept; one that diverges on any seed is recorded and cannot be
chosen. Runs with the same seed share the draw of the splits, the student's initial weights and the order of the
labelled batches, whatever their methods do, so their differences are paired. A weight of 0 is plain training, exactly.
"""

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from torch import Tensor
from torch.nn import functional

from pipeline.data.dataset import Dataset, Split
from pipeline.errors import UserError
from pipeline.files import Lock
from pipeline.machine import Machine, cores
from pipeline.methods import Signals
from pipeline.params import Params, parse, plugin
from pipeline.progress import progress
from pipeline.provenance import commit, versions
from pipeline.runs import config
from pipeline.runs.config import Candidate, Run, Term
from pipeline.students import Student, place, save_student
from pipeline.training import auto_weight
from pipeline.training.log import Diverged, Log, WeightedPenalty
from pipeline.training.session import Plan, Session, TrainSettings, TrialData


@dataclass(frozen=True)
class Fitted:
    """One training: its seed, the candidate it tried, what became of it."""

    seed: int
    candidate: Candidate
    val_accuracy: float
    seconds: float
    parameters: int
    width: int
    curve: list[dict[str, int | float]]
    guard: dict[str, Any]
    gates: dict[str, list[float]] = field(repr=False)


@dataclass(frozen=True)
class Lost:
    """One training that diverged: its seed, the candidate it tried, what went wrong."""

    seed: int
    candidate: Candidate
    why: str
    val_accuracy: None = None


@dataclass(frozen=True)
class Training:
    """What `train` returns.

    Attributes:
        run: its name.
        chosen: the candidate that did best on validation rows.
        val_accuracy: per seed, of the chosen candidate.
        candidates: mean validation accuracy of every candidate; None where it diverged on any seed.
        seconds: wall time of the stage.
        warnings: what should be looked at, such as a candidate that diverged or a student that predicts one class only.
    """

    run: str
    chosen: Candidate
    val_accuracy: list[float]
    candidates: dict[str, float | None]
    trainings: int
    seconds: float
    warnings: list[str]

    def __str__(self) -> str:
        weight = f" with weight {self.chosen.label}" if self.chosen != Candidate(()) else ""
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
            is not there, another process is training the run, or every candidate diverged.
    """
    started = time.perf_counter()
    run = config.read(params, name)
    plan = Plan(name, params, root, run, params.read(Machine, "machine"), uuid4().hex)
    seeds = plan.settings({}).seeds
    fitter = Fitter(plan)  # opens and checks everything, so that what is wrong is said before any training starts
    for line in fitter.world.reading:
        say(f"train {plan.name}: {line}")
    candidates = fitter.candidates()
    lock = Lock(root / "runs" / f".{name}.lock")
    if not lock.acquire():
        raise UserError(f"{lock.path}: {lock.owner()} is training `{name}`; wait for it, or give this run another name")
    try:
        return _train(fitter, seeds, candidates, started)
    finally:
        # Deleted while it is held: who waits for the deleted file sees that it is not this one.
        lock.path.unlink(missing_ok=True)
        lock.release()


def _train(fitter: "Fitter", seeds: list[int], candidates: list[Candidate], started: float) -> Training:
    """All trainings of a run, and the choice; nobody else may be training it."""
    plan, root, name = fitter.plan, fitter.plan.root, fitter.plan.name
    shutil.rmtree(plan.out, ignore_errors=True)
    # Trainings of one seed and like settings follow one another, since they share what was read of the data.
    order = sorted(candidates, key=lambda candidate: (str(candidate.of("student")), str(candidate.of("train"))))
    jobs = [(seed, candidate) for seed in seeds for candidate in order]
    results = list(_fit_all(fitter, jobs))
    results.sort(key=lambda fitted: (seeds.index(fitted.seed), candidates.index(fitted.candidate)))
    chosen = _choose(results)
    (plan.out / "students").mkdir(parents=True)
    for seed in seeds:
        _folder(plan, seed, chosen).rename(plan.out / "students" / str(seed))
    shutil.rmtree(plan.out / "candidates")
    training = _write(plan, results, chosen, time.perf_counter() - started)
    shutil.rmtree(root / "runs" / name, ignore_errors=True)
    plan.out.rename(root / "runs" / name)
    return training


def _fit_all(fitter: "Fitter", jobs: list[tuple[int, Candidate]]) -> Iterator[Fitted | Lost]:
    plan = fitter.plan
    alone = len({candidate for _, candidate in jobs}) == 1
    workers = min(plan.machine.workers or (1 if fitter.world.device.type == "cuda" else cores()), len(jobs))
    total = sum(plan.settings(candidate.of("train")).steps for _, candidate in jobs)
    with progress(f"train {plan.name}", total, "step") as advance:
        if workers == 1:
            for seed, candidate in jobs:
                yield fitter.fit(seed, candidate, advance, alone)
            return
        # loky rather than multiprocessing: it does not import the caller's script again, guarded or not.
        with parallel_config("loky", inner_max_num_threads=max(1, cores() // workers)):
            pool = Parallel(n_jobs=workers, return_as="generator_unordered")
            for fitted in pool(delayed(_fit_there)(plan, seed, candidate, alone) for seed, candidate in jobs):
                yield fitted
                advance(plan.settings(fitted.candidate.of("train")).steps)


def _fit_there(plan: Plan, seed: int, candidate: Candidate, alone: bool) -> Fitted | Lost:
    """One training in a worker process, which opens the data for its first training and keeps it for the rest."""
    if plan.id not in _THERE:
        _THERE.clear()  # workers outlive a call of `train`, and what they opened may have changed since
        _THERE[plan.id] = Fitter(plan)
    return _THERE[plan.id].fit(seed, candidate, lambda steps: None, alone)


_THERE: dict[str, "Fitter"] = {}


class Fitter:
    """Trains the candidates of a run, one after the other, in one process.

    Raises:
        UserError: a setting of a method is wrong, or a store, probe or student is not what the run needs.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.modules = {term.name: plugin("methods", term.name) for term in plan.run.methods}
        self.run = self._searching()
        for combination in self.run.combinations():
            for term in self.run.methods:
                self.method(term, combination)
        self.world = Session(plan)

    def method(self, term: Term, candidate: Candidate) -> Any:
        """The settings of a method, as a candidate tries them.

        Raises:
            UserError: one is wrong.
        """
        tried = candidate.of(f"methods.{term.name}")
        where = self._where(term.name) + (f" (with runs.{self.plan.name}.search)" if tried else "")
        return parse(self.modules[term.name].Settings, term.options | tried, where)

    def candidates(self) -> list[Candidate]:
        """What to try, after one look at everything: each method is built once, and each `auto` is made a list.

        Raises:
            UserError: a method misses something, or a candidate's settings are wrong.
        """
        self.world.check_what_heads_say()
        run, seed = self.run, self.plan.settings({}).seeds[0]
        # In reverse, and so ending with the first one's draw, which training needs first.
        for combination in reversed(run.combinations()):
            draw = self.world.draw(seed, combination)
        known: dict[tuple[Any, ...], list[list[float]]] = {}

        def weights(combination: Candidate) -> list[list[float]]:
            """The lists of weights; where one is `auto`, measured once for each way to set the methods."""
            key = tuple(self.method(term, combination).model_dump_json() for term in run.methods)
            if key not in known:
                known[key] = self._weights(draw, combination)
            return known[key]

        return run.candidates(weights)

    def _searching(self) -> Run:
        """The run, with what `weight: auto` searches of its methods' settings, where the run does not set them."""
        run = self.plan.run
        search = {
            f"methods.{term.name}.{key}": values
            for term in run.methods
            if term.weight == "auto"
            for key, values in getattr(self.modules[term.name], "AUTO", {}).items()
            if key not in term.options and f"methods.{term.name}.{key}" not in run.search
        }
        # Last, so that they change fastest: combinations that differ in them alone share what is read of the data.
        return run.model_copy(update={"search": run.search | search})

    def _weights(self, draw: TrialData, combination: Candidate) -> list[list[float]]:
        """Per method, the weights to try with a combination of settings, whatever else is tried."""
        methods = self.run.methods
        torch.manual_seed(draw.seed)
        student = draw.recipe.build().to(self.world.device)
        pulls = self._build(student, draw, replace(combination, weights=tuple(1.0 for _ in methods)))
        even = self._even(draw, student, pulls) if any(term.weight == "auto" for term in methods) else {}
        return [
            auto_weight.candidates(even[term.name], self._where(term.name)) if term.weight == "auto" else term.weight
            for term in methods
        ]

    def _where(self, method: str) -> str:
        """Where a method's settings are, for messages."""
        return f"{self.plan.params.source}: runs.{self.plan.name}.methods.{method}"

    def fit(self, seed: int, candidate: Candidate, advance: Callable[[int], None], alone: bool) -> Fitted | Lost:
        """One training, or what became of it.

        Raises:
            Diverged: it did, and its candidate is alone: there is no other to choose.
        """
        left = steps = self.plan.settings(candidate.of("train")).steps

        def count(done: int) -> None:
            nonlocal left
            left -= done
            advance(done)

        try:
            return self._fit(seed, candidate, count)
        except Diverged as error:
            lost = error
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:
            if left == steps:  # nothing has moved yet, so nothing has diverged
                raise
            line = " ".join(str(error).split())[:200]
            where = f"{self.plan.name}: seed {seed}, step {steps - left}"
            lost = Diverged(f"{where}: {line}; lower train.learning_rate or the method's weight")
        if alone:
            raise lost
        advance(left)
        return Lost(seed, candidate, str(lost))

    def _fit(self, seed: int, candidate: Candidate, advance: Callable[[int], None]) -> Fitted:
        """One training. Its random numbers depend on the seed alone, never on the methods or their weights."""
        started = time.perf_counter()
        draw, device = self.world.draw(seed, candidate), self.world.device
        settings = draw.settings
        torch.manual_seed(seed)
        student = draw.recipe.build().to(device)
        pulls = self._build(student, draw, candidate)
        torch.manual_seed(seed + 1)  # whatever the methods drew
        optimizer = torch.optim.AdamW(
            student.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for pull in pulls.values():
            if own := list(pull.transfer.parameters()):
                optimizer.add_param_group({"params": own, "lr": pull.transfer.learning_rate, "weight_decay": 0.0})
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
        log = Log(draw, student, pulls)
        student.train()
        for step, (rows, labelled) in enumerate(_batches(draw.split, seed, settings, bool(pulls))):
            task, penalties, features, signals = _losses(draw, student, pulls, rows, labelled, step / settings.steps)
            weighted = {name: pulls[name].at(step / settings.steps) * loss for name, loss in penalties.items()}
            if log.due(step):
                log.line(step, task, penalties, weighted, features, signals)
            loss = sum(weighted.values(), start=task)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
        log.last()
        if not _finite(log.guard, [student, *(pull.transfer for pull in pulls.values())]):
            raise Diverged(
                f"{self.plan.name}: seed {seed}, after the last step: a weight or a gradient is not finite; "
                "lower train.learning_rate or the method's weight"
            )
        save_student(_folder(self.plan, seed, candidate), draw.recipe, student)
        several = sum(bool(pull.transfer.gates()) for pull in pulls.values()) > 1
        gates = {
            f"{method}, {block}" if several else block: values.detach().float().cpu().tolist()
            for method, pull in pulls.items()
            for block, values in pull.transfer.gates().items()
        }
        parameters = sum(p.numel() for p in student.parameters())
        seconds, accuracy = time.perf_counter() - started, log.lines[-1]["val_accuracy"]
        return Fitted(seed, candidate, accuracy, seconds, parameters, student.width, log.lines, log.guard, gates)

    def _build(self, student: Student, draw: TrialData, candidate: Candidate) -> dict[str, WeightedPenalty]:
        """The methods at work on one student; those of weight 0 are not."""
        context = draw.context(student)
        return {
            term.name: WeightedPenalty(
                weight, term.schedule, self.method(term, candidate).build(context).to(self.world.device)
            )
            for term, weight in zip(self.run.methods, candidate.weights, strict=True)
            if weight > 0
        }

    def _even(self, draw: TrialData, student: Student, pulls: dict[str, WeightedPenalty]) -> dict[str, list[float]]:
        """Per method and batch, the weight at which it pulls as hard on the untrained student as the task does."""
        classes = len(draw.recipe.classes)
        student.train()

        def measure() -> tuple[dict[str, list[float]], float]:
            """Those weights, and the task's pull as a share of that through an ordinary last layer."""
            even: dict[str, list[float]] = {name: [] for name in pulls}
            shares = []
            batches = _batches(draw.split, draw.seed, draw.settings, bool(pulls))
            for rows, labelled in islice(batches, auto_weight.BATCHES):
                task, penalties, features, _ = _losses(draw, student, pulls, rows, labelled, 0.0)
                shares.append(auto_weight.pull(task, features) / auto_weight.ordinary_pull(labelled, classes))
                for name, penalty in penalties.items():
                    even[name].append(auto_weight.even(task, penalty, features))
            return even, median(shares)

        even, share = measure()
        if share < auto_weight.SMALL:
            head = torch.nn.Linear(student.width, classes).to(self.world.device)
            with auto_weight.ordinary_head(student, head):
                even, _ = measure()
        return even


def _losses(
    draw: TrialData,
    student: Student,
    pulls: dict[str, WeightedPenalty],
    rows: np.ndarray,
    labelled: int,
    progress: float,
) -> tuple[Tensor, dict[str, Tensor], Tensor, Signals | None]:
    """Of one batch: the task's loss, each method's penalty, the student's features [n, d] that both pull at, and what
    the methods saw, if there are any.

    All that is copied to the device is copied before the student runs, and nothing waits for the device.
    """
    device = draw.world.device
    inputs = place(draw.inputs.batch(rows), device)
    labels, folds = (place(torch.from_numpy(known[rows]), device) for known in (draw.labels, draw.folds))
    # Where there are unlabelled rows, the transfer batch follows the labelled one; else they are the same.
    start = labelled if labelled < len(rows) else 0
    teachers = tuple(draw.teacher_features(k, rows[start:]) for k in range(len(draw.profiles))) if pulls else ()
    heads = tuple(draw.head_logits(k, rows[start:]) for k in range(len(draw.world.heads))) if pulls else ()
    with torch.autocast(device.type, torch.bfloat16, enabled=draw.settings.precision == "bfloat16"):
        features, logits = student(inputs)  # [n, d], [n, c]
    features, logits = features.float(), logits.float()
    task = functional.cross_entropy(logits[:labelled], labels[:labelled])
    if not pulls:
        return task, {}, features, None
    signals = Signals(features[start:], logits[start:], teachers, labels[start:], folds[start:], progress, heads)
    return task, {name: pull.transfer(signals) for name, pull in pulls.items()}, features, signals


def _folder(plan: Plan, seed: int, candidate: Candidate) -> Path:
    """Where the student of one training waits for the choice."""
    return plan.out / "candidates" / f"{candidate.label}-{seed}".replace("/", "_")


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
    apart = transfer and settings.unlabelled and len(split.unlabelled) > 0
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


def _finite(guard: dict[str, Any], modules: Sequence[torch.nn.Module]) -> bool:
    """Whether a training ended among the numbers, its last update and the chance levels included."""
    levels = [value for level in guard.get("penalties", {}).values() for value in level.values()]
    numbers = levels + [value for value in guard.values() if isinstance(value, float)]
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return bool(np.isfinite(numbers).all()) and all(bool(tensor.isfinite().all()) for tensor in tensors)


def _choose(results: Sequence[Fitted | Lost]) -> Candidate:
    """The candidate with the best mean validation accuracy over seeds; of those that tie, the smallest weights.

    Raises:
        UserError: every one diverged.
    """
    candidates = dict.fromkeys(result.candidate for result in results)
    means = {candidate: mean for candidate in candidates if (mean := _mean(results, candidate)) is not None}
    if not means:
        raise UserError(next(result.why for result in results if isinstance(result, Lost)))
    # Rounded, because the same right answers spread over seeds in another way differ in the last digit of their mean.
    return max(means, key=lambda candidate: round(means[candidate], 9))  # max keeps the first, and they are sorted


def _mean(results: Sequence[Fitted | Lost], candidate: Candidate) -> float | None:
    """The mean over seeds; None where one diverged."""
    scores = [result.val_accuracy for result in results if result.candidate == candidate]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if len(known) == len(scores) else None


def _write(plan: Plan, results: Sequence[Fitted | Lost], chosen: Candidate, seconds: float) -> Training:
    fits = [result for result in results if isinstance(result, Fitted)]
    kept = [fitted for fitted in fits if fitted.candidate == chosen]
    candidates = list(dict.fromkeys(result.candidate for result in results))
    settings = plan.settings(chosen.of("train"))
    data = Dataset.open(plan.root / "data")
    split = data.split(settings.seeds[0] % data.splits)
    section = plan.params.section(f"students.{plan.run.student}")
    family = section["family"]
    student = {"name": plan.run.student, "family": family, "reads": plugin("students", family).KIND}
    record = {
        "run": plan.name,
        "student": student | {"parameters": kept[0].parameters, "width": kept[0].width},
        "teachers": plan.run.teachers,
        "methods": [{"name": term.name, "settings": term.options} for term in plan.run.methods],
        "shuffled_teacher": plan.run.shuffle_teachers,
        "seeds": settings.seeds,
        "draws": {seed: data.split_digest(seed % data.splits) for seed in settings.seeds},
        "labelled": len(split.labelled),
        "unlabelled": len(split.unlabelled),
        "steps": settings.steps,
        "settings": settings.model_dump(),
        "candidates": [
            {
                "weights": candidate.weights,
                "settings": dict(candidate.settings),
                "val_accuracy": [r.val_accuracy for r in results if r.candidate == candidate],  # null: it diverged
            }
            for candidate in candidates
        ],
        "chosen": chosen.weights,
        "chosen_settings": dict(chosen.settings),
        "trainings": len(results),
        "seconds": seconds,
        "guards": [fitted.guard for fitted in kept],
        "provenance": commit(plan.root)
        | {"versions": versions("aft-pipeline", "torch", "numpy"), "device": str(plan.machine.torch_device())},
    }
    (plan.out / "run.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    lines = [{"seed": f.seed, "weight": f.candidate.label} | line for f in fits for line in f.curve]
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
    lost = {result.candidate: result for result in reversed(results) if isinstance(result, Lost)}
    warnings += [f"candidate `{c.label}` diverged and cannot be chosen: {lost[c].why}" for c in candidates if c in lost]
    means = {candidate.label: _mean(results, candidate) for candidate in candidates}
    accuracies = [fitted.val_accuracy for fitted in kept]
    return Training(plan.name, chosen, accuracies, means, len(results), seconds, warnings)
