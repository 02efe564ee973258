"""The student's forward and backward pass against their definition."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.students._words import Dropout
from pipeline.students.bag_of_words import BagOfWords

TEXTS = [[3, 1, 1, 2], [0], [4, 2], [5, 5, 5, 1, 3, 2, 4]]


def student(dropout: float = 0.5) -> BagOfWords:
    torch.manual_seed(0)
    return BagOfWords([1.5, 2.0, 2.5, 3.0, 3.5], 4, 3, dropout).double()


def batch() -> tuple[Tensor, Tensor]:
    lengths = [len(text) for text in TEXTS]
    offsets = [sum(lengths[:k]) for k in range(len(TEXTS))]
    return torch.tensor([number for text in TEXTS for number in text]), torch.tensor(offsets)


def test_a_text_is_the_weighted_sum_of_its_words_over_the_root_of_their_number() -> None:
    made = student().eval()
    vectors, weights = made.words.weight.tolist(), made.weights.tolist()
    sums = [[sum(weights[w] * vectors[w][k] for w in text) / math.sqrt(len(text)) for k in range(4)] for text in TEXTS]
    pooled = torch.tensor(sums, dtype=torch.float64)
    features, outputs = made(batch())
    torch.testing.assert_close(features, made.norm(pooled + made.mix(pooled)))
    torch.testing.assert_close(outputs, made.head(features))


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.8, 0.99])
def test_leaving_words_out_is_dropout_of_their_weights(dropout: float) -> None:
    """With the same random numbers, so outputs and gradients can be compared; some texts lose all their words."""
    made, inputs = student(dropout), batch()
    torch.manual_seed(1)
    features, _ = made(inputs)
    slope = torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.autograd.grad(features, list(made.parameters())[:-2], slope)

    torch.manual_seed(1)
    weights = nn.functional.dropout(made.weights[inputs[0]], dropout)
    total = made.words(*inputs, per_sample_weights=weights)
    pooled = total / torch.tensor([len(text) for text in TEXTS]).sqrt()[:, None]
    hidden = nn.functional.dropout(nn.functional.gelu(made.mix[0](pooled)), dropout)
    expected = made.norm(pooled + made.mix[3](hidden))
    torch.testing.assert_close(features, expected)
    for mine, theirs in zip(found, torch.autograd.grad(expected, list(made.parameters())[:-2], slope), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(3,), (37, 65)])
def test_dropout_is_torchs_bit_for_bit_and_leaves_the_same_random_state(probability: float, shape: tuple) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    mine, state = Dropout(probability)(x), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(mine, nn.Dropout(probability)(x))
    assert torch.equal(state, torch.get_rng_state())


def test_dropout_outside_training_changes_nothing() -> None:
    x = torch.randn(5, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_every_gradient_is_that_of_the_outputs() -> None:
    made, inputs = student(), batch()
    names, values = zip(*made.named_parameters(), strict=True)

    def outputs(*changed: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)  # the same dropout every time
        return torch.func.functional_call(made, dict(zip(names, changed, strict=True)), (inputs,))

    # Word vectors of ordinary size: at their first size, 0.01, the LayerNorm's curvature spoils finite differences.
    values = tuple(torch.randn(v.shape, generator=torch.Generator().manual_seed(2), dtype=v.dtype) for v in values)
    assert torch.autograd.gradcheck(outputs, tuple(value.requires_grad_() for value in values))
