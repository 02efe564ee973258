"""How far probabilities are right: scores that tasks share whose outputs are logits."""

from collections.abc import Callable
from math import isfinite, nan

import numpy as np
from jaxtyping import Float, Shaped

from pipeline.functional import metrics
from pipeline.records import Metric

SCORES = (
    Metric(name="calibration_error", label="calibration error", unit="%", higher_is_better=False),
    Metric(name="temperature", label="temperature"),
    Metric(
        name="calibration_error_at_temperature", label="calibration error, scaled", unit="%", higher_is_better=False
    ),
)

FITTED = frozenset({"temperature", "calibration_error_at_temperature"})
"""Those that are fitted on validation rows."""


def scores(
    outputs: Float[np.ndarray, "n c"],
    labels: Shaped[np.ndarray, "n *label"],
    val_outputs: Float[np.ndarray, "m c"],
    val_labels: Shaped[np.ndarray, "m *label"],
    error: Callable[[np.ndarray, np.ndarray], float],
    loss: Callable[[np.ndarray, np.ndarray], float],
) -> dict[str, float]:
    """The scores of rows, by name; NaN where there are no validation rows.

    Args:
        outputs, labels: of the rows; logits, and labels as the task has them.
        val_outputs, val_labels: of validation rows, on which the temperature is fitted (Guo et al. 2017, 1706.04599).
        error: the calibration error of logits, from 0 to 1.
        loss: the log loss of logits, in nats.
    """
    fitted = metrics.temperature(val_outputs, val_labels, loss) if len(val_labels) else nan
    return {
        "calibration_error": error(outputs, labels),
        "temperature": fitted,
        "calibration_error_at_temperature": error(outputs / fitted, labels) if isfinite(fitted) else nan,
    }
