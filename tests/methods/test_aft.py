import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.functional.kernels import centre, cosine, gram, rms_gap
from pipeline.methods import Signals, Transfer
from pipeline.methods.aft import Settings
from tests.methods.case import Case, make_case


def loops(features: list[list[float]], teacher: list[list[float]], scores: list[float]) -> float:
    """The published formula with floats and nested loops: no tensors, no broadcasting."""

    def kernel(rows: list[list[float]]) -> list[list[float]]:
        n, d = len(rows), len(rows[0])
        mean = [sum(row[k] for row in rows) / n for k in range(d)]
        rows = [[row[k] - mean[k] for k in range(d)] for row in rows]
        unit = [[x / (math.sqrt(sum(y * y for y in row)) + 1e-8) for x in row] for row in rows]
        return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]

    gated = [[x / (1 + math.exp(-s)) for x, s in zip(row, scores, strict=True)] for row in teacher]
    k_student, k_teacher, n = kernel(features), kernel(gated), len(features)
    gaps = [(k_student[i][j] - k_teacher[i][j]) ** 2 for i in range(n) for j in range(n)]
    return math.sqrt(sum(gaps) / n**2 + 1e-8)


def build(case: Case, **keys: object) -> Transfer:
    torch.manual_seed(0)
    return Settings(**keys).build(case.context).double()


def scores_of(transfer: Transfer) -> list[torch.Tensor]:
    return list(transfer.teacher_gram.scores)


