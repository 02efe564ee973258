"""Training: what a step spends outside of the student, and a sweep against a plain script.

    python -m benchmarks.train [--only step|twelve] [--json] [--dry]
    python -m benchmarks.train --project FOLDER RUN...

Two measurements, on projects of made-up texts and JPEG pictures:

- **A step.** Milliseconds of processor time by what they were spent on, for the students of a CPU and a ResNet-18 at 96
  pixels, plain and with AFT. The share outside of the student's own work is measured against a bare loop: forward pass,
  loss, penalties, backward pass and optimiser on batches that are in memory, and nothing else. It should be at most
  10 %. Lines of the log, about twenty a training, are counted apart.
- **Twelve students**, four seeds of three weights of AFT, as one run, against the same twelve by a plain script that is
  correct and does what scripts do: it decodes its pictures in every step, has the teacher's features in memory,
  computes in float32, and asks for the loss in every step. The run comes between two halves of the script's students,
  which count by their median. The run should be three times as fast. Once with photographs (the two of scikit-learn,
  JPEGs of 640 x 427 pixels, shifted), and once with smooth pictures of 256 pixels, which decode in a seventh.

With a project and runs, the first measurement alone is made, on these. Figures are of processor time, because a busy
machine stretches the clock.
"""

import argparse
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import islice
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.extract import photographs
from pipeline.data import Dataset, PrepareSettings, prepare
from pipeline.methods import Signals
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.runs import Candidate
from pipeline.store import Head, RowIndex, StoreWriter
from pipeline.training import train
from pipeline.training.batches import batches
from pipeline.training.config import Plan
from pipeline.training.log import TrialLog
from pipeline.training.session import Session
from pipeline.training.trial import build_penalties, ready_parts, run_trial, start

WIDTH = 256
"""Of the made-up teacher's features."""


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


def spent(session: Session, seed: int, candidate: Candidate) -> tuple[dict[str, float], int]:
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
        places += [("loss", type(data.task), "loss")]
        places += [("optimiser", torch.optim.AdamW, name) for name in ("step", "zero_grad")]
        places += [("penalties", method, "forward") for method in methods]
        places += [("log", TrialLog, name) for name in ("line", "last", "finish")]
        places += [("data", type(data.inputs), "batch")]
        for what, owner, name in places:
            stack.enter_context(watch.on(what, owner, name))
        training = run_trial(session, seed, candidate)
        next(training)  # what comes before the first step is no part of one
        watch.seconds.clear()
        started = process_time()
        steps = sum(training)
        total = process_time() - started
    return watch.seconds | {"rest": total - sum(watch.seconds.values())}, steps


def bare_loop(session: Session, seed: int, candidate: Candidate) -> Iterator[None]:
    """The student's own work and nothing else, a step at a time: all batches are in memory before the first."""
    trial = start(session, seed, candidate)
    data, optimizer = trial.data, trial.optimisation.optimizer
    rows = enumerate(batches(data.split, seed, data.settings, bool(trial.penalties), data.strata))
    made = list(ready_parts(data, rows, trial.penalties))
    yield
    for each in made:
        optimizer.zero_grad()
        features, outputs = trial.student(each.inputs)
        loss = data.task.loss(outputs[: each.part.labelled], each.labels[: each.part.labelled])
        if trial.penalties:
            at = each.start
            signals = Signals(features[at:], outputs[at:], each.labels[at:], each.teachers, each.teacher_outputs)
            loss = loss + sum(penalty.weight * penalty.transfer(signals) for penalty in trial.penalties.values())
        loss.backward()
        optimizer.step()
        yield


def outside(session: Session, seed: int, candidate: Candidate, block: int) -> float:
    """The share of a step that is not the student's own work: 1 - bare / whole.

    A training and a bare loop take turns of `block` steps each, and the median over pairs of turns counts.
    """
    watch, shares = Stopwatch(), []

    def seconds(steps: Iterator[Any]) -> float:
        logged, began = watch.seconds["log"], process_time()
        taken = sum(1 for _ in islice(steps, block))
        return (process_time() - began - watch.seconds["log"] + logged) if taken == block else inf

    with ExitStack() as stack:
        for name in ("line", "last", "finish"):
            stack.enter_context(watch.on("log", TrialLog, name))
        whole, bare = run_trial(session, seed, candidate), bare_loop(session, seed, candidate)
        next(whole), next(bare)
        while (of_whole := seconds(whole)) < inf and (of_bare := seconds(bare)) < inf:
            shares.append(1 - of_bare / of_whole)
    return median(shares)


