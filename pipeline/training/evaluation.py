"""What trained students do on test rows, and what their teachers' probes do on the same rows."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.functional.metrics import accuracy, log_loss, macro_f1
from pipeline.machine import Machine
from pipeline.params import Params
from pipeline.probing import probes
from pipeline.store import FeatureStore
from pipeline.students import load_student, predict


@dataclass(frozen=True)
class SeedScore:
    """The test metrics of one seed's student."""

    seed: int
    split: int
    accuracy: float
    macro_f1: float
    log_loss: float
    largest_class_share: float


@dataclass(frozen=True)
class ProbeScore:
    """The test accuracy of the run's teachers' probes on the rows that this seed's student was tested on."""

    seed: int
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns and writes. `probe` is None for a run without teachers."""

    run: str
    student: str
    teachers: list[str]
    classes: list[str]
    test_rows: int
    results: list[SeedScore]
    probe: list[ProbeScore] | None
    seconds: float

    def __str__(self) -> str:
        scores = [score.accuracy for score in self.results]
        reference = f", the teachers' probe {np.mean([p.accuracy for p in self.probe]):.4f}" if self.probe else ""
        return f"{self.run}: test accuracy {np.mean(scores):.4f} over {len(scores)} seeds{reference}"


def evaluate(name: str, params: Params, root: Path = Path(".")) -> Evaluation:
    """Test the students of the run `name`; write `<root>/evaluations/<name>.json`.

    Several teachers are one reference: the mean of their probes' log-probabilities.

    Raises:
        UserError: the run was not trained, or on another dataset; there are no test rows.
    """
    started = time.perf_counter()
    folder = root / "runs" / name
    try:
        record = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: run {name!r} is not trained; run `aft train {name}`") from None
    data = Dataset.open(root / "data")
    device = params.read(Machine, "machine").torch_device()
    stores = {t: FeatureStore.open(root / "features" / f"{t}.zarr") for t in record["teachers"]}
    results, references = [], []
    test_rows = 0
    for seed in record["seeds"]:
        number = seed % data.splits
        rows = data.split(number).test
        if not len(rows):
            raise UserError(f"{root / 'data'}: no test rows in draw {number}; set dataset.test")
        if record["draws"][str(seed)] != data.split_digest(number):
            raise UserError(f"{folder}: trained on other rows, splits or labels than these; run `aft train {name}`")
        recipe, student = load_student(folder / "students" / str(seed), data.task.outputs)
        logits = predict(student.to(device), recipe.inputs(data, stores), rows, device)
        labels = data.labels[rows]
        share = np.bincount(logits.argmax(1), minlength=len(data.task.outputs)).max() / len(rows)
        scores = (accuracy(logits, labels), macro_f1(logits, labels), log_loss(logits, labels), float(share))
        results.append(SeedScore(seed, number, *scores))
        if stores:
            votes = [_probe_logits(root, teacher, store, data, number, rows) for teacher, store in stores.items()]
            references.append(ProbeScore(seed, accuracy(np.mean(votes, axis=0), labels)))
        test_rows = len(rows)
    evaluation = Evaluation(
        name, record["student"]["name"], record["teachers"], list(data.task.outputs), test_rows, results,
        references or None, time.perf_counter() - started,
    )  # fmt: skip
    out = root / "evaluations" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
    return evaluation


def _probe_logits(
    root: Path, teacher: str, store: FeatureStore, data: Dataset, number: int, rows: np.ndarray
) -> np.ndarray:
    """Log-probabilities [n, C] of one teacher's probe."""
    store.check(dataset=data.digest, ids=data.ids)
    fitted = probes.load_probe(root / "probes" / f"{teacher}.safetensors", number, data, store)
    raw = store.reader(store.head_name())(rows)
    logits: np.ndarray = log_softmax(fitted.logits(raw), axis=1)
    return logits
