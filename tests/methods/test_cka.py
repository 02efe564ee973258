from dataclasses import replace

import pytest
import torch

from pipeline.functional.kernels import debiased_cka, gram
from pipeline.methods.cka import Settings
from tests.methods.case import Case


def test_equals_its_definition(case: Case) -> None:
    """1 - HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), HSIC(K, L) = trace(K H L H), with loops."""
    signals = case.signals(6)
    f, t = signals.features.tolist(), torch.cat(signals.teachers, 1).tolist()
    k = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in f] for x in f]
    l = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in t] for x in t]  # noqa: E741
    h = [[(i == j) - 1 / 6 for j in range(6)] for i in range(6)]

    def times(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
        return [[sum(a[i][m] * b[m][j] for m in range(6)) for j in range(6)] for i in range(6)]

    def hsic(a: list[list[float]], b: list[list[float]]) -> float:
        product = times(times(a, h), times(b, h))
        return sum(product[i][i] for i in range(6))

    expected = 1 - hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5
    assert Settings().build(case.context)(signals).item() == pytest.approx(expected, rel=1e-9)


def test_the_debiased_estimate_is_used_when_asked_for(case: Case) -> None:
    signals = case.signals()
    expected = 1 - debiased_cka(gram(signals.features), gram(torch.cat(signals.teachers, 1)))
    torch.testing.assert_close(Settings(estimate="debiased").build(case.context)(signals), expected)


def test_unrelated_features_have_a_debiased_estimate_near_none(case: Case) -> None:
    random = torch.Generator().manual_seed(0)
    signals = case.signals()
    noise = tuple(torch.randn(x.shape, generator=random, dtype=x.dtype) for x in signals.teachers)
    transfer = Settings(estimate="debiased").build(case.context)
    assert abs(transfer(replace(signals, teachers=noise)) - 1) < 0.25


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_the_scale_of_the_student_does_not_matter_in_float32(case: Case, scale: float) -> None:
    signals = case.signals()
    features, teachers = signals.features.float(), tuple(teacher.float() for teacher in signals.teachers)
    narrow = replace(signals, features=features, outputs=signals.outputs.float(), teachers=teachers)
    transfer = Settings().build(case.context).float()
    scaled = transfer(replace(narrow, features=features * scale))
    assert scaled.item() == pytest.approx(transfer(narrow).item(), rel=1e-4)