def step(name: str, params: Params, project: Project, block: int) -> dict[str, Any]:
    """One trial of a run, once to warm up and then measured: milliseconds a step by what, and the share outside."""
    session = Session(Plan.read(name, params, project))
    # The last candidate has the largest weight of every method.
    candidate = session.run.candidates()[-1]
    sum(run_trial(session, 0, candidate))
    seconds, steps = spent(session, 0, candidate)
    return {
        "run": name,
        "milliseconds": {what: 1e3 * value / steps for what, value in seconds.items()},
        "outside": outside(session, 0, candidate, block),
    }


def make_project(root: Path, pictures: int, texts: int, size: int, short: bool) -> tuple[Params, Params]:
    """Projects of pictures and of texts in `root`, with a store of made-up features each; their settings."""
    random = np.random.default_rng(0)
    smooth_pictures(root / "pictures" / "raw", pictures, size)
    (root / "texts").mkdir()
    with (root / "texts" / "raw.csv").open("w") as file:
        file.write("text,label\n")
        for number in range(texts):
            text = " ".join(f"w{n}" for n in random.zipf(1.3, random.integers(8, 30)).clip(max=20_000))
            file.write(f"t{number} {text},class{number % 4}\n")
    train_section = {"seeds": [0, 1, 2, 3], "race": False, "learning_rate": 0.002}
    methods = {"aft": {"weight": [1.0, 3.0, 10.0]}}

    def params(source: dict[str, Any], students: dict[str, Any], sizes: dict[str, dict[str, int]]) -> Params:
        runs: dict[str, Any] = {}
        for name in students:
            runs[name] = {"student": name, "train": sizes[name]}
            runs[f"{name}_aft"] = runs[name] | {"teachers": ["made_up"], "methods": methods}
        return Params(
            {
                "dataset": {"source": source, "task": "classification", "val": 24, "test": 24},
                "teachers": {"made_up": {"family": "transformers", "model": "none"}},
                "probe": {"strengths": [1.0]},
                "students": students,
                "train": train_section,
                "machine": {"device": "cpu", "workers": 1, "checkpoint_minutes": None},
                "runs": runs,
            }
        )

    few, many = (2, 4) if short else (3, 40)
    images = params(
        {"family": "image_folder", "path": str(root / "pictures" / "raw")},
        {
            "cnn": {"family": "compact_cnn", "size": 32, "channels": 3},
            "resnet18": {"family": "timm", "model": "resnet18", "pretrained": False, "size": 96},
        },
        {"cnn": {"steps": many, "batch_size": 32}, "resnet18": {"steps": few, "batch_size": 32}},
    )
    words = params(
        {
            "family": "text_table",
            "path": str(root / "texts" / "raw.csv"),
            "text_column": "text",
            "label_column": "label",
        },
        {"bag": {"family": "bag_of_words", "width": 64}},
        {"bag": {"steps": 10 * many, "batch_size": 128}},
    )
    for name, settings in (("pictures", images), ("texts", words)):
        _before_training(Project(root / name), settings)
    return images, words


def smooth_pictures(folder: Path, count: int, size: int) -> None:
    """JPEGs of four classes, of `size` x `size` pixels."""
    random = np.random.default_rng(0)
    for number in range(count):
        of_class = folder / f"class{number % 4}"
        of_class.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(of_class / f"{number:05}.jpg")


def _before_training(project: Project, params: Params) -> None:
    prepare(params.read(PrepareSettings, "dataset"), project.data)
    _write_features(Dataset.open(project.data), project.store("made_up"))
    probe("made_up", params.read(ProbeSettings, "probe"), project)


def _write_features(data: Dataset, path: Path) -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(len(data), WIDTH)) + 3 * random.normal(size=(4, WIDTH))[data.labels]
    rows = RowIndex(ids=data.ids, digests=data.row_digests)
    heads = {"pooled": Head(shape=(WIDTH,), dtype="float16")}
    with StoreWriter.open(path, rows=rows, dataset=data.digest, recipe={"teacher": "made up"}, heads=heads) as writer:
        for shard in writer.missing():
            writer.write(shard, {"pooled": features[shard.start : shard.stop]})


