"""What every file in pipeline/methods/ promises: a new method is tested here by existing."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from pipeline.methods import Signals, Transfer
from pipeline.params import Settings, parse, plugin, plugins
from tests.methods.case import Case, make_case

NAMES = plugins("methods")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def built(name: str, widths: tuple[int, ...]) -> Transfer:
    torch.manual_seed(0)
    return plugin("methods", name).Settings().build(make_case(widths).context).double()


def build(name: str, widths: tuple[int, ...] = (6, 5)) -> Transfer:
    """A method with its defaults, built once, so that slow preparations are made once."""
    return deepcopy(built(name, widths))


def step(transfer: Transfer, signals: Signals) -> None:
    """One step of its own parameters at its own rate."""
    own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(own, transfer.learning_rate)
    transfer(signals).backward()
    optimizer.step()
    optimizer.zero_grad()


def shuffled(signals: Signals, order: torch.Tensor) -> Signals:
    features, outputs, labels = (each[order] for each in (signals.features, signals.outputs, signals.labels))
    return replace(signals.map_teachers(lambda rows: rows[order]), features=features, outputs=outputs, labels=labels)


def test_settings_are_strict_and_have_defaults(name: str) -> None:
    settings = plugin("methods", name).Settings
    assert issubclass(settings, Settings)
    assert settings() == settings()
    assert settings.__doc__


def test_settings_that_auto_lists_can_be_tried_and_differ(name: str, case: Case) -> None:
    """Each value, with the others at their defaults; the first is the default, so that a tie leaves things as told.

    A single value is set, not searched.
    """
    module, signals = plugin("methods", name), case.signals()
    for key, values in getattr(module, "AUTO", {}).items():
        tried = [parse(module.Settings, {key: value}, name) for value in values]
        default = getattr(module.Settings(), key)
        if len(values) == 1:
            assert default != values[0], "it would set what is so anyway"
            continue
        assert default == values[0]
        penalties = [settings.build(case.context).double()(signals).item() for settings in tried]
        assert len(set(penalties)) == len(values)


def test_the_penalty_is_a_finite_scalar_that_is_not_negative(name: str, case: Case) -> None:
    penalty = build(name)(case.signals())
    assert penalty.shape == ()
    assert penalty.isfinite()
    assert penalty >= 0


def test_it_teaches_the_student_and_its_own_parameters(name: str, case: Case) -> None:
    """The student from the second step at the latest: a map that starts at 0 must move first."""
    transfer, signals = build(name), case.signals()
    own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    if own:
        step(transfer, signals)
    gradients = torch.autograd.grad(transfer(signals), [signals.features, signals.outputs, *own], allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients[:2])
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in gradients[2:])


def test_it_does_not_depend_on_the_order_of_the_batch(name: str, case: Case) -> None:
    signals = case.signals()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    transfer = build(name)
    torch.testing.assert_close(transfer(shuffled(signals, order)), transfer(signals), rtol=1e-9, atol=0)


def test_equal_rows_and_a_collapsed_student_give_finite_numbers(name: str, case: Case) -> None:
    signals = case.signals(8)
    features = torch.full_like(signals.features, 0.3).requires_grad_()
    logits = torch.full_like(signals.outputs, 0.3).requires_grad_()
    teachers = tuple(teacher[:1].repeat(8, 1) for teacher in signals.teachers)
    transfer = build(name)
    for rows in (teachers, signals.teachers):
        penalty = transfer(replace(signals, features=features, outputs=logits, teachers=rows))
        gradients = torch.autograd.grad(penalty, [features, logits], allow_unused=True)
        assert penalty.isfinite()
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_batches_give_finite_numbers(name: str, case: Case, n: int) -> None:
    signals = case.signals(n)
    penalty = build(name)(signals)
    gradients = torch.autograd.grad(penalty, [signals.features, signals.outputs], allow_unused=True)
    assert penalty.isfinite()
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_autocast_and_half_precision_students_change_nothing(name: str, case: Case) -> None:
    transfer = build(name).float()
    signals = case.signals()
    features, outputs = signals.features.bfloat16(), signals.outputs.bfloat16()
    half = replace(signals.map_teachers(torch.Tensor.float), features=features, outputs=outputs)
    full = replace(half, features=features.float(), outputs=outputs.float())
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = transfer(half)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, build(name).float()(full))


def test_reloading_its_state_reproduces_it(name: str, case: Case) -> None:
    trained, signals = build(name), case.signals()
    if any(parameter.requires_grad for parameter in trained.parameters()):
        before = trained(signals)
        step(trained, signals)
        assert trained(signals) != before
    fresh = build(name)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(signals), trained(signals))


def test_its_reports_are_plain_numbers_and_gates_fit_the_teachers(name: str, case: Case) -> None:
    transfer = build(name)
    assert all(type(value) is float for value in transfer.log().values())
    widths = {"teacher0": 6, "teacher1": 5}
    for block, gates in transfer.gates().items():
        teacher, _, task = block.partition(": ")
        assert gates.shape == (3 if task == "task" else widths[teacher],)
        assert not gates.requires_grad


def test_one_teacher_is_enough(name: str) -> None:
    assert build(name, (5,))(make_case((5,)).signals()).isfinite()


def test_the_same_seed_builds_the_same_method(name: str, case: Case) -> None:
    torch.manual_seed(0)
    again = plugin("methods", name).Settings().build(case.context).double()
    assert torch.equal(again(case.signals()), build(name)(case.signals()))


def test_building_reads_only_rows_that_may_be_read(name: str, case: Case) -> None:
    """Test rows are out of bounds; labels that are hidden are -1 in the context."""
    allowed = set(case.context.train_rows) | set(case.context.val_rows)
    assert len(allowed) < 60

    def guarded(rows: np.ndarray) -> np.ndarray:
        assert set(rows.tolist()) <= allowed
        return rows

    features, student = case.context.teacher_features, case.context.student_features
    context = replace(
        case.context,
        teacher_features=lambda k, rows: features(k, guarded(rows)),
        student_features=lambda rows: student(guarded(rows)),
    )
    torch.manual_seed(0)
    transfer = plugin("methods", name).Settings().build(context).double()
    assert transfer(case.signals()).isfinite()


def test_a_step_never_waits_for_the_device(name: str) -> None:
    """On the meta device there are no values, so `.item()`, `bool(tensor)` or a branch on data would raise."""
    transfer = build(name).to("meta")
    signals = make_case().signals()
    features, outputs = (x.detach().to("meta").requires_grad_() for x in (signals.features, signals.outputs))
    there = replace(signals.map_teachers(lambda rows: rows.to("meta")), labels=signals.labels.to("meta"))
    transfer(replace(there, features=features, outputs=outputs)).backward()


def test_it_reads_what_it_declares_and_nothing_else(name: str, case: Case) -> None:
    transfer, signals = build(name), case.signals()
    given = replace(
        signals,
        teachers=signals.teachers if "features" in transfer.reads else (),
        teacher_outputs={kind: each for kind, each in signals.teacher_outputs.items() if kind in transfer.reads},
    )
    assert torch.equal(transfer(given), build(name)(signals))
