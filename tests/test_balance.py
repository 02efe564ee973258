import math

import pytest
import torch

from pipeline import balance


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_a_pull_is_the_norm_of_the_gradient_at_the_features(features: torch.Tensor):
    loss = (features**3).sum()
    by_hand = math.sqrt(sum((3 * float(x) ** 2) ** 2 for x in features.detach().flatten()))
    assert balance.pull(loss, features) == pytest.approx(by_hand, rel=1e-5)


def test_a_loss_that_does_not_see_the_features_does_not_pull(features: torch.Tensor):
    assert balance.pull(torch.ones((), requires_grad=True) * 2, features) == 0


def test_at_the_even_weight_both_pull_alike(features: torch.Tensor):
    task, penalty = features.square().mean(), 1e-3 * features.sin().sum()
    weight = balance.even(task, penalty, features)
    assert balance.pull(weight * penalty, features) == pytest.approx(balance.pull(task, features), rel=1e-5)


def test_a_penalty_that_starts_blind_is_weighed_by_its_size(features: torch.Tensor):
    blind = (features @ torch.zeros(4, 2) - 3).square().mean()
    assert balance.even(features.square().sum() / features.numel() * 0 + 18.0, blind, features) == pytest.approx(2)


def test_candidates_are_multiples_of_the_median_with_nothing_among_them():
    weights = balance.candidates([0.2, 0.3123, 50.0])
    assert weights == [float(f"{ratio * 0.3123:.2g}") for ratio in balance.RATIOS]
    assert weights[0] == 0 and weights == sorted(weights) and balance.RATIOS[0] == 0
