"""Scores for logits against class numbers, for independent labels, and rank correlation."""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy import special


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


def largest_class_share(logits: Float[np.ndarray, "n c"]) -> float:
    """The share of rows with the most frequent prediction; 1 means that the model predicts a single class."""
    return float(np.bincount(logits.argmax(1)).max() / len(logits))


def precisions(outputs: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Per label, the precision at every row that has it: of the rows with an output as large, the share that has it.

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
