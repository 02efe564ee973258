"""The chance level of a penalty: what it would be if the teachers spoke of other rows."""

from dataclasses import replace

import pytest
import torch

from pipeline.guards import chance
from pipeline.methods import aft, logit_kd
from pipeline.params import part, parts
from tests.methods.world import World, make_world


@pytest.fixture
def world() -> World:
    return make_world()


def test_it_is_the_penalty_with_every_row_given_its_neighbours_teachers(world: World) -> None:
    signals = world.signals(5)
    order = [4, 0, 1, 2, 3]
    teachers = tuple(torch.stack([rows[k] for k in order]) for rows in signals.teachers)
    moved = replace(signals, teachers=teachers, folds=signals.folds[order])
    transfer = logit_kd.Settings(cross_fit=True).build(world.context)
    assert chance(transfer, signals) == pytest.approx(transfer(moved).item())
    assert chance(transfer, signals) != pytest.approx(transfer(signals).item())


def test_the_logits_of_a_teachers_head_go_with_its_row(world: World) -> None:
    signals = world.signals(5)
    heads = tuple(torch.stack([rows[k] for k in (4, 0, 1, 2, 3)]) for rows in signals.heads)
    transfer = logit_kd.Settings(logits="head").build(world.context)
    assert chance(transfer, signals) == pytest.approx(transfer(replace(signals, heads=heads)).item())
    assert chance(transfer, signals) != pytest.approx(transfer(signals).item())


@pytest.mark.parametrize("name", parts("methods"))
def test_to_look_at_it_changes_nothing(name: str, world: World) -> None:
    transfer = part("methods", name).Settings().build(world.context).double()
    signals = world.signals()
    state = {key: value.clone() for key, value in transfer.state_dict().items()}
    before, random = transfer(signals), torch.random.get_rng_state()
    assert chance(transfer, signals) > 0
    assert transfer.training
    assert torch.equal(transfer(signals), before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in transfer.state_dict().items())


def test_a_queue_does_not_take_the_moved_rows_in(world: World) -> None:
    transfer = aft.Settings(queue=8).build(world.context).double()
    queued = transfer.queue.features.clone()
    chance(transfer, world.signals())
    assert torch.equal(transfer.queue.features, queued)


def test_a_student_that_says_what_the_probe_says_is_far_below(world: World) -> None:
    context = replace(world.context, teachers=world.context.teachers[:1])
    signals = world.signals()
    signals = replace(signals, teachers=signals.teachers[:1])
    said = replace(signals, logits=context.teachers[0].logits(signals.teachers[0]))
    transfer = logit_kd.Settings().build(context)
    assert transfer(said).item() < 1e-6 < 0.1 < chance(transfer, said)


def test_a_student_that_says_the_same_of_every_row_is_not(world: World) -> None:
    signals = world.signals()
    same = replace(signals, logits=torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64).expand(16, 3))
    transfer = logit_kd.Settings().build(world.context)
    assert transfer(same).item() == pytest.approx(chance(transfer, same))
