import math

import pytest
import torch

from pipeline.errors import UserError
from pipeline.training import auto_weight


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_a_pull_is_the_norm_of_the_gradient_at_the_features(features: torch.Tensor):
    loss = (features**3).sum()
    by_hand = math.sqrt(sum((3 * float(x) ** 2) ** 2 for x in features.detach().flatten()))
    assert auto_weight.gradient_norm(loss, features) == pytest.approx(by_hand, rel=1e-5)


def test_a_loss_that_does_not_see_the_features_does_not_pull(features: torch.Tensor):
    assert auto_weight.gradient_norm(torch.ones((), requires_grad=True) * 2, features) == 0


def test_at_the_even_weight_both_pull_alike(features: torch.Tensor):
    task, penalty = features.square().mean(), 1e-3 * features.sin().sum()
    weight = auto_weight.equal_weight(task, penalty, features)
    assert auto_weight.gradient_norm(weight * penalty, features) == pytest.approx(
        auto_weight.gradient_norm(task, features), rel=1e-5
    )


def test_a_penalty_without_initial_gradient_is_weighted_by_its_size(features: torch.Tensor):
    blind = (features @ torch.zeros(4, 2) - 3).square().mean()
    assert auto_weight.equal_weight(
        features.square().sum() / features.numel() * 0 + 18.0, blind, features
    ) == pytest.approx(2)


def test_candidates_are_multiples_of_the_median_with_nothing_among_them():
    weights = auto_weight.weights_to_try([0.2, 0.3123, 50.0], "aft")
    assert weights == [float(f"{ratio * 0.3123:.2g}") for ratio in auto_weight.RATIOS]
    assert weights[0] == 0 and weights == sorted(weights) and auto_weight.RATIOS[0] == 0


@pytest.mark.parametrize("ratios", [[0.0], [1.0, math.nan, 1.0], [math.inf], [1e307]])
def test_what_cannot_be_measured_is_refused_rather_than_tried_as_nothing(ratios: list[float]):
    with pytest.raises(UserError, match=r"runs\.a\.methods\.aft: weight: auto cannot be measured.*list the weights"):
        auto_weight.weights_to_try(ratios, "runs.a.methods.aft")


def test_a_penalty_of_nothing_has_no_even_weight(features: torch.Tensor):
    assert auto_weight.equal_weight(features.square().mean(), 0 * features.sum(), features) == math.inf


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_ordinary_pull_is_that_through_a_new_linear_layer(classes: int):
    torch.manual_seed(0)
    features = torch.randn(64, 256, requires_grad=True)
    labels = torch.randint(classes, (64,))
    task = torch.nn.functional.cross_entropy(torch.nn.Linear(256, classes)(features), labels)
    assert auto_weight.gradient_norm(task, features) == pytest.approx(
        auto_weight.ordinary_gradient(math.sqrt((1 - 1 / classes) / 64)), rel=0.25
    )


def test_a_student_has_its_own_head_again_after_the_ordinary_one():
    class Double(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * inputs, torch.zeros(len(inputs), 3)

    student, head, inputs = Double(), torch.nn.Linear(4, 3), torch.randn(5, 4)
    with auto_weight.ordinary_head(student, head):
        assert torch.equal(student(inputs)[1], head(2 * inputs))
    assert not student(inputs)[1].any()
