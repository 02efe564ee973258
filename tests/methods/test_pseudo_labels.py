import math

import pytest
import torch

from pipeline.methods.pseudo_labels import Settings
from tests.methods.case import Case


def softmax(row: list[float]) -> list[float]:
    shares = [math.exp(value - max(row)) for value in row]
    return [share / sum(shares) for share in shares]


@pytest.mark.parametrize("confidence", [0.0, 0.7, 0.99])
def test_equals_its_definition(case: Case, confidence: float) -> None:
    signals = case.signals(16)
    expected, counted = 0.0, 0
    for row, (logits, label) in enumerate(zip(signals.outputs.tolist(), signals.labels.tolist(), strict=True)):
        of_sources = [
            [math.log(share) for share in softmax(each[row].tolist())] for each in signals.teacher_outputs["linear"]
        ]
        teacher = softmax([sum(values) / len(of_sources) for values in zip(*of_sources, strict=True)])
        if label >= 0 or max(teacher) >= confidence:
            counted += 1
            y = label if label >= 0 else teacher.index(max(teacher))
            expected -= math.log(softmax(logits)[y]) / 16
    assert (counted == 16) is (confidence == 0.0) and counted > 0
    assert Settings(confidence=confidence).build(case.context)(signals).item() == pytest.approx(expected, rel=1e-9)


def test_a_known_label_counts_whatever_the_teachers_say(case: Case) -> None:
    signals = case.signals(16)
    known = signals.labels >= 0
    (gradient,) = torch.autograd.grad(Settings(confidence=1.0).build(case.context)(signals), signals.outputs)
    assert known.any() and not known.all()
    assert torch.equal(gradient.abs().sum(1) > 0, known)
