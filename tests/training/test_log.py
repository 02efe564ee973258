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
    moved = replace(
        signals,
        teachers=tuple(torch.stack([rows[k] for k in (4, 0, 1, 2, 3)]) for rows in signals.teachers),
        teacher_outputs={
            kind: tuple(torch.stack([rows[k] for k in (4, 0, 1, 2, 3)]) for rows in each)
            for kind, each in signals.teacher_outputs.items()
        },
    )
    for settings in (aft.Settings(), logit_kd.Settings(cross_fit=True), logit_kd.Settings(logits="head")):
        transfer = settings.build(case.context).double()
        assert chance_level(transfer, signals) == pytest.approx(transfer(moved).item())
        assert chance_level(transfer, signals) != pytest.approx(transfer(signals).item())


@pytest.mark.parametrize("name", plugins("methods"))
def test_measuring_it_changes_nothing(name: str, case: Case) -> None:
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


def test_a_student_that_agrees_with_the_probe_is_far_below(case: Case) -> None:
    context = replace(case.context, teachers=case.context.teachers[:1])
    signals = case.signals()
    outputs = signals.teacher_outputs["linear"][:1]
    agreeing = replace(signals, outputs=outputs[0], teachers=(), teacher_outputs={"linear": outputs})
    transfer = logit_kd.Settings().build(context)
    assert transfer(agreeing).item() < 1e-6 < 0.1 < chance_level(transfer, agreeing)


def test_a_student_with_one_output_for_every_row_is_not(case: Case) -> None:
    signals = case.signals()
    same = replace(signals, outputs=torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64).expand(16, 3))
    transfer = logit_kd.Settings().build(case.context)
    assert transfer(same).item() == pytest.approx(chance_level(transfer, same))
