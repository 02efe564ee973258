"""The forms and options of AFT beyond the published default."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.functional.kernels import centre, cka, cosine, debiased_cka, gram, off_diagonal_cka, rms_gap
from pipeline.methods import Signals, Transfer
from pipeline.methods.aft import Settings
from pipeline.params import parse
from tests.methods.case import Case


def build(case: Case, **keys: object) -> Transfer:
    torch.manual_seed(0)
    return parse(Settings, keys, "here").build(case.context).double()


def kernel(rows: torch.Tensor) -> torch.Tensor:
    """The definition: centre columns, divide rows by norm + 1e-8, multiply pairs."""
    rows = rows - rows.mean(0)
    unit = rows / (rows.norm(dim=1, keepdim=True) + 1e-8)
    return unit @ unit.T


def outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ni,nj->nij", a, b).flatten(1)


FORMS = [
    {"form": "fixed"},
    {"form": "teacher_gain"},
    {"form": "teacher_gain", "gate": "log"},
    {"form": "diagonal", "gate": "log"},
    {"form": "dense"},
    {"form": "dense", "dense_start": "identity"},
    {"form": "kkd"},
    {"form": "no_kernel"},
    {"kernel": "rbf"},
    {"form": "dense", "kernel": "rbf"},
    {"combine": "outer_product"},
    {"combine": "outer_product", "form": "fixed"},
    {"combine": "outer_product", "task_directions": True},
    {"objective": "cka"},
    {"objective": "off_diagonal_cka"},
    {"objective": "debiased_cka"},
    {"queue": 10},
    {"warm_up": 2},
    {"scaling": "standardised"},
    {"scaling": "whitened"},
    {"scaling": "whitened", "task_directions": True, "gate": "log", "objective": "debiased_cka", "queue": 4},
]


@pytest.mark.parametrize("keys", FORMS, ids=str)
def test_every_form_teaches_the_student_and_its_own_parameters(case: Case, keys: dict[str, object]) -> None:
    transfer, signals = build(case, **keys), case.signals()
    own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    assert bool(own) == (keys.get("form") != "fixed")
    penalty = transfer(signals)
    gradients = torch.autograd.grad(penalty, [signals.features, *own])
    assert penalty >= 0
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
    transfer.gates()
    transfer.log()


def in_precision(signals: Signals, dtype: torch.dtype) -> Signals:
    teachers = tuple(teacher.to(dtype) for teacher in signals.teachers)
    features = signals.features.detach().to(dtype).requires_grad_()
    return replace(signals, features=features, outputs=signals.outputs.to(dtype), teachers=teachers)


def equal(rows: torch.Tensor) -> torch.Tensor:
    return rows[:1].detach().repeat(len(rows), 1).requires_grad_(rows.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("keys", FORMS, ids=str)
def test_every_form_survives_a_collapsed_student_and_equal_teachers(
    case: Case, keys: dict[str, object], dtype: torch.dtype
) -> None:
    signals = in_precision(case.signals(37), dtype)  # 37 equal numbers seldom have that very mean
    for teachers in (signals.teachers, tuple(equal(teacher) for teacher in signals.teachers)):
        features = torch.full((37, 4), 0.3, dtype=dtype, requires_grad=True)
        transfer = build(case, **keys).to(dtype)
        own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
        penalty = transfer(replace(signals, features=features, teachers=teachers))
        gradients = torch.autograd.grad(penalty, [features, *own])
        assert penalty.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("combine", ["side_by_side", "outer_product"])
def test_equal_rows_have_no_gradient(case: Case, combine: str, dtype: torch.dtype) -> None:
    """What rounding leaves of the difference of equal rows would be made as long as any row, and its slope huge."""
    transfer, signals = build(case, combine=combine).to(dtype), in_precision(case.signals(37), dtype)
    collapsed = replace(signals, features=equal(signals.features))
    penalty = transfer(collapsed)
    assert penalty.isfinite()
    assert torch.autograd.grad(penalty, collapsed.features)[0].abs().max() == 0
    penalty = transfer(replace(signals, teachers=tuple(equal(teacher) for teacher in signals.teachers)))
    torch.testing.assert_close(penalty, rms_gap(kernel(signals.features), torch.zeros(37, 37, dtype=dtype)))
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(penalty, list(transfer.parameters())))


@pytest.mark.parametrize("keys", FORMS, ids=str)
def test_no_form_waits_for_the_device(case: Case, keys: dict[str, object]) -> None:
    """On the meta device there are no values, so `.item()`, `bool(tensor)` or a branch on data would raise."""
    transfer, signals = build(case, **keys).to("meta"), case.signals()
    features = signals.features.detach().to("meta").requires_grad_()
    there = replace(signals.map_teachers(lambda rows: rows.to("meta")), labels=signals.labels.to("meta"))
    transfer(replace(there, features=features, outputs=signals.outputs.to("meta"))).backward()


def test_fixed_gates_leave_the_teachers_features_as_they_are(case: Case) -> None:
    signals = case.signals()
    expected = rms_gap(kernel(signals.features), kernel(torch.cat(signals.teachers, 1)))
    torch.testing.assert_close(build(case, form="fixed")(signals), expected)


def test_a_gain_scales_a_whole_teacher(case: Case) -> None:
    transfer, signals = build(case, form="teacher_gain"), case.signals()
    with torch.no_grad():
        transfer.teacher_gram.scores[1].fill_(2.0)
    gains = [0.5, 1 / (1 + math.exp(-2.0))]
    teacher = torch.cat([gain * rows for gain, rows in zip(gains, signals.teachers, strict=True)], 1)
    torch.testing.assert_close(transfer(signals), rms_gap(kernel(signals.features), kernel(teacher)))


def test_dense_maps_the_teachers_features(case: Case) -> None:
    transfer, signals = build(case, form="dense"), case.signals()
    teacher = torch.cat(signals.teachers, 1) @ transfer.teacher_gram.matrix
    torch.testing.assert_close(transfer(signals), rms_gap(kernel(signals.features), kernel(teacher)))


def test_dense_from_the_identity_starts_as_fixed(case: Case) -> None:
    signals = case.signals()
    identity = build(case, form="dense", dense_start="identity")
    torch.testing.assert_close(identity(signals), build(case, form="fixed")(signals))


def test_kkd_maps_the_student(case: Case) -> None:
    transfer, signals = build(case, form="kkd"), case.signals()
    student = signals.features @ transfer.student_map.weight.T
    torch.testing.assert_close(transfer(signals), rms_gap(kernel(student), kernel(torch.cat(signals.teachers, 1))))


def test_without_a_kernel_it_is_a_regression_of_the_student_on_the_teachers(case: Case) -> None:
    transfer, signals = build(case, form="no_kernel"), case.signals(5)
    mapped = torch.cat(signals.teachers, 1) @ transfer.map.weight.T
    total = 0.0
    for j in range(4):
        mean_mapped, mean_student = mapped[:, j].mean(), signals.features[:, j].mean()
        for i in range(5):
            total += ((mapped[i, j] - mean_mapped) - (signals.features[i, j] - mean_student)).item() ** 2
    assert transfer(signals).item() == pytest.approx(total / 20)


def test_rbf_compares_distances_of_unit_rows(case: Case) -> None:
    signals = case.signals()

    def radial(rows: torch.Tensor) -> torch.Tensor:
        rows = rows - rows.mean(0)
        unit = rows / (rows.norm(dim=1, keepdim=True) + 1e-8)
        return (-torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()).exp()

    expected = rms_gap(radial(signals.features), radial(torch.cat(signals.teachers, 1)))
    torch.testing.assert_close(build(case, kernel="rbf")(signals), expected)


def test_an_outer_product_of_modalities_is_one_of_their_features(case: Case) -> None:
    signals = case.signals()
    expected = rms_gap(kernel(signals.features), kernel(outer(*signals.teachers)))
    transfer = build(case, combine="outer_product")
    torch.testing.assert_close(transfer(signals), expected)


def test_the_gradient_of_outer_product_gates_is_that_of_forming_it(case: Case) -> None:
    signals = case.signals()
    transfer = build(case, combine="outer_product")
    transfer(signals).backward()
    scores = [score.detach().clone().requires_grad_() for score in transfer.teacher_gram.scores]
    gated = [rows * score.sigmoid() for rows, score in zip(signals.teachers, scores, strict=True)]
    rms_gap(kernel(signals.features.detach()), kernel(outer(*gated))).backward()
    for score, formed in zip(transfer.teacher_gram.scores, scores, strict=True):
        torch.testing.assert_close(score.grad, formed.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "similarity"), [("cka", cka), ("off_diagonal_cka", off_diagonal_cka), ("debiased_cka", debiased_cka)]
)
def test_a_similarity_compares_the_same_two_kernels(case: Case, objective: str, similarity: Callable) -> None:
    signals = case.signals()
    student, teacher = kernel(signals.features), kernel(torch.cat(signals.teachers, 1))
    torch.testing.assert_close(build(case, objective=objective)(signals), 1 - similarity(student, teacher))


def test_the_queue_joins_the_kernel_and_moves_on(case: Case) -> None:
    transfer = build(case, queue=10)
    rows = np.sort(np.random.default_rng(0).choice(case.context.train_rows, 10, replace=False))
    kept = [case.context.student_features(rows), *(case.context.teacher_features(k, rows) for k in range(2))]
    for step in range(3):
        signals = case.signals(6, seed=step)
        new = [signals.features, *signals.teachers]
        joined = [torch.cat([a, b]) for a, b in zip(new, kept, strict=True)]
        expected = rms_gap(kernel(joined[0]), kernel(torch.cat(joined[1:], 1)))
        torch.testing.assert_close(transfer(signals), expected, rtol=1e-6, atol=0)
        kept = [rows[:10].detach() for rows in joined]


def test_the_queue_does_not_change_outside_training_and_is_part_of_the_state(case: Case) -> None:
    transfer = build(case, queue=10)
    first = transfer(case.signals(6))
    transfer.eval()
    still = transfer(case.signals(6))
    assert still == transfer(case.signals(6))
    assert still != first
    fresh = build(case, queue=10).eval()
    assert fresh(case.signals(6)) != still
    fresh.load_state_dict(transfer.state_dict())
    assert fresh(case.signals(6)) == still


def test_a_queue_gives_a_batch_of_two_a_gradient(case: Case) -> None:
    signals = case.signals(2)
    build(case, queue=10)(signals).backward()
    assert signals.features.grad.abs().max() > 1e-4


def test_warm_gates_fit_the_untrained_student_better_than_equal_ones(make: Callable[..., Case]) -> None:
    case = make(widths=(8,), student_width=4, rows=220)
    context = case.context
    known = torch.cat([context.student_features(np.arange(220)), 5 * torch.randn(220, 4, dtype=torch.float64)], 1)
    context = replace(context, teacher_features=lambda number, rows: known[rows])
    signals = Signals(
        context.student_features(context.val_rows), torch.zeros(len(context.val_rows), 3),
        context.labels[context.val_rows], (known[context.val_rows],),
    )  # fmt: skip
    torch.manual_seed(0)
    cold, warm = (Settings(warm_up=steps).build(context) for steps in (0, 200))
    assert warm(signals) < 0.8 * cold(signals)
    again = Settings(warm_up=200).build(context)
    assert torch.equal(again.gates()["teacher0"], warm.gates()["teacher0"])
    assert warm.training
    assert all(parameter.grad is None for parameter in warm.parameters())


def test_warming_up_does_not_move_the_queue(case: Case) -> None:
    cold, warm = (build(case, queue=5, warm_up=steps) for steps in (0, 3))
    assert torch.equal(cold.queue.features, warm.queue.features)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"form": "fixed", "gate": "log"}, "gate does nothing in form fixed"),
        ({"form": "no_kernel", "kernel": "rbf"}, "kernel does nothing in form no_kernel"),
        ({"dense_start": "identity"}, "dense_start does nothing in form diagonal"),
        ({"form": "dense", "combine": "outer_product"}, "combine does nothing in form dense"),
        ({"form": "fixed", "warm_up": 5}, "warm_up does nothing in form fixed"),
        ({"form": "fixed", "learning_rate": 0.1}, "learning_rate does nothing in form fixed"),
        ({"form": "no_kernel", "queue": 5}, "queue does nothing in form no_kernel"),
        ({"form": "diagnal"}, "should be 'diagonal'"),
    ],
)
def test_options_that_would_do_nothing_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Settings, keys, "params.yaml: runs.a.methods[0]")


def test_what_a_form_needs_and_does_not_have_is_refused_before_training(make: Callable[..., Case]) -> None:
    case = make(widths=(5,))
    with pytest.raises(
        UserError, match=r"two teachers or more; add one to .*, then run `aft extract NAME` and `aft probe NAME`"
    ):
        build(case, combine="outer_product")
    with pytest.raises(UserError, match=r"use form: fixed, or add one to .*, then run `aft extract NAME`"):
        build(case, form="teacher_gain")
    with pytest.raises(UserError, match="queue: 999 exceeds the 40 training rows"):
        build(case, queue=999)
    assert build(case, form="teacher_gain", task_directions=True).gates()


def test_the_gram_path_equals_the_row_path_in_float32_too(case: Case) -> None:
    signals = case.signals()
    rows = [x.float() for x in (signals.features, *signals.teachers)]
    narrow = replace(signals, features=rows[0], outputs=signals.outputs.float(), teachers=tuple(rows[1:]))
    exact = rms_gap(cosine(gram(centre(signals.features))), cosine(gram(centre(torch.cat(signals.teachers, 1)))))
    assert build(case).float()(narrow).item() == pytest.approx(exact.item(), rel=1e-5)
