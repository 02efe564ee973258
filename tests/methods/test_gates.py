import pytest
import torch

from pipeline.functional.kernels import centre, cosine, double_centre, gram, rms_gap
from pipeline.methods._gates import DenseGates, Gates
from pipeline.methods._targets import Targets, TargetSettings
from tests.methods.case import make_case

CASE = make_case()


def gates(
    each: str = "diagonal", task_directions: bool = False, **options: str
) -> tuple[Gates, tuple[torch.Tensor, ...]]:
    """Gates with unequal scores, and the blocks they act on."""
    targets = Targets(TargetSettings(task_directions=task_directions), CASE.context)
    made = Gates(targets, each, **options).double()  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for score in made.scores:
            score.copy_(torch.randn(score.shape, generator=random, dtype=torch.float64))
    return made, targets(CASE.signals(9))


def gated(made: Gates, blocks: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [block * gate for block, gate in zip(blocks, made.values(), strict=True)]


def outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ni,nj->nij", a, b).flatten(1)


@pytest.mark.parametrize("each", ["diagonal", "teacher_gain", "fixed"])
@pytest.mark.parametrize("activation", ["sigmoid", "log"])
def test_side_by_side_is_the_gram_of_the_gated_features_together(each: str, activation: str) -> None:
    made, blocks = gates(each, activation=activation)
    torch.testing.assert_close(made(blocks), gram(centre(torch.cat(gated(made, blocks), 1))))


def test_the_outer_product_is_never_formed_and_is_the_same() -> None:
    made, blocks = gates(combine="outer_product")
    torch.testing.assert_close(made(blocks), gram(centre(outer(*gated(made, blocks)))))


def test_gates_of_an_outer_product_learn_the_same_in_float32_under_large_means() -> None:
    """Their gradient, at means of a hundred standard deviations, against that in float64."""
    made, blocks = gates(combine="outer_product")
    random = torch.Generator().manual_seed(1)
    blocks = tuple((torch.randn(24, block.shape[1], generator=random) + 100) for block in blocks)
    student = cosine(gram(centre(torch.randn(24, 4, generator=random, dtype=torch.float64))))

    def gradient(dtype: torch.dtype, split: bool = True) -> torch.Tensor:
        made.to(dtype)
        rows = [block.to(dtype) for block in blocks]  # the same rounded numbers for both
        naive = [gram(block * gate) for block, gate in zip(rows, made.values(), strict=True)]
        product = made(rows) if split else double_centre(naive[0] * naive[1])
        slopes = torch.autograd.grad(rms_gap(student.to(dtype), cosine(product)), list(made.parameters()))
        return torch.cat(slopes).double()

    exact = gradient(torch.float64)
    assert ((gradient(torch.float32) - exact).abs() < 1e-3 * exact.abs()).all()
    assert (gradient(torch.float32) - exact).norm() < 1e-4 * exact.norm()
    assert (gradient(torch.float32, split=False) - exact).norm() > 5e-4 * exact.norm()  # what the split is for


def test_in_an_outer_product_directions_are_concatenated_to_their_own_teachers_features() -> None:
    made, blocks = gates(combine="outer_product", task_directions=True)
    a, a_task, b, b_task = gated(made, blocks)
    product = outer(torch.cat([a, a_task], 1), torch.cat([b, b_task], 1))
    torch.testing.assert_close(made(blocks), gram(centre(product)))


def test_log_gates_have_no_level() -> None:
    made, _ = gates(activation="log")
    before = [gate.clone() for gate in made.values()]
    assert torch.cat(before).log().mean().item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        for score in made.scores:
            score += 3
    for gate, was in zip(made.values(), before, strict=True):
        torch.testing.assert_close(gate, was)


def test_log_gates_at_the_start_are_one_and_sigmoid_gates_one_half() -> None:
    targets = Targets(TargetSettings(), CASE.context)
    assert all((gate == 1).all() for gate in Gates(targets, activation="log").values())
    assert all((gate == 0.5).all() for gate in Gates(targets).values())


def test_a_teachers_gain_is_reported_for_each_of_its_features() -> None:
    made, _ = gates("teacher_gain", task_directions=True)
    report = made.report()
    assert {name: len(gate) for name, gate in report.items()} == {
        "teacher0": 6, "teacher0: task": 3, "teacher1": 5, "teacher1: task": 3,
    }  # fmt: skip
    assert all(gate.unique().numel() == 1 for gate in report.values())


def test_fixed_gates_learn_nothing_and_report_nothing() -> None:
    made, _ = gates("fixed")
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert made.report() == {}


@pytest.mark.parametrize("start", ["random", "identity"])
def test_a_dense_matrix_maps_all_features_together(start: str) -> None:
    torch.manual_seed(0)
    made = DenseGates(11, start).double()  # type: ignore[arg-type]
    _, blocks = gates()
    torch.testing.assert_close(made(blocks), gram(centre(torch.cat(blocks, 1) @ made.matrix)))
    assert made.report() == {}


def test_a_dense_matrix_starts_at_variance_one_over_its_width_or_at_the_identity() -> None:
    torch.manual_seed(0)
    assert DenseGates(200, "random").matrix.var().item() == pytest.approx(1 / 200, rel=0.05)
    assert torch.equal(DenseGates(5, "identity").matrix, torch.eye(5))
