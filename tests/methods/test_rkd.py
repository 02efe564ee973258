import math
from dataclasses import replace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods import rkd
from pipeline.methods.rkd import Settings
from pipeline.params import parse
from tests.methods.case import Case


def loops(student: list[list[float]], teacher: list[list[float]]) -> tuple[float, float]:
    """Distances and angles as published, from differences of rows."""
    n = len(student)

    def smooth_l1(x: float) -> float:
        return x * x / 2 if abs(x) < 1 else abs(x) - 0.5

    def relations(rows: list[list[float]]) -> tuple[list[float], list[float]]:
        away = [[[a - b for a, b in zip(x, y, strict=True)] for y in rows] for x in rows]
        norm = [[math.sqrt(sum(v * v for v in way)) for way in ways] for ways in away]
        apart = [norm[i][j] for i in range(n) for j in range(n) if norm[i][j] > 0]
        mean = sum(apart) / len(apart)

        def unit(i: int, j: int) -> list[float]:
            return [v / norm[i][j] if norm[i][j] else 0.0 for v in away[i][j]]

        distances = [norm[i][j] / mean for i in range(n) for j in range(n)]
        triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
        return distances, [sum(a * b for a, b in zip(unit(i, j), unit(i, k), strict=True)) for i, j, k in triples]

    both = zip(relations(student), relations(teacher), strict=True)
    distance, angle = (sum(smooth_l1(a - b) for a, b in zip(x, y, strict=True)) / len(x) for x, y in both)
    return distance, angle


@pytest.mark.parametrize("n", [2, 3, 7])
def test_equals_its_definition(case: Case, n: int) -> None:
    signals = case.signals(n)
    distance, angle = loops(signals.features.tolist(), torch.cat(signals.teachers, 1).tolist())
    assert Settings().build(case.context)(signals).item() == pytest.approx((distance + 2 * angle) / 2, rel=1e-9)
    only = Settings(distance_weight=25.0, angle_weight=0.0).build(case.context)
    assert only(signals).item() == pytest.approx(25 * distance, rel=1e-9)


def test_equal_rows_of_a_batch_have_distance_zero_and_no_angle(case: Case) -> None:
    signals = case.signals(5)
    features = signals.features.detach().clone()
    features[3] = features[1]
    features.requires_grad_()
    copies = replace(signals, features=features)
    distance, angle = loops(features.tolist(), torch.cat(signals.teachers, 1).tolist())
    penalty = Settings().build(case.context)(copies)
    penalty.backward()
    assert penalty.item() == pytest.approx((distance + 2 * angle) / 2, rel=1e-9)
    assert features.grad.isfinite().all()


def test_rounding_in_float32_makes_no_spurious_distances(case: Case) -> None:
    signals = case.signals(12)
    teachers = tuple(teacher.float() + 100 for teacher in signals.teachers)
    narrow = replace(
        signals, features=signals.features.float() + 100, outputs=signals.outputs.float(), teachers=teachers
    )
    wide = replace(signals, features=narrow.features.double(), teachers=tuple(t.double() for t in teachers))
    transfer = Settings().build(case.context)
    assert transfer(narrow).item() == pytest.approx(transfer(wide).item(), rel=1e-4)


def test_angles_in_parts_are_the_same_and_so_is_their_gradient(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    signals, transfer = case.signals(9), Settings().build(case.context)
    whole = transfer(signals)
    (gradient,) = torch.autograd.grad(whole, signals.features)
    monkeypatch.setattr(rkd, "ENTRIES", 2 * 9**2)
    parts = transfer(signals)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, signals.features)[0], gradient)


def test_blind_to_shifting_scaling_and_rotating_the_student(case: Case) -> None:
    signals, transfer = case.signals(), Settings().build(case.context)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved = replace(signals, features=(3 * signals.features + 7) @ rotation)
    torch.testing.assert_close(transfer(moved), transfer(signals), rtol=1e-8, atol=0)


def test_two_weights_of_zero_are_refused() -> None:
    with pytest.raises(UserError, match="both 0; give one of them a weight"):
        parse(Settings, {"distance_weight": 0.0, "angle_weight": 0.0}, "here")
