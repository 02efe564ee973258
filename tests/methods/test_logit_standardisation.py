import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods.logit_standardisation import Settings
from tests.methods.case import Case, loops_divergence


def standardise(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    std = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1))
    return [(x - mean) / (1e-7 + std) for x in row]


@pytest.mark.parametrize("logits", ["probe", "head"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_its_definition(case: Case, temperature: float, logits: str) -> None:
    signals = case.signals(5)
    transfer = Settings.model_validate({"temperature": temperature, "logits": logits}).build(case.context)
    expected = loops_divergence(signals, "head" if logits == "head" else "linear", temperature, standardise)
    assert transfer(signals).item() == pytest.approx(expected, rel=1e-9)


def test_blind_to_shifting_and_scaling_rows_of_the_students_logits(case: Case) -> None:
    signals = case.signals()
    transfer = Settings().build(case.context)
    scale = torch.linspace(0.5, 4, 16, dtype=torch.float64)[:, None]
    moved = replace(signals, outputs=signals.outputs * scale - 3 * scale)
    torch.testing.assert_close(transfer(moved), transfer(signals), rtol=1e-5, atol=0)


def test_equal_logits_give_no_gradient(case: Case) -> None:
    signals = case.signals()
    logits = torch.full((16, 3), 0.25, dtype=torch.float64, requires_grad=True)
    penalty = Settings().build(case.context)(replace(signals, outputs=logits))
    penalty.backward()
    assert penalty.isfinite()
    assert logits.grad.abs().max() == 0


def test_two_classes_are_refused_before_training(make: Callable[..., Case]) -> None:
    with pytest.raises(UserError, match=r"needs three outputs or more: .* use logit_kd"):
        Settings().build(make(classes=2).context)
