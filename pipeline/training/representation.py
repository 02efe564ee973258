"""What the features of a student know of the task, and how close it is to each teacher, on test rows.

Nothing is chosen by it. A linear probe and the nearest neighbours read the features as they read a teacher's in
`pipeline.probing`: fitted to labelled training rows, their strength and number chosen on validation rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from pipeline.functional.kernels import centre, debiased_cka, gram
from pipeline.functional.knn import unit, vote
from pipeline.functional.standardisation import statistics
from pipeline.records import RepresentationRecord, TeacherRecord
from pipeline.tasks import Task

MOST_ROWS = 5000
"""Rows of each part whose features are read."""

CKA_ROWS = 1000
"""Test rows that CKA compares; its time grows with their square."""

BLOCK = 2048
"""Rows that are compared with their neighbours at a time."""

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates for the number of neighbours, and for the inverse of the probe's penalty."""


def sample(count: int, most: int = MOST_ROWS) -> np.ndarray:
    """At most so many of `count` places, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def representation(
    task: Task,
    seed: int,
    features: Mapping[str, Float[np.ndarray, "_ d"]],
    labels: Mapping[str, np.ndarray],
    outputs: Float[np.ndarray, "n c"],
    teachers: Mapping[str, tuple[Float[np.ndarray, "m _"], Float[np.ndarray, "n c"]]],
) -> RepresentationRecord:
    """Scores of the features of one seed's student, and its closeness to teachers.

    Args:
        task: as the seed's split scales it.
        seed: of the student.
        features, labels: of the parts `labelled`, `val` and `test`.
        outputs: of the student, for test rows.
        teachers: by source, features of the test rows at `sample(n, CKA_ROWS)`, and outputs of its linear probe for all
            test rows.
    """
    compared = sample(len(features["test"]), CKA_ROWS)
    kernel = _kernel(features["test"][compared])
    return RepresentationRecord(
        seed=seed,
        scores=_scores(task, features, labels),
        teachers=tuple(
            TeacherRecord(
                source=name,
                scores={
                    "cka": float(debiased_cka(kernel, _kernel(of_teacher))),
                    "agreement": task.agreement(outputs, of_probe),
                },
            )
            for name, (of_teacher, of_probe) in teachers.items()
        ),
    )


def _scores(
    task: Task, features: Mapping[str, Float[np.ndarray, "_ d"]], labels: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The primary test score of the linear probe, and of the nearest neighbours."""
    train, val, test = features["labelled"], features["val"], features["test"]
    mean, std, _ = statistics(np.arange(len(train)), train.__getitem__)
    train, val, test = ((rows - mean) / std for rows in (train, val, test))
    probe = task.linear.fit(train, labels["labelled"], val, labels["val"], STRENGTHS)
    bank, targets = unit(train), task.targets(labels["labelled"])
    tried = sorted({min(number, len(bank)) for number in NEIGHBOURS})

    def neighbours(rows: Float[np.ndarray, "n d"], numbers: list[int]) -> Float[np.ndarray, "k n c"]:
        blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        votes = np.concatenate([vote(bank, targets, unit(block), numbers) for block in blocks], axis=1)
        return votes * task.scale + task.shift

    best, best_score = tried[0], None
    for number, found in zip(tried, neighbours(val, tried), strict=True):
        score = task.score(found, labels["val"])
        if best_score is None or task.better(score, best_score):  # among ties, the fewest neighbours
            best, best_score = number, score
    return {
        "linear": task.score(probe.outputs(test), labels["test"]),
        "neighbours": task.score(neighbours(test, [best])[0], labels["test"]),
    }


def _kernel(features: np.ndarray) -> torch.Tensor:
    return gram(centre(torch.from_numpy(features).double()))
