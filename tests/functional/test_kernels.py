import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.functional.kernels import (
    SplitGram,
    centre,
    cka,
    cosine,
    cosine_gap,
    debiased_cka,
    double_centre,
    gram,
    off_diagonal_cka,
    radial,
    rms_gap,
)


def loops_kernel(rows: list[list[float]]) -> list[list[float]]:
    """Centre each column, divide each row by its norm + 1e-8, multiply all pairs: floats and loops only."""
    n, d = len(rows), len(rows[0])
    mean = [sum(row[k] for row in rows) / n for k in range(d)]
    rows = [[row[k] - mean[k] for k in range(d)] for row in rows]
    unit = [[x / (math.sqrt(sum(y * y for y in row)) + 1e-8) for x in row] for row in rows]
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(n=st.integers(1, 9), d=st.integers(1, 7), scale=st.sampled_from([1e-9, 1.0, 1e5]), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_gram_form_is_the_definition_epsilon_included(n: int, d: int, scale: float, seed: int) -> None:
    rows = normal(n, d, seed=seed) * scale
    expected = torch.tensor(loops_kernel(rows.tolist()), dtype=torch.float64)
    torch.testing.assert_close(cosine(gram(centre(rows))), expected, rtol=1e-9, atol=1e-12)


def test_centring_the_gram_is_centring_the_rows() -> None:
    rows = normal(7, 3) + 2
    torch.testing.assert_close(double_centre(gram(rows)), gram(rows - rows.mean(0)))


def test_a_weight_is_a_squared_gate() -> None:
    rows, gates = normal(6, 4), normal(4, seed=1)
    torch.testing.assert_close(gram(rows, gates**2), gram(rows * gates))


@pytest.mark.parametrize("value", [0.0, 0.1, 100.3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_a_zero_kernel_and_a_zero_gradient(value: float, dtype: torch.dtype) -> None:
    rows = torch.full((37, 3), value, dtype=dtype, requires_grad=True)  # 37 such numbers seldom have that very mean
    kernel = cosine(gram(centre(rows)))
    rms_gap(kernel, cosine(gram(centre(normal(37, 3, dtype=dtype))))).backward()
    assert kernel.abs().max() == 0
    assert rows.grad is not None
    assert rows.grad.abs().max() == 0


@pytest.mark.parametrize("mean", [1.0, 100.0])
def test_float32_keeps_its_digits_under_a_large_mean(mean: float) -> None:
    """Kernel and gradient against float64; forming the Gram of uncentred rows errs by 2e-2 here, this by 1e-5."""
    rows, other = normal(32, 24) + mean, cosine(gram(centre(normal(32, 8, seed=1))))

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        x = rows.float().to(dtype).requires_grad_()  # the same rounded numbers for both
        rms_gap(cosine(gram(centre(x))), other.to(dtype)).backward()
        assert x.grad is not None
        return x.grad.double()

    exact = gradient(torch.float64)
    assert (gradient(torch.float32) - exact).norm() / exact.norm() < 1e-5


def test_the_radial_kernel_needs_no_differences_of_rows() -> None:
    rows = centre(normal(6, 4))
    unit = rows / (rows.norm(dim=1, keepdim=True) + 1e-8)
    expected = (-(unit[:, None] - unit[None]).square().sum(-1)).exp()
    torch.testing.assert_close(radial(cosine(gram(rows))), expected)
    torch.testing.assert_close(radial(cosine(gram(rows))), (2 * cosine(gram(rows)) - 2).exp(), rtol=1e-6, atol=0)


def test_the_gap_is_the_root_of_the_mean_square_plus_epsilon() -> None:
    a, b = normal(3, 3), normal(3, 3, seed=1)
    expected = math.sqrt(sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 9)
    assert rms_gap(a, b).item() == pytest.approx(math.sqrt(expected**2 + 1e-8), rel=1e-12)
    assert rms_gap(a, a).item() == pytest.approx(1e-4, rel=1e-12)


def loops_gap(student: list[list[float]], teacher: list[list[float]], gates: list[float]) -> float:
    """The root of the mean squared difference of two kernels, plus epsilon: floats and loops only."""
    gated = [[x * g for x, g in zip(row, gates, strict=True)] for row in teacher]
    a, b, n = loops_kernel(student), loops_kernel(gated), len(student)
    return math.sqrt(sum((a[i][j] - b[i][j]) ** 2 for i in range(n) for j in range(n)) / n**2 + 1e-8)


@given(n=st.integers(1, 9), d=st.integers(1, 7), e=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_cosine_gap_is_its_definition(n: int, d: int, e: int, seed: int) -> None:
    student, teacher, gates = normal(n, d, seed=seed), normal(n, e, seed=seed + 1), normal(e, seed=seed + 2).sigmoid()
    gap = cosine_gap(centre(student), centre(teacher), gates)
    assert gap.item() == pytest.approx(loops_gap(student.tolist(), teacher.tolist(), gates.tolist()), rel=1e-9)


def test_the_closed_form_is_the_gradient_of_the_cosine_gap() -> None:
    student, gates = normal(7, 3).requires_grad_(), normal(4, seed=1).sigmoid().requires_grad_()
    teacher = centre(normal(7, 4, seed=2))
    assert torch.autograd.gradcheck(lambda s, g: cosine_gap(s, teacher, g), (student, gates))


def test_short_rows_have_the_gradient_that_autograd_finds() -> None:
    """Rows about as long as the epsilon of the norms, which gradcheck's steps cannot tell from 0."""
    teacher, student = centre(normal(7, 4, seed=2)) * 1e-8, centre(normal(7, 3)) * 1e-8
    slopes = []
    for gap in (cosine_gap, lambda s, t, g: rms_gap(cosine(gram(centre(s))), cosine(gram(centre(t) * g)))):
        inputs = student.clone().requires_grad_(), normal(4, seed=1).sigmoid().requires_grad_()
        slopes.append(torch.autograd.grad(gap(inputs[0], teacher, inputs[1]), inputs))
    for closed, found in zip(*slopes, strict=True):
        torch.testing.assert_close(closed, found, rtol=1e-6, atol=0)


def test_a_closed_gate_and_equal_rows_have_a_gradient_of_zero() -> None:
    gates = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    student = torch.full((7, 2), 0.1, dtype=torch.float64, requires_grad=True)
    cosine_gap(centre(student), centre(normal(7, 3)), gates).backward()
    assert student.grad is not None
    assert gates.grad is not None
    assert student.grad.abs().max() == 0
    assert gates.grad[0] == 0
    assert gates.grad[1:].abs().min() > 0


def outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ni,nj->nij", a, b).flatten(1)


def test_features_side_by_side_are_a_sum_of_grams() -> None:
    a, b = normal(7, 3) + 5, normal(7, 4, seed=1) - 2
    both = (SplitGram.of(a) + SplitGram.of(b)).centred()
    torch.testing.assert_close(both, gram(centre(torch.cat([a, b], 1))))
    torch.testing.assert_close(gram(centre(a)) + gram(centre(b)), gram(centre(torch.cat([a, b], 1))))


def test_an_outer_product_is_a_product_of_grams_of_any_number_of_factors() -> None:
    a, b, c = (normal(7, d, seed=d) + d for d in (3, 4, 2))
    two = (SplitGram.of(a) * SplitGram.of(b)).centred()
    torch.testing.assert_close(two, gram(centre(outer(a, b))))
    three = (SplitGram.of(a) * SplitGram.of(b) * SplitGram.of(c)).centred()
    torch.testing.assert_close(three, gram(centre(outer(outer(a, b), c))))


def test_a_gated_outer_product_is_the_product_of_gated_grams() -> None:
    a, b, ga, gb = normal(7, 3) + 2, normal(7, 4, seed=1), normal(3, seed=2), normal(4, seed=3)
    split = SplitGram.of(a, ga**2) * SplitGram.of(b, gb**2)
    torch.testing.assert_close(split.centred(), gram(centre(outer(a * ga, b * gb))))


def test_centring_each_modality_first_is_another_objective() -> None:
    a, b = normal(7, 3) + 5, normal(7, 4, seed=1) - 2
    first = gram(centre(a)) * gram(centre(b))
    assert not torch.allclose(double_centre(first), gram(centre(outer(a, b))))


def test_outer_products_keep_their_digits_in_float32_under_large_means() -> None:
    a, b = (normal(24, d, seed=d).add(mean).float() for d, mean in ((16, 100.0), (12, 30.0)))
    exact = cosine(gram(centre(outer(a.double(), b.double()))))
    split = cosine((SplitGram.of(a) * SplitGram.of(b)).centred()).double()
    naive = cosine(double_centre(gram(a) * gram(b))).double()
    assert (split - exact).norm() / exact.norm() < 2e-5
    assert (naive - exact).norm() / exact.norm() > 2e-4  # what the split is for


def loops_hsic(a: list[list[float]], b: list[list[float]]) -> float:
    """Song et al. (2012), equation 5: the unbiased estimate, from Grams whose diagonals are left out."""
    n = len(a)
    others = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(a[i][j] * b[i][j] for i, j in others)
    sums = sum(a[i][j] for i, j in others) * sum(b[i][j] for i, j in others)
    row_a = [sum(a[i][j] for j in range(n) if j != i) for i in range(n)]
    row_b = [sum(b[i][j] for j in range(n) if j != i) for i in range(n)]
    cross = sum(x * y for x, y in zip(row_a, row_b, strict=True))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 5, 11])
def test_debiased_cka_is_the_unbiased_hsic_normalised(n: int) -> None:
    a, b = gram(normal(n, 5)), gram(normal(n, 3, seed=1))
    expected = loops_hsic(a.tolist(), b.tolist()) / math.sqrt(
        loops_hsic(a.tolist(), a.tolist()) * loops_hsic(b.tolist(), b.tolist())
    )
    assert debiased_cka(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_cka_is_the_published_ratio_of_norms() -> None:
    """For centred features, |Y^T X|^2 / (|X^T X| |Y^T Y|)."""
    x, y = normal(9, 5), normal(9, 3, seed=1)
    cx, cy = x - x.mean(0), y - y.mean(0)
    expected = (cy.T @ cx).square().sum() / ((cx.T @ cx).norm() * (cy.T @ cy).norm())
    torch.testing.assert_close(cka(gram(x), gram(y)), expected)


def test_off_diagonal_cka_leaves_the_diagonal_out() -> None:
    a, b = double_centre(gram(normal(6, 5))), double_centre(gram(normal(6, 3, seed=1)))
    off = [(a[i, j].item(), b[i, j].item()) for i in range(6) for j in range(6) if i != j]
    norms = math.sqrt(sum(x * x for x, _ in off) * sum(y * y for _, y in off))
    expected = sum(x * y for x, y in off) / norms
    assert off_diagonal_cka(a, b).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("similarity", [cka, off_diagonal_cka, debiased_cka])
def test_a_similarity_is_one_for_the_same_and_blind_to_rotation_shift_and_scale(similarity) -> None:
    x, y = normal(12, 6), normal(12, 5, seed=1)
    rotation = torch.linalg.qr(normal(6, 6, seed=2)).Q
    moved = 3 * x @ rotation + 5
    assert similarity(gram(x), gram(moved)).item() == pytest.approx(1)
    torch.testing.assert_close(similarity(gram(moved), gram(y)), similarity(gram(x), gram(y)))
    assert similarity(gram(x), gram(y)) < 0.9


def test_only_debiased_cka_of_independent_wide_features_is_near_zero() -> None:
    x, y = gram(normal(50, 768)), gram(normal(50, 768, seed=1))
    assert cka(x, y) > 0.9
    assert abs(debiased_cka(x, y)) < 0.1


@pytest.mark.parametrize("similarity", [cka, off_diagonal_cka, debiased_cka])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_similarity_of_nothing_is_zero_with_a_finite_gradient(similarity, n: int) -> None:
    x = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
    value = similarity(cosine(gram(centre(x))), gram(centre(normal(n, 3))))
    value.backward()
    assert value == 0
    assert x.grad is not None
    assert x.grad.abs().max() == 0
