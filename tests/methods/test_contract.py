"""What every file in pipeline/methods/ promises: a new method is tested here by existing."""

from dataclasses import replace

import pytest
import torch

from pipeline.methods import Signals, Transfer
from pipeline.params import Settings, part, parts
from tests.methods.world import World, make_world

NAMES = parts("methods")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, world: World, **settings: object) -> Transfer:
    torch.manual_seed(0)
    return part("methods", name).Settings(**settings).build(world.context).double()


def shuffled(signals: Signals, order: torch.Tensor) -> Signals:
    teachers = tuple(teacher[order] for teacher in signals.teachers)
    return Signals(
        signals.features[order], signals.logits[order], teachers, signals.labels[order], signals.progress
    )  # fmt: skip


def test_settings_are_strict_and_have_defaults(name: str) -> None:
    settings = part("methods", name).Settings
    assert issubclass(settings, Settings)
    assert settings() == settings()
    assert settings.__doc__


def test_the_penalty_is_a_finite_scalar_that_is_not_negative(name: str, world: World) -> None:
    penalty = build(name, world)(world.signals())
    assert penalty.shape == ()
    assert penalty.isfinite()
    assert penalty >= 0


def test_it_teaches_the_student_and_its_own_parameters_but_not_the_teachers(name: str, world: World) -> None:
    signals = world.signals()
    for teacher in signals.teachers:
        teacher.requires_grad_()
    transfer = build(name, world)
    own = [parameter for parameter in transfer.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(transfer(signals), [signals.features, signals.logits, *own], allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients[:2])
    assert all(g is not None and g.isfinite().all() for g in gradients[2:])
    assert any(g.abs().max() > 0 for g in gradients[2:]) or not own


def test_it_does_not_depend_on_the_order_of_the_batch(name: str, world: World) -> None:
    signals = world.signals()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    transfer = build(name, world)
    torch.testing.assert_close(transfer(shuffled(signals, order)), transfer(signals), rtol=1e-9, atol=0)


def test_equal_rows_and_a_collapsed_student_give_finite_numbers(name: str, world: World) -> None:
    signals = world.signals(8)
    features = torch.full_like(signals.features, 0.3).requires_grad_()
    logits = torch.full_like(signals.logits, 0.3).requires_grad_()
    teachers = tuple(teacher[:1].repeat(8, 1) for teacher in signals.teachers)
    transfer = build(name, world)
    for rows in (teachers, signals.teachers):
        penalty = transfer(replace(signals, features=features, logits=logits, teachers=rows))
        gradients = torch.autograd.grad(penalty, [features, logits], allow_unused=True)
        assert penalty.isfinite()
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_batches_give_finite_numbers(name: str, world: World, n: int) -> None:
    signals = world.signals(n)
    penalty = build(name, world)(signals)
    gradients = torch.autograd.grad(penalty, [signals.features, signals.logits], allow_unused=True)
    assert penalty.isfinite()
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_autocast_and_half_precision_students_change_nothing(name: str, world: World) -> None:
    transfer = build(name, world).float()
    signals = world.signals()
    teachers = tuple(teacher.float() for teacher in signals.teachers)
    features, logits = signals.features.bfloat16(), signals.logits.bfloat16()
    half = replace(signals, features=features, logits=logits, teachers=teachers)
    full = replace(half, features=features.float(), logits=logits.float())
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = transfer(half)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, build(name, world).float()(full))


def test_a_step_of_its_own_optimiser_and_reloading_its_state_reproduce_it(name: str, world: World) -> None:
    trained, signals = build(name, world), world.signals()
    own = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    if own:
        optimizer = torch.optim.Adam(own, trained.learning_rate)
        trained(signals).backward()
        optimizer.step()
    fresh = build(name, world)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(signals), trained(signals))


def test_its_reports_are_plain_numbers_and_gates_fit_the_teachers(name: str, world: World) -> None:
    transfer = build(name, world)
    assert all(type(value) is float for value in transfer.log().values())
    assert transfer.chance() is None or transfer.chance() > 0
    widths = {"teacher0": 6, "teacher1": 5}
    for teacher, gates in transfer.gates().items():
        assert gates.shape == (widths[teacher],)
        assert not gates.requires_grad


def test_one_teacher_is_enough(name: str) -> None:
    world = make_world(widths=(5,))
    assert build(name, world)(world.signals()).isfinite()


def test_building_reads_no_label_that_is_hidden(name: str, world: World) -> None:
    """Labels outside `labelled_rows` are -1 in the context, and building must work from the others alone."""
    unlabelled = [row for row in world.context.train_rows if row not in set(world.context.labelled_rows)]
    assert (world.context.labels[unlabelled] == -1).all()
    assert build(name, world)(world.signals()).isfinite()