def plain_script(session: Session, seed: int, weight: float, files: list[Path], features: torch.Tensor) -> float:
    """One student of the twelve, as a plain script trains it; the accuracy on validation rows.

    Args:
        session: of the run, for rows, labels and the student's architecture; its caches are not used.
        seed, weight: of the student.
        files: of all rows.
        features: the teacher's, of all rows [rows, D], in memory.
    """
    split, labels = session.data.split(seed % session.data.splits), torch.from_numpy(session.data.labels)
    candidate = Candidate((weight,))
    settings, blueprint = session.settings(seed, candidate), session.blueprint(seed % session.data.splits, candidate)
    fitted = blueprint.fitted
    mean, std = (torch.tensor(fitted[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    size = blueprint.settings["size"]

    def read(rows: np.ndarray) -> torch.Tensor:
        pixels = [np.asarray(Image.open(files[row]).convert("RGB").resize((size, size))) for row in rows]
        return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def kernel(values: torch.Tensor) -> torch.Tensor:
        values = functional.normalize(values - values.mean(0), dim=1)
        return values @ values.T

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    student = blueprint.build()
    gate = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([*student.parameters(), gate], settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    done = 0
    while done < settings.steps:
        order = random.permutation(split.labelled)
        for first in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            rows = order[first : first + settings.batch_size]
            found, outputs = student(read(rows))
            task = functional.cross_entropy(outputs, labels[rows])
            gap = kernel(found) - kernel(features[rows] * gate.sigmoid())
            loss = task + weight * (gap.square().mean() + 1e-12).sqrt()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()
            done += 1
            if done == settings.steps:
                break
    student.eval()
    with torch.no_grad():
        return (student(read(split.val))[1].argmax(1) == labels[split.val]).float().mean().item()


def twelve(params: Params, project: Project, raw: Path, scripts: int = 6) -> dict[str, float]:
    """Seconds of the twelve students, as one run and by a plain script.

    Args:
        params, project: with a run `cnn_aft`.
        raw: the folder of its pictures.
        scripts: how many of its students the script trains.
    """
    session = Session(Plan.read("cnn_aft", params, project))
    by_name = {path.relative_to(raw).as_posix(): path for path in raw.rglob("*.jpg")}
    files = [by_name[str(name)] for name in session.data.ids]
    features = torch.from_numpy(np.asarray(session.feature_readers[0][0](np.arange(len(session.data))))).float()
    trials = [(seed, weight) for seed in (0, 1, 2, 3) for weight in (1.0, 3.0, 10.0)]
    plain_script(session, *trials[0], files, features)  # to warm up
    seconds: list[tuple[float, float]] = []

    def script(of: list[tuple[int, float]]) -> None:
        for seed, weight in of:
            began, clock = process_time(), perf_counter()
            plain_script(session, seed, weight, files, features)
            seconds.append((process_time() - began, perf_counter() - clock))

    script(trials[: scripts // 2])
    shutil.rmtree(project.inputs)  # the run decodes its pictures, too
    began, clock = process_time(), perf_counter()
    train("cnn_aft", params, project)
    run = process_time() - began, perf_counter() - clock
    script(trials[scripts // 2 : scripts])
    scripted = [12 * median(each[way] for each in seconds) for way in (0, 1)]
    return {
        "run_seconds": run[0],
        "script_seconds": scripted[0],
        "times_as_fast": scripted[0] / run[0],
        "times_as_fast_by_the_clock": scripted[1] / run[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", help="keys of `runs` in params.yaml")
    parser.add_argument("--project", type=Path, help="a project with data, features and probes")
    parser.add_argument("--only", choices=("step", "twelve"), help="one of the two measurements")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--dry", action="store_true", help="a few steps only: whether it works, not how fast")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if arguments.project:
        params = Params.load(arguments.project / "params.yaml", ["machine.device=cpu"])
        found["steps"] = [step(name, params, Project(arguments.project), 20) for name in arguments.run]
    else:
        dry = arguments.dry
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            images, words = make_project(root, 160, 400 if dry else 2000, 256, dry)
            texts, pictures = Project(root / "texts"), Project(root / "pictures")
            if arguments.only != "twelve":
                found["steps"] = [step(name, words, texts, 2 if dry else 20) for name in ("bag", "bag_aft")]
                found["steps"] += [step(name, images, pictures, 2 if dry else 5) for name in ("cnn", "cnn_aft")]
                found["steps"] += [step(name, images, pictures, 1) for name in ("resnet18", "resnet18_aft")]
            if arguments.only != "step":
                raw = root / "photographs" / "raw"
                source = photographs(160, raw)
                photos = Params(images.values | {"dataset": images.values["dataset"] | {"source": source}})
                _before_training(Project(root / "photographs"), photos)
                scripts = 2 if dry else 6
                found["twelve"] = {
                    "photographs": twelve(photos, Project(root / "photographs"), raw, scripts),
                    "smooth": twelve(images, pictures, root / "pictures" / "raw", scripts),
                }
    if arguments.json:
        print(json.dumps(found))
        return
    for each in found.get("steps", []):
        print(f"{each['run']}: {each['outside']:.1%} of a step is not the student's own work")
        for what, value in sorted(each["milliseconds"].items(), key=lambda item: -item[1]):
            print(f"  {what:<10} {value:8.2f} ms")
    for pictures_of, figures in found.get("twelve", {}).items():
        print(f"twelve students, {pictures_of}: " + ", ".join(f"{what} {value:.2f}" for what, value in figures.items()))


if __name__ == "__main__":
    main()
