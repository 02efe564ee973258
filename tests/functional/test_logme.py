import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pipeline.functional import logme as module
from pipeline.functional.logme import logme


def problem(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.randn(n, d, generator=random) + labels[:, None] * torch.randn(d, generator=random), labels


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 3).double()


def published(features: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[tuple[float, float]]]:
    """The evidence of each class as the formula has it, with dense matrices; and the precisions it was found at."""
    n, d = features.shape
    scores, precisions = [], []
    for number in range(3):
        t = (labels == number).astype(float)
        a = b = 1.0
        for _ in range(11):
            ratio = a / b
            gram = features.T @ features
            m = np.linalg.solve(gram + ratio * np.eye(d), features.T @ t)
            known = np.trace(np.linalg.solve(gram + ratio * np.eye(d), gram))
            a = known / (m @ m + 1e-5)
            b = (n - known) / (np.sum((t - features @ m) ** 2) + 1e-5)
            if abs(a / b - ratio) <= 1e-3 * ratio:
                break
        precisions.append((a, b))
        scores.append(multivariate_normal.logpdf(t, np.zeros(n), np.eye(n) / b + features @ features.T / a) / n)
    return scores, precisions


@pytest.mark.parametrize(("n", "d"), [(40, 5), (12, 12), (20, 60)])
def test_the_score_is_the_marginal_likelihood_also_where_features_outnumber_rows(n: int, d: int) -> None:
    features, labels = problem(n, d)
    scores, _ = published(features.double().numpy(), labels.numpy())
    assert logme(features, one_hot(labels)).score == pytest.approx(np.mean(scores), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (20, 60)])
def test_the_weights_are_ridge_regression_at_the_ratio_of_the_precisions(n: int, d: int) -> None:
    features, labels = problem(n, d)
    _, precisions = published(features.double().numpy(), labels.numpy())
    wide = features.double()
    for number, (a, b) in enumerate(precisions):
        target = (labels == number).double()
        ridge = torch.linalg.solve(wide.T @ wide + a / b * torch.eye(d, dtype=torch.float64), wide.T @ target)
        torch.testing.assert_close(
            logme(features, one_hot(labels)).weights[number], ridge.float(), rtol=1e-4, atol=1e-6
        )


def test_the_published_score_is_off_by_the_singular_values_it_leaves_out() -> None:
    features, labels = problem(20, 60)
    _, precisions = published(features.double().numpy(), labels.numpy())
    error = sum(40 / 2 * math.log(a) for a, _ in precisions) / 3 / 20
    difference = logme(features, one_hot(labels), "published").score - logme(features, one_hot(labels)).score
    assert difference == pytest.approx(error, rel=1e-6)
    few, few_labels = problem(40, 5)
    assert logme(few, one_hot(few_labels), "published").score == logme(few, one_hot(few_labels)).score


def test_features_that_know_the_labels_score_higher() -> None:
    features, labels = problem(60, 8)
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    assert logme(features, one_hot(labels)).score > logme(noise, one_hot(labels)).score + 0.1


def test_rows_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = problem(50, 6)
    whole = logme(features, one_hot(labels))
    monkeypatch.setattr(module, "BLOCK", 7)
    assert logme(features, one_hot(labels)).score == pytest.approx(whole.score, rel=1e-12)


@pytest.mark.parametrize("features", [torch.zeros(9, 4), torch.ones(9, 4), torch.zeros(9, 20)])
def test_features_without_information_have_a_finite_score(features: torch.Tensor) -> None:
    result = logme(features, one_hot(torch.arange(9) % 3))
    assert math.isfinite(result.score)
    assert result.weights.isfinite().all()
