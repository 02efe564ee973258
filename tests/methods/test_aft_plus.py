import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods import aft, aft_plus, logit_kd
from pipeline.params import parse
from tests.methods.world import World, make_world


@pytest.fixture
def world() -> World:
    return make_world()


def test_it_is_the_gap_of_kernels_and_the_divergence_of_logits(world: World) -> None:
    signals = world.signals()
    both = aft_plus.Settings(kernel=0.25, temperature=3.0).build(world.context).double()
    kernel = aft.Settings(task_directions=True, probe="best").build(world.context).double()
    head = logit_kd.Settings(probe="best", cross_fit=True, temperature=3.0).build(world.context).double()
    torch.testing.assert_close(both(signals), head(signals) + 0.25 * kernel(signals))


def test_without_the_kernel_it_is_logit_distillation(world: World) -> None:
    signals = world.signals()
    alone = aft_plus.Settings(kernel=0.0, temperature=3.0).build(world.context).double()
    head = logit_kd.Settings(probe="best", cross_fit=True, temperature=3.0).build(world.context).double()
    assert torch.equal(alone(signals), head(signals))


def test_its_gates_train_at_their_own_rate_and_are_reported_by_block(world: World) -> None:
    method = aft_plus.Settings(learning_rate=0.5).build(world.context).double()
    assert method.learning_rate == 0.5
    assert list(method.gates()) == ["teacher0", "teacher0: task", "teacher1", "teacher1: task"]
    method(world.signals()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in method.parameters())
    assert method.log() == {"gate_mean": pytest.approx(0.5), "gate_spread": pytest.approx(0.0)}


def test_head_and_features_both_learn(world: World) -> None:
    signals = world.signals()
    gradients = torch.autograd.grad(
        aft_plus.Settings().build(world.context).double()(signals), [signals.features, signals.logits]
    )
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_its_keys_are_checked() -> None:
    with pytest.raises(UserError, match="unknown key `task_directions`"):
        parse(aft_plus.Settings, {"task_directions": True}, "params.yaml: runs.a.methods.aft_plus")
