import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods.logit_standardisation import Settings
from tests.methods.case import Case


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def standardise(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    std = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1))
    return [(x - mean) / (1e-7 + std) for x in row]


@pytest.mark.parametrize("logits", ["probe", "head"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_its_definition(case: Case, temperature: float, logits: str) -> None:
    signals = case.signals(5)
    teachers = [rows.tolist() for rows in signals.teacher_outputs["head" if logits == "head" else "linear"]]
    total = 0.0
    for i, student in enumerate(signals.outputs.tolist()):
        teacher = [sum(math.log(softmax(rows[i])[c]) for rows in teachers) / 2 for c in range(3)]
        p = softmax([t / temperature for t in standardise(teacher)])
        q = softmax([s / temperature for s in standardise(student)])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    transfer = Settings.model_validate({"temperature": temperature, "logits": logits}).build(case.context)
    assert transfer(signals).item() == pytest.approx(temperature**2 * total / 5, rel=1e-9)


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


def test_two_classes_are_refused_before_training(worlds: Callable[..., Case]) -> None:
    with pytest.raises(UserError, match=r"needs three outputs or more: .* use logit_kd"):
        Settings().build(worlds(classes=2).context)
