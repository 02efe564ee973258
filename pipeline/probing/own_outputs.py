"""Scores of a teacher's own outputs for the task, such as its logits from the names of the classes."""

import numpy as np

from pipeline.data import Dataset
from pipeline.store import SourceFeatures

BLOCK = 8192
"""Rows whose outputs are in memory at a time."""


def own_scores(features: SourceFeatures, data: Dataset, split: int) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of a source on the validation and test rows of a split; empty where it has no outputs, or no rows.

    No label is fitted.

    Raises:
        UserError: its outputs are of other classes than the dataset's.
    """
    if not features.has_outputs:
        return {}, {}
    features.check_classes(data.task.outputs)
    reader, rows = features.reader(), data.split(split)

    def scores(some: np.ndarray) -> dict[str, float]:
        blocks = [reader(some[start : start + BLOCK]).astype(np.float32) for start in range(0, len(some), BLOCK)]
        return data.task.scores(np.concatenate(blocks), data.labels[some]) if blocks else {}

    return scores(rows.val), scores(rows.test)
