"""A project's folder as the stages leave it, with plausible numbers: what the report reads."""

import csv
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.params import Params
from pipeline.project import Project
from pipeline.provenance import digest_of
from pipeline.records import (
    CHECKSUM,
    CandidateRecord,
    DiagnosticsRecord,
    EvaluationRecord,
    GatesRecord,
    LogRecord,
    Metric,
    PenaltyRecord,
    ProbeRecord,
    ProbeSplitRecord,
    RunRecord,
    SeedScores,
    StudentRecord,
    to_json,
)
from pipeline.reporting import Stored, report
from pipeline.reporting.inputs import ReportInputs, read_inputs
from pipeline.reporting.page import render
from pipeline.runs import label
from pipeline.sources import Source

from .html import Page

SEEDS = [0, 1, 2, 3, 4]
CLASSES = ["negative", "neutral", "positive"]
LABELLED, UNLABELLED, TEST = 400, 5200, 3000
FEATURES = "f" * 32
"""The digest of the features of every source."""

CLASSIFICATION = (
    Metric(name="accuracy", label="accuracy", unit="%"),
    Metric(name="macro_f1", label="macro F1", unit="%"),
    Metric(name="log_loss", label="log loss", unit="nats", higher_is_better=False),
)
REGRESSION = (
    Metric(name="rmse", label="RMSE", unit="kWh", higher_is_better=False),
    Metric(name="r2", label="R²"),
)


