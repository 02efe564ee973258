"""Scores: of logits against class numbers, and rank correlation."""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy import special


def accuracy(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The share of rows whose largest logit is at their label. Among equal logits the first counts."""
    return float(np.mean(logits.argmax(1) == labels))


def macro_f1(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), every class counting the same.

    Classes that are neither a label nor a prediction anywhere have no F1 and are left out.
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
    """The share of rows given the most frequent prediction; 1 means that the model knows one class only."""
    return float(np.bincount(logits.argmax(1)).max() / len(logits))


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The ranks of values, from 1; equal values share the mean of their ranks."""
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return shared[number]


def spearman(values: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"]) -> float:
    """Spearman's correlation, that of the ranks; NaN where one side is constant."""
    one, other = (ranks(side) - (len(side) + 1) / 2 for side in (values, others))
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else math.nan