def with_scores(transfer: Transfer, seed: int = 5) -> Transfer:
    """Gates that are not all equal."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for score in scores_of(transfer):
            score.copy_(torch.randn(score.shape, generator=random, dtype=torch.float64))
    return transfer


@given(n=st.sampled_from([1, 2, 3, 4, 17]), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_equals_its_definition(n: int, seed: int) -> None:
    case = make_case()
    transfer = with_scores(build(case), seed)
    signals = case.signals(n, seed)
    scores = torch.cat(scores_of(transfer)).tolist()
    expected = loops(signals.features.tolist(), torch.cat(signals.teachers, 1).tolist(), scores)
    assert transfer(signals).item() == pytest.approx(expected, rel=1e-7)


def test_gates_start_at_one_half_and_learn_at_the_published_rate(case: Case) -> None:
    transfer = build(case)
    assert all((gates == 0.5).all() for gates in transfer.gates().values())
    assert transfer.learning_rate == 1e-2
    assert {name: len(gates) for name, gates in transfer.gates().items()} == {"teacher0": 6, "teacher1": 5}


def test_teachers_side_by_side_are_the_sum_of_their_gated_grams(case: Case) -> None:
    transfer, signals = with_scores(build(case)), case.signals()
    gates = torch.cat(list(transfer.gates().values()))
    whole = cosine(gram(centre(torch.cat(signals.teachers, 1) * gates)))
    expected = rms_gap(cosine(gram(centre(signals.features))), whole)
    torch.testing.assert_close(transfer(signals), expected)


def test_only_ratios_of_gates_matter(case: Case) -> None:
    """Scaling all gates changes nothing, so sum_d dR/ds_d / (1 - sigmoid(s_d)) is 0."""
    transfer = with_scores(build(case))
    transfer(case.signals()).backward()
    total = sum((score.grad / (1 - score.sigmoid())).sum() for score in scores_of(transfer))
    size = sum((score.grad / (1 - score.sigmoid())).abs().sum() for score in scores_of(transfer))
    assert abs(total) < 1e-7 * size  # not 0: the kernel's epsilon does not scale


def test_the_gradient_of_the_gates_is_the_closed_form(case: Case) -> None:
    """With v = g^2 and centred rows t: dR/dv_d = sum_i t_id (M t)_id - sum_i c_i t_id^2."""
    transfer, signals = with_scores(build(case)), case.signals(9)
    transfer(signals).backward()
    gates = torch.cat(list(transfer.gates().values()))
    t = centre(torch.cat(signals.teachers, 1))
    norm = (t.square() @ gates.square()).sqrt()
    k_student = cosine(gram(centre(signals.features.detach())))
    k_teacher = cosine(gram(t, gates.square()))
    penalty = transfer(signals).detach()
    d = -(k_student - k_teacher) / (81 * penalty)
    m = d / (norm[:, None] * norm)
    c = (d * k_teacher).sum(1) / norm.square()
    by_weight = (t * (m @ t)).sum(0) - (c[:, None] * t.square()).sum(0)
    by_score = by_weight * 2 * gates * gates * (1 - gates)
    torch.testing.assert_close(
        torch.cat([score.grad for score in scores_of(transfer)]), by_score, rtol=1e-6, atol=1e-12
    )


def test_blind_to_shifting_scaling_and_rotating_the_student(case: Case) -> None:
    transfer, signals = with_scores(build(case)), case.signals()
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved = replace(signals, features=(3 * signals.features + 7) @ rotation)
    torch.testing.assert_close(transfer(moved), transfer(signals), rtol=1e-6, atol=0)
    stretched = replace(signals, features=signals.features * torch.tensor([1.0, 1.0, 1.0, 5.0]))
    assert abs(transfer(stretched) - transfer(signals)) > 1e-3


def test_closing_a_gate_hides_that_feature(case: Case) -> None:
    transfer, signals = build(case), case.signals()
    with torch.no_grad():
        scores_of(transfer)[1][2] = -60.0
    changed = signals.teachers[1].clone()
    changed[:, 2] = torch.randn(16)
    hidden = replace(signals, teachers=(signals.teachers[0], changed))
    torch.testing.assert_close(transfer(hidden), transfer(signals))


def test_a_student_with_the_teachers_kernel_is_at_the_minimum(make: Callable[..., Case]) -> None:
    case = make(widths=(4,))
    signals = case.signals()
    same = replace(signals, features=signals.teachers[0].clone().requires_grad_())
    penalty = build(case)(same)
    penalty.backward()
    assert penalty.item() == pytest.approx(1e-4, rel=1e-6)
    assert same.features.grad.isfinite().all()


def test_a_batch_of_two_has_no_gradient(case: Case) -> None:
    signals = case.signals(2)
    penalty = build(case)(signals)
    penalty.backward()
    assert penalty.item() == pytest.approx(1e-4, rel=1e-6)
    assert signals.features.grad.abs().max() < 1e-9


def test_equal_rows_give_no_gradient(case: Case) -> None:
    transfer, signals = build(case).float(), case.signals()
    equal = torch.full((16, 4), 0.3, requires_grad=True)
    teachers = tuple(teacher.float() for teacher in signals.teachers)
    penalty = transfer(Signals(equal, signals.outputs.float(), signals.labels, teachers))
    penalty.backward()
    assert penalty.isfinite()
    assert equal.grad.abs().max() == 0


def test_the_gradient_does_not_fade_as_the_kernels_match() -> None:
    """|dR/dK| is 1/n however small the gap, and R is sqrt((n - 1) / n) times the gap off the diagonal."""
    n = 8
    random = torch.Generator().manual_seed(0)
    teacher = cosine(gram(centre(torch.randn(n, 5, generator=random, dtype=torch.float64))))
    other = cosine(gram(centre(torch.randn(n, 5, generator=random, dtype=torch.float64))))
    for share in (1.0, 1e-2):
        student = (teacher + share * (other - teacher)).requires_grad_()
        penalty = rms_gap(student, teacher)
        penalty.backward()
        assert student.grad.norm().item() == pytest.approx(1 / n, rel=1e-2)
        off = (student - teacher)[~torch.eye(n, dtype=torch.bool)].square().mean().sqrt()
        assert penalty.item() == pytest.approx(math.sqrt((n - 1) / n) * off.item(), rel=1e-2)


def test_independent_features_are_as_far_apart_as_their_widths_say(make: Callable[..., Case]) -> None:
    case = make(widths=(64, 32), student_width=48)
    random = torch.Generator().manual_seed(0)
    features, a, b = (torch.randn(256, d, generator=random, dtype=torch.float64) for d in (48, 64, 32))
    unlabelled = torch.full((256,), -1)
    signals = Signals(features, torch.zeros(256, 3), unlabelled, (a, b))
    assert build(case)(signals).item() == pytest.approx(math.sqrt(1 / 48 + 1 / 96), rel=0.03)


def test_gates_of_directions_have_a_name_of_their_own(case: Case) -> None:
    gates = build(case, task_directions=True).gates()
    assert {name: len(g) for name, g in gates.items()} == {
        "teacher0": 6, "teacher0: task": 3, "teacher1": 5, "teacher1: task": 3,
    }  # fmt: skip


def test_gates_learn_to_keep_what_the_student_knows_and_drop_noise(make: Callable[..., Case]) -> None:
    case = make(widths=(8,))
    transfer = build(case, learning_rate=0.05)
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(transfer.parameters(), transfer.learning_rate)
    unlabelled = torch.full((64,), -1)
    for _ in range(150):
        known = torch.randn(64, 4, generator=random, dtype=torch.float64)
        noise = torch.randn(64, 4, generator=random, dtype=torch.float64)
        signals = Signals(known, torch.zeros(64, 3), unlabelled, (torch.cat([known, noise], 1),))
        optimizer.zero_grad()
        transfer(signals).backward()
        optimizer.step()
    gates = transfer.gates()["teacher0"]
    assert gates[:4].min() > 4 * gates[4:].max()
