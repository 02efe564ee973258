"""Scores, each against its definition written with plain loops."""

import math

import numpy as np
import pytest

from pipeline.functional.metrics import (
    accuracy,
    brier,
    calibration_error,
    confusion,
    label_calibration_error,
    label_log_loss,
    largest_class_share,
    log_loss,
    macro_f1,
    mean_of_known,
    one_vs_rest,
    temperature,
)


@pytest.fixture(params=[(1, 2), (7, 2), (40, 3), (300, 11)], ids=str)
def scored(request):
    n, classes = request.param
    random = np.random.default_rng(n)
    labels = random.integers(classes, size=n)
    logits = random.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 0.8
    return logits, labels


def argmax(row):
    return max(range(len(row)), key=lambda c: (row[c], -c))


def softmax(row):
    row = [float(x) for x in row]
    powers = [math.exp(x - max(row)) for x in row]
    return [x / sum(powers) for x in powers]


def test_accuracy_is_the_share_of_hits(scored):
    logits, labels = scored
    assert accuracy(logits, labels) == sum(argmax(row) == y for row, y in zip(logits, labels, strict=True)) / len(
        labels
    )


def test_macro_f1_is_the_mean_over_classes_of_two_hits_over_all_appearances(scored):
    logits, labels = scored
    predicted = [argmax(row) for row in logits]
    scores = []
    for c in range(logits.shape[1]):
        hits = sum(p == c and y == c for p, y in zip(predicted, labels, strict=True))
        extra = sum(p == c and y != c for p, y in zip(predicted, labels, strict=True))
        missed = sum(p != c and y == c for p, y in zip(predicted, labels, strict=True))
        if hits + extra + missed:
            scores.append(2 * hits / (2 * hits + extra + missed))
    assert macro_f1(logits, labels) == pytest.approx(sum(scores) / len(scores), rel=1e-12)


def test_a_class_that_never_appears_does_not_lower_macro_f1():
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 2.0, -1.0]])
    assert macro_f1(logits, np.array([0, 1])) == 1


def test_log_loss_is_the_mean_surprise(scored):
    logits, labels = scored
    definition = -sum(math.log(softmax(row)[y]) for row, y in zip(logits, labels, strict=True)) / len(labels)
    assert log_loss(logits, labels) == pytest.approx(definition, rel=1e-9)


def test_log_loss_stays_finite_for_huge_logits():
    assert log_loss(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)


def test_calibration_error_sums_the_bins_gaps(scored):
    logits, labels = scored
    total = 0.0
    for k in range(1, 16):
        inside = [
            (max(softmax(row)), argmax(row) == y)
            for row, y in zip(logits, labels, strict=True)
            if (k - 1) / 15 < max(softmax(row)) <= k / 15
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            right = sum(hit for _, hit in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - confidence)
    assert calibration_error(logits, labels) == pytest.approx(total, abs=1e-9)


def test_calibration_error_of_certain_and_right_is_zero_and_of_certain_and_wrong_one():
    logits = np.array([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error(logits, np.array([0, 1])) == pytest.approx(0, abs=1e-12)
    assert calibration_error(logits, np.array([1, 0])) == pytest.approx(1, abs=1e-12)


def test_largest_class_share_counts_the_most_frequent_prediction(scored):
    logits, _ = scored
    predicted = [argmax(row) for row in logits]
    assert largest_class_share(logits) == max(predicted.count(c) for c in set(predicted)) / len(predicted)


def test_brier_is_the_squared_distance_to_the_label(scored):
    logits, labels = scored
    distances = [
        sum((p - (c == y)) ** 2 for c, p in enumerate(softmax(row))) for row, y in zip(logits, labels, strict=True)
    ]
    assert brier(logits, labels) == pytest.approx(sum(distances) / len(distances))


def test_no_other_temperature_has_a_lower_log_loss(scored):
    logits, labels = scored
    best = temperature(logits, labels)
    least = log_loss(logits.astype(np.float64) / best, labels)
    for other in (0.011, 0.2, 0.9 * best, 1.1 * best, 5.0, 99.0):
        assert least <= log_loss(logits.astype(np.float64) / other, labels) + 1e-9


def test_a_temperature_undoes_a_scale():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3)) * 2
    labels = np.array([random.choice(3, p=softmax(row)) for row in logits])
    assert temperature(logits, labels) == pytest.approx(1, abs=0.1)
    assert temperature(logits * 3, labels) == pytest.approx(3 * temperature(logits, labels), rel=1e-3)


def test_independent_labels_have_a_temperature_of_their_own():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 2)) * 2
    labels = (random.random((4000, 2)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    cells = zip(logits.ravel().tolist(), labels.ravel().tolist(), strict=True)
    mean = sum(-math.log(1 / (1 + math.exp(-z if y else z))) for z, y in cells) / labels.size
    assert label_log_loss(logits, labels) == pytest.approx(mean)
    assert temperature(logits, labels, label_log_loss) == pytest.approx(1, abs=0.1)
    best = temperature(3 * logits, labels, label_log_loss)
    assert best == pytest.approx(3 * temperature(logits, labels, label_log_loss), rel=1e-3)
    for other in (0.9 * best, 1.1 * best):
        assert label_log_loss(3 * logits / best, labels) < label_log_loss(3 * logits / other, labels)


def test_confusion_counts_pairs(scored):
    logits, labels = scored
    predicted = logits.argmax(1)
    found = confusion(labels, predicted, logits.shape[1])
    assert found.sum() == len(labels)
    assert found[labels[0], predicted[0]] == sum(
        (y, p) == (labels[0], predicted[0]) for y, p in zip(labels, predicted, strict=True)
    )


def test_one_against_the_rest_leaves_out_what_has_no_rest():
    outputs = np.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.4], [0.3, 0.6, 0.1]])
    truth = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 0]])

    def pairs_in_order(true, given):
        pairs = [(a, b) for a, t in zip(given, true, strict=True) for b, u in zip(given, true, strict=True) if t > u]
        return sum(a > b for a, b in pairs) / len(pairs)

    found = one_vs_rest(pairs_in_order, outputs, truth)
    assert found[0] == 1 and np.isnan(found[1:]).all()
    assert mean_of_known(found) == 1
    assert math.isnan(mean_of_known(found[1:]))


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_label_calibration_error_equals_its_definition(bins: int):
    random = np.random.default_rng(5)
    probabilities = random.random((40, 3)).round(2)  # 0, 0.25 and others at the ends of intervals
    labels = random.integers(0, 2, (40, 3))
    cells = [
        (p, y)
        for row, has in zip(probabilities.tolist(), labels.tolist(), strict=True)
        for p, y in zip(row, has, strict=True)
    ]
    total = 0.0
    for k in range(1, bins + 1):
        inside = [(p, y) for p, y in cells if (k - 1) / bins < p <= k / bins or (k == 1 and p == 0)]
        if inside:
            share, mean = sum(y for _, y in inside) / len(inside), sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(cells) * abs(share - mean)
    assert label_calibration_error(probabilities, labels, bins) == pytest.approx(total)
    assert label_calibration_error(labels.astype(float), labels, bins) == pytest.approx(0)
