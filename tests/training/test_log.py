"""The chance level of a penalty: what it would be if the teachers spoke of other rows."""

from dataclasses import replace

import pytest
import torch

from pipeline.methods import aft, logit_kd
from pipeline.params import plugin, plugins
from pipeline.training.log import chance_level
from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


def test_it_is_the_penalty_with_every_row_given_its_neighbours_teachers(case: Case) -> None:
    signals = case.signals(5)
    order = [4, 0, 1, 2, 3]
    teachers = tuple(torch.stack([rows[k] for k in order]) for rows in signals.teachers)
    moved = replace(signals, teachers=teachers, folds=signals.folds[order])
    transfer = logit_kd.Settings(cross_fit=True).build(case.context)
    assert chance_level(transfer, signals) == pytest.approx(transfer(moved).item())
    assert chance_level(transfer, signals) != pytest.approx(transfer(signals).item())


def test_the_logits_of_a_teachers_head_go_with_its_row(case: Case) -> None:
    signals = case.signals(5)
    heads = tuple(torch.stack([rows[k] for k in (4, 0, 1, 2, 3)]) for rows in signals.heads)
    transfer = logit_kd.Settings(logits="head").build(case.context)
    assert chance_level(transfer, signals) == pytest.approx(transfer(replace(signals, heads=heads)).item())
    assert chance_level(transfer, signals) != pytest.approx(transfer(signals).item())


@pytest.mark.parametrize("name", plugins("methods"))
def test_to_look_at_it_changes_nothing(name: str, case: Case) -> None:
    transfer = plugin("methods", name).Settings().build(case.context).double()
    signals = case.signals()
    state = {key: value.clone() for key, value in transfer.state_dict().items()}
    before, random = transfer(signals), torch.random.get_rng_state()
    assert chance_level(transfer, signals) > 0
    assert transfer.training
    assert torch.equal(transfer(signals), before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in transfer.state_dict().items())


def test_a_queue_does_not_take_the_moved_rows_in(case: Case) -> None:
    transfer = aft.Settings(queue=8).build(case.context).double()
    queued = transfer.queue.features.clone()
    chance_level(transfer, case.signals())
    assert torch.equal(transfer.queue.features, queued)


def test_a_student_that_says_what_the_probe_says_is_far_below(case: Case) -> None:
    context = replace(case.context, teachers=case.context.teachers[:1])
    signals = case.signals()
    signals = replace(signals, teachers=signals.teachers[:1])
    said = replace(signals, logits=context.teachers[0].logits(signals.teachers[0]))
    transfer = logit_kd.Settings().build(context)
    assert transfer(said).item() < 1e-6 < 0.1 < chance_level(transfer, said)


def test_a_student_that_says_the_same_of_every_row_is_not(case: Case) -> None:
    signals = case.signals()
    same = replace(signals, logits=torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64).expand(16, 3))
    transfer = logit_kd.Settings().build(case.context)
    assert transfer(same).item() == pytest.approx(chance_level(transfer, same))
