"""Scores for logits against class numbers, for independent labels, and rank correlation."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special


def accuracy(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The share of rows whose largest logit is at their label. Among equal logits, the first counts."""
    return float(np.mean(logits.argmax(1) == labels))


def macro_f1(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), with equal weight for every class.

    Classes that occur neither as a label nor as a prediction have no F1 and are left out.
    """
    classes = logits.shape[1]
    predictions = logits.argmax(1)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    appearances = np.bincount(labels, minlength=classes) + np.bincount(predictions, minlength=classes)
    seen = appearances > 0
    return float(np.mean(2 * hits[seen] / appearances[seen]))


def log_loss(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean of -log softmax(logits)[label], in nats, computed in float64."""
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-np.mean(log_probabilities[np.arange(len(labels)), labels]))


def calibration_error(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], bins: int = 15) -> float:
    """The expected calibration error of the predicted class (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Rows are sorted into `bins` equally wide intervals ((k-1)/bins, k/bins] of confidence; the result is the mean over
    rows of |accuracy - mean confidence| of their interval.
    """
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    confidence = probabilities.max(1)
    hit = logits.argmax(1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(index, weights=hit - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(labels))


def label_calibration_error(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"], bins: int = 15
) -> float:
    """The expected calibration error of the probabilities of labels that a row has or has not, all cells together.

    Cells are sorted into `bins` equally wide intervals ((k-1)/bins, k/bins] of probability; the result is the mean over
    cells of |share that has the label - mean probability| of their interval.
    """
    index = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1).ravel()
    surplus = np.bincount(index, weights=(labels - probabilities).ravel(), minlength=bins)
    return float(np.abs(surplus).sum() / labels.size)


def largest_class_share(logits: Float[np.ndarray, "n c"]) -> float:
    """The share of rows with the most frequent prediction; 1 means that the model predicts a single class."""
    return float(np.bincount(logits.argmax(1)).max() / len(logits))


def precisions(outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Per label, the precision at every row that has it: the share with the label among rows with outputs as large.

    0 for rows without the label. The mean over the rows with a label is its average precision.
    """
    found = np.zeros(outputs.shape)
    for column, (scores, truth) in enumerate(zip(outputs.T, labels.T == 1, strict=True)):
        order = np.argsort(scores, kind="stable")
        # Rows with equal outputs are found together.
        first = np.searchsorted(scores[order], scores)
        hits = np.append(np.cumsum(truth[order][::-1])[::-1], 0)
        found[:, column] = truth * hits[first] / (len(scores) - first)
    return found


def mean_average_precision(outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> float:
    """The mean over labels of average precision; labels that no row has are left out. NaN if there are none."""
    rows = (labels == 1).sum(0)
    if not rows.any():
        return math.nan
    return float((precisions(outputs, labels).sum(0)[rows > 0] / rows[rows > 0]).mean())


def label_f1(outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> tuple[float, float]:
    """Macro and micro F1 of independent labels, each predicted where its logit is above 0.

    Macro is the mean over labels; labels that are never true and never predicted are left out. Micro gives every pair
    of row and label the same weight. NaN where nothing is true or predicted.
    """
    predicted, true = outputs > 0, labels == 1
    hits, appearances = (predicted & true).sum(0), predicted.sum(0) + true.sum(0)
    seen = appearances > 0
    if not seen.any():
        return math.nan, math.nan
    return float(np.mean(2 * hits[seen] / appearances[seen])), float(2 * hits.sum() / appearances.sum())


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The ranks of values, from 1; equal values share the mean of their ranks."""
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return shared[number]


def spearman(values: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    one, other = (ranks(side) - (len(side) + 1) / 2 for side in (values, others))
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else math.nan


def label_log_loss(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> float:
    """The mean over rows and independent labels of the cross-entropy, in nats, computed in float64."""
    logits = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def temperature(
    logits: Float[np.ndarray, "n c"], labels: np.ndarray, loss: Callable[[np.ndarray, np.ndarray], float] = log_loss
) -> float:
    """The temperature T at which logits / T have the least log loss (Guo et al. 2017), from 1/100 to 100."""
    found = optimize.minimize_scalar(
        lambda power: loss(logits.astype(np.float64) / np.exp(power), labels),
        bounds=(-math.log(100), math.log(100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def brier(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean over rows of the sum over classes of (probability - 1 at the label)^2, from 0 to 2 (Brier 1950)."""
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    return float(np.square(probabilities - np.eye(logits.shape[1])[labels]).sum(1).mean())


def confusion(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int) -> Int[np.ndarray, "c c"]:
    """Counts of rows [C, C] by their class, the first axis, and the predicted class, the second."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def precision_recall_f1(
    hits: Int[np.ndarray, " c"], rows: Int[np.ndarray, " c"], predicted: Int[np.ndarray, " c"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Precision, recall and F1 of each class from its hits, its rows and the rows predicted; NaN where not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / predicted, hits / rows, 2 * hits / (rows + predicted)


def one_vs_rest(
    score: Callable[[np.ndarray, np.ndarray], float],
    outputs: Float[np.ndarray, "n c"],
    truth: Int[np.ndarray, "n c"],
) -> Float[np.ndarray, " c"]:
    """`score(truth, outputs)`, a score of scikit-learn, for each class; NaN for a class that all rows or none have."""
    some = (truth == 1).any(0) & (truth == 0).any(0)
    columns = zip(truth.T, outputs.T, some, strict=True)
    return np.array([score(true, given) if known else math.nan for true, given, known in columns])


def mean_of_known(values: Float[np.ndarray, " c"]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
