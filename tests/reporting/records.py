"""A project's folder as the stages leave it, with plausible numbers: what the report reads."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = [0, 1, 2, 3, 4]
CLASSES = ["negative", "neutral", "positive"]
LABELLED, UNLABELLED, TEST = 400, 5200, 3000


class Project:
    """A folder with a prepared dataset and a probed teacher; `run` adds trained and evaluated runs."""

    def __init__(self, root: Path):
        self.root = root
        per_class = {"labelled": [133, 134, 133], "unlabelled": [1700, 1800, 1700], "val": [133, 134, 133],
                     "test": [1000, 1000, 1000]}  # fmt: skip
        self.write("data/manifest.json", {
            "format": 1, "kind": "text", "rows": 9000, "digest": "0" * 32, "classes": CLASSES, "without_label": 0,
            "splits": 5, "rows_of_class": [per_class] * 5, "notes": [],
            "dropped": {"unreadable": 0, "twin": 1204, "twins disagree about the label": 310},
            "settings": {"source": {"family": "tweets", "min_confidence": 0.6}, "deduplicate": "token_set"},
        })  # fmt: skip
        self.probe("minilm")

    def write(self, path: str, record: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(json.dumps(record))

    def read(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def change(self, path: str, **values: object) -> None:
        self.write(path, self.read(path) | values)

    def probe(self, teacher: str) -> None:
        splits = [
            {"split": k, "strength": 0.01, "val_accuracy": 0.7, "val_log_loss": 0.7, "test_accuracy": 0.69 + k / 1000,
             "train_rows": LABELLED, "kernel_test_accuracy": 0.71}
            for k in range(5)
        ]  # fmt: skip
        self.write(f"probes/{teacher}.json", {"teacher": teacher, "splits": splits, "seconds": 1.2})

    def run(
        self, name, accuracies, weights=(0.0, 3.0), chosen=None, methods=None, shuffled=False, gates=None,
        student="bag", teachers=("minilm",), seeds=None, probe=0.697, one_class=(), share=0.41, reads="text",
    ):  # fmt: skip
        """A run with these test accuracies, one per seed; methods=[] is plain training, unless it reads features."""
        seeds = SEEDS[: len(accuracies)] if seeds is None else seeds
        methods = [name] if methods is None else methods
        random = np.random.default_rng([ord(letter) for letter in name])
        candidates = [[weight] * len(methods) for weight in weights] if methods else [[]]
        teachers = list(teachers) if methods or reads == "features" else []
        chosen = [chosen if chosen is not None else weights[-1]] * len(methods)
        self.write(f"runs/{name}/run.json", {
            "run": name, "teachers": teachers,
            "student": {
                "name": student, "family": "bag_of_words", "reads": reads, "parameters": 612345, "width": 64,
            },
            "methods": [{"name": m, "settings": {}} for m in methods],
            "shuffled_teacher": shuffled, "seeds": seeds, "labelled": LABELLED, "unlabelled": UNLABELLED, "steps": 1000,
            "settings": {"steps": 1000}, "chosen": chosen, "trainings": len(candidates) * len(seeds), "seconds": 31.2,
            "candidates": [
                {"weights": w, "val_accuracy": [a + 0.01 * (w == chosen) for a in accuracies]} for w in candidates
            ],
            "guards": [
                {"seed": s, "one_class": s in one_class, "largest_class_share": share, "feature_spread_start": 7.9,
                 "feature_spread_end": 8.0}
                | ({"gradient_ratio_start": 0.8, "gradient_ratio_end": 0.3,
                    "penalties": {name: {"end": 0.21, "chance": 0.35} for name in methods or []}}
                   if methods and any(chosen) else {})
                for s in seeds
            ],
            "provenance": {"commit": "f" * 40, "changed": False, "versions": {"python": "3.11.9", "torch": "2.14.0"},
                           "device": "cpu"},
        })  # fmt: skip
        with (self.root / f"runs/{name}/curves.csv").open("w", newline="") as file:
            columns = ["seed", "weight", "step", "task_loss", "penalty", "val_accuracy", "gradient_ratio"]
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for w in candidates:
                for seed, final in zip(seeds, accuracies, strict=True):
                    for step in range(0, 1001, 50):
                        value = 0.4 + (final - 0.4) * (1 - math.exp(-step / 150)) + 0.004 * random.normal()
                        line = {"task_loss": 1.0, "penalty": 0.2} if step < 1000 else {}
                        writer.writerow(
                            {
                                "seed": seed,
                                "weight": "+".join(f"{x:g}" for x in w) or "none",
                                "step": step,
                                "val_accuracy": value,
                            }
                            | line
                        )
        if gates is not None:
            values = {
                teacher: [list(1 / (1 + np.exp(-random.normal(size=width)))) for _ in seeds]
                for teacher, width in gates.items()
            }
            self.write(f"runs/{name}/gates.json", values)
        self.write(f"evaluations/{name}.json", {
            "run": name, "student": student, "teachers": teachers,
            "classes": CLASSES, "test_rows": TEST, "seconds": 2.1,
            "results": [
                {"seed": s, "split": s % 5, "accuracy": a, "macro_f1": a - 0.02, "log_loss": 0.8,
                 "largest_class_share": share}
                for s, a in zip(seeds, accuracies, strict=True)
            ],
            "probe": [{"seed": s, "accuracy": probe + 0.002 * math.sin(s)} for s in seeds] if teachers else None,
        })  # fmt: skip


NONE = [0.651, 0.657, 0.646, 0.660, 0.655]
AFT = [0.676, 0.679, 0.674, 0.681, 0.683]
KD = [0.655, 0.654, 0.652, 0.659, 0.661]


def demo(root):
    """Plain training, a run inside the noise, two that gain, one that stood aside, and a control."""
    project = Project(root)
    project.run("none", NONE, methods=[])
    project.run("kd", KD, weights=(0.0, 1.0, 10.0), chosen=1.0)
    project.run("logit_kd", [a + d for a, d in zip(AFT, (0.001, -0.002, 0.004, 0.0, 0.001), strict=True)],
                weights=(0.0, 1.0, 3.0))  # fmt: skip
    project.run("aft", NONE, weights=(0.0, 3.0, 10.0), chosen=0.0)
    project.run("aft_task", AFT, weights=(0.0, 3.0, 10.0), methods=["aft"],
                gates={"minilm": 384, "minilm: task": 3})  # fmt: skip
    project.run("aft_shuffled", [0.566, 0.601, 0.580, 0.612, 0.571], weights=(3.0, 30.0), chosen=3.0, methods=["aft"],
                shuffled=True, gates={"minilm": 384})  # fmt: skip
    return project