class Workspace:
    """A folder with a prepared dataset and a probed teacher; `run` adds trained and evaluated runs."""

    def __init__(self, root: Path, metrics: tuple[Metric, ...] = CLASSIFICATION):
        self.root, self.project, self.metrics = root, Project(root), metrics
        self.runs: dict[str, dict[str, Any]] = {}
        per_class = {"labelled": [133, 134, 133], "unlabelled": [1700, 1800, 1700], "val": [133, 134, 133],
                     "test": [1000, 1000, 1000]}  # fmt: skip
        self.write("data/manifest.json", {
            "format": 2, "kind": "text", "rows": 9000, "digest": "0" * 32, "task": "classification", "outputs": CLASSES,
            "unit": "", "label_shape": [], "classes": CLASSES, "without_label": 0,
            "splits": 5, "roles": {"labelled": 0, "unlabelled": 1, "val": 2, "test": 3}, "files": {},
            "rows_of_class": [per_class] * 5, "notes": [],
            "dropped": {"unreadable": 0, "duplicate": 1204, "duplicates disagree about the label": 310},
            "settings": {"source": {"family": "tweets", "min_confidence": 0.6}, "deduplicate": "token_set"},
        })  # fmt: skip
        self.probe("minilm")
        self.log("extract", "minilm", seconds=60.0, rows=9000)

    def write(self, path: str, record: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        fields = {key: value for key, value in record.items() if key != CHECKSUM} if isinstance(record, dict) else {}
        (self.root / path).write_text(to_json(fields) if fields else json.dumps(record))

    def read(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def change(self, path: str, **values: object) -> None:
        self.write(path, self.read(path) | values)

    def log(self, stage: str, name: str, **values: Any) -> None:
        LogRecord(device="cpu", **values).write(self.project.log(stage, name))

    def scores(self, primary: float) -> dict[str, float]:
        others = {metric.name: 0.8 if metric.unit == "nats" else primary - 0.02 for metric in self.metrics[1:]}
        return {self.metrics[0].name: primary} | others

    def probe(self, source: str) -> None:
        splits = [
            ProbeSplitRecord(
                split=k, train_rows=LABELLED, strength=0.01, kernel_sharpness=0.5, kernel_strength=10.0,
                val=self.scores(0.7), test=self.scores(0.69 + k / 1000),
                kernel_val=self.scores(0.71), kernel_test=self.scores(0.71),
            )
            for k in range(5)
        ]  # fmt: skip
        record = ProbeRecord(
            source=source, data=digest_of({}), features=FEATURES, metrics=self.metrics, splits=tuple(splits), files={}
        )
        record.write(self.project.probe(Source.parse(source)) / "probe.json")
        self.log("probe", Source.parse(source).teacher, seconds=1.2)

    def probe_digest(self, source: str) -> str:
        """Of the probes of a source; of none where it has none."""
        path = self.project.probe(Source.parse(source)) / "probe.json"
        return ProbeRecord.read(path).digest if path.exists() else ""

    def run(
        self, name, scores, weights=(0.0, 3.0), chosen=None, methods=None, shuffled=False, gates=None, student="bag",
        teachers=("minilm",), seeds=None, probe=0.697, collapsed=(), share=0.41, reads="text", trained=None,
    ):  # fmt: skip
        """A run with these test scores, one per seed; methods=[] is plain training, unless it reads features."""
        seeds = SEEDS[: len(scores)] if seeds is None else seeds
        methods = [name] if methods is None else methods
        random = np.random.default_rng([ord(letter) for letter in name])
        candidates = [(weight,) * len(methods) for weight in weights] if methods else [()]
        sources = tuple(teachers) if methods or reads == "features" else ()
        chosen = (chosen if chosen is not None else weights[-1],) * len(methods)
        penalties = {method: PenaltyRecord(end=0.21, chance=0.35) for method in methods}
        pulled = {"gradient_ratio_start": 0.8, "gradient_ratio_end": 0.3, "penalties": penalties} if any(chosen) else {}
        folder = self.project.run(name)
        probes = {source: self.probe_digest(source) for source in sources}
        RunRecord(
            run=name, data=digest_of({}), sources=sources, features=dict.fromkeys(sources, FEATURES), probes=probes,
             shuffled_teacher=shuffled, seeds=tuple(seeds), labelled=LABELLED,
            student=StudentRecord(name=student, family="bag_of_words", reads=reads, parameters=612345, width=64),
            methods=tuple({"name": method} for method in methods), splits={str(seed): "d" * 32 for seed in seeds},
            unlabelled=UNLABELLED, steps=1000, settings={"steps": 1000}, metric=self.metrics[0], chosen=chosen,
            candidates=tuple(
                CandidateRecord(weights=w, val_scores=tuple(a + 0.01 * (w == chosen) for a in scores))
                for w in candidates
            ),
            trainings=len(candidates) * len(seeds), files={},
            diagnostics=tuple(
                DiagnosticsRecord(
                    seed=seed, collapsed=seed in collapsed, largest_share=share, feature_spread_start=7.9,
                    feature_spread_end=8.0, **pulled,
                )
                for seed in seeds
            ),
        ).write(folder / "run.json")  # fmt: skip
        column = f"val_{self.metrics[0].name}"
        with (folder / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["seed", "weight", "step", "task_loss", column])
            writer.writeheader()
            for w in candidates:
                for seed, final in zip(seeds, scores, strict=True):
                    for step in range(0, 1001, 50):
                        value = 0.4 + (final - 0.4) * (1 - math.exp(-step / 150)) + 0.004 * random.normal()
                        writer.writerow({"seed": seed, "weight": label(w), "step": step, column: value})
        if gates is not None:
            values = {
                source: tuple(tuple(1 / (1 + np.exp(-random.normal(size=width)))) for _ in seeds)
                for source, width in gates.items()
            }
            GatesRecord(gates=values).write(folder / "gates.json")
        for seed in seeds:
            kept = folder / "students" / str(seed)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "student.json").write_text(json.dumps({"family": "bag_of_words"}))
            (kept / "weights.safetensors").write_bytes(b"0" * 1975)
        EvaluationRecord(
            run=name, student=student, students=digest_of({}), sources=sources, data=digest_of({}),
            probes=probes, task="classification", metrics=self.metrics,
            outputs=tuple(CLASSES), test_rows=TEST,
            results=tuple(
                SeedScores(seed=s, split=s % 5, scores=self.scores(a)) for s, a in zip(seeds, scores, strict=True)
            ),
            probe=tuple(
                SeedScores(seed=s, split=s % 5, scores=self.scores(probe + 0.002 * math.sin(s))) for s in seeds
            ) if sources else None,
        ).write(self.project.evaluation(name))  # fmt: skip
        trained = len(candidates) * len(seeds) if trained is None else trained
        provenance = {"commit": "f" * 40, "changed": False, "versions": {"python": "3.11.9", "torch": "2.14.0"}}
        self.log("train", name, seconds=31.2, trainings=trained, provenance=provenance)
        self.log("evaluate", name, seconds=2.1, rows=TEST * len(seeds))
        self.runs[name] = {"student": student}

    def params(self, *names: str, **sections: Any) -> Params:
        """Settings with these runs, or all."""
        return Params({"runs": {name: self.runs.get(name, {}) for name in names or self.runs}, **sections})

    def inputs(self, *names: str, stores: tuple[Stored, ...] = (), **sections: Any) -> ReportInputs:
        """What the report of these runs, or of all, is made from."""
        return read_inputs(self.params(*names, **sections), self.project, stores)

    def section(self, section: ModuleType, **options: Any) -> Page:
        """One section of the page, alone."""
        return Page(render(section, self.inputs(**options)))

    def report(self, *names: str, stores: tuple[Stored, ...] = (), **sections: Any):
        """The report of these runs, or all."""
        return report(self.params(*names, **sections), self.project, stores)


NONE = [0.651, 0.657, 0.646, 0.660, 0.655]
AFT = [0.676, 0.679, 0.674, 0.681, 0.683]
KD = [0.655, 0.654, 0.652, 0.659, 0.661]


def demo(root: Path) -> Workspace:
    """Plain training, a run within the noise, two that gain, one of weight 0, and a control."""
    space = Workspace(root)
    space.run("none", NONE, methods=[])
    space.run("kd", KD, weights=(0.0, 1.0, 10.0), chosen=1.0)
    space.run("logit_kd", [a + d for a, d in zip(AFT, (0.001, -0.002, 0.004, 0.0, 0.001), strict=True)],
              weights=(0.0, 1.0, 3.0))  # fmt: skip
    space.run("aft", NONE, weights=(0.0, 3.0, 10.0), chosen=0.0)
    space.run("aft_task", AFT, weights=(0.0, 3.0, 10.0), methods=["aft"], gates={"minilm": 384, "minilm: task": 3})
    space.run("aft_shuffled", [0.566, 0.601, 0.580, 0.612, 0.571], weights=(3.0, 30.0), chosen=3.0, methods=["aft"],
              shuffled=True, gates={"minilm": 384})  # fmt: skip
    return space
