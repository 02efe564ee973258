import math

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods import Signals, aft, aft_plus, logit_kd
from pipeline.params import parse
from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def log_softmax(logits: list[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def kernel(rows: Rows) -> Rows:
    """Centre each column, divide each row by its norm + 1e-8, multiply all pairs."""
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    rows = [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]
    unit = [[x / (math.sqrt(dot(row, row)) + 1e-8) for x in row] for row in rows]
    return [[dot(a, b) for b in unit] for a in unit]


def teacher_of(case: Case, signals: Signals, k: int, i: int) -> tuple[list[float], list[float]]:
    """The cross-fitted outputs of the better probe for a row, and the row in the teacher's kernel."""
    profile, raw = case.context.teachers[k], signals.teachers[k][i].tolist()
    x = [(value - m) / s for value, m, s in zip(raw, profile.mean.tolist(), profile.std.tolist(), strict=True)]
    along, outputs = profile.directions[profile.better], signals.teacher_outputs[profile.better][k][i].tolist()
    constants = zip(outputs, along.shift.tolist(), along.scale.tolist(), strict=True)
    task = [(value - shift) * scale for value, shift, scale in constants]
    crossfit = signals.teacher_outputs[f"{profile.better}_crossfit"][k][i].tolist()
    return crossfit, [value / profile.row_norm for value in x] + task


def test_equals_its_definition(case: Case) -> None:
    """With floats and loops: the divergence of the logits at temperature 1, and 3 times the gap of the kernels."""
    n, signals = 12, case.signals(12)
    assert {profile.better for profile in case.context.teachers} == {"linear", "kernel"}
    divergence, targets = 0.0, []
    for i in range(n):
        each = [teacher_of(case, signals, k, i) for k in range(2)]
        together = zip(*(log_softmax(logits) for logits, _ in each), strict=True)
        p, q = log_softmax([sum(values) / 2 for values in together]), log_softmax(signals.outputs[i].tolist())
        divergence += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / n
        targets.append([0.5 * value for _, row in each for value in row])  # no gate has learned yet
    student, teacher = kernel(signals.features.tolist()), kernel(targets)
    gap = sum((student[i][j] - teacher[i][j]) ** 2 for i in range(n) for j in range(n)) / n**2
    method = aft_plus.Settings().build(case.context).double()
    assert method(signals).item() == pytest.approx(divergence + 3 * math.sqrt(gap + 1e-8), rel=1e-7)


def test_it_is_the_gap_of_kernels_and_the_divergence_of_logits(case: Case) -> None:
    signals = case.signals()
    both = aft_plus.Settings(kernel=0.25, temperature=3.0).build(case.context).double()
    kernel = aft.Settings(task_directions=True, probe="best").build(case.context).double()
    head = logit_kd.Settings(probe="best", cross_fit=True, temperature=3.0).build(case.context).double()
    torch.testing.assert_close(both(signals), head(signals) + 0.25 * kernel(signals))


def test_without_the_kernel_it_is_logit_distillation(case: Case) -> None:
    signals = case.signals()
    alone = aft_plus.Settings(kernel=0.0, temperature=3.0).build(case.context).double()
    head = logit_kd.Settings(probe="best", cross_fit=True, temperature=3.0).build(case.context).double()
    assert torch.equal(alone(signals), head(signals))


def test_without_the_head_it_is_the_kernel_and_leaves_the_logits_alone(case: Case) -> None:
    signals = case.signals()
    alone = aft_plus.Settings(head=0.0).build(case.context).double()
    kernel = aft.Settings(task_directions=True, probe="best").build(case.context).double()
    assert torch.equal(alone(signals), 3 * kernel(signals))
    (gradient,) = torch.autograd.grad(alone(signals), [signals.outputs], allow_unused=True)
    assert gradient is None


def test_the_share_of_the_head_counts(case: Case) -> None:
    signals = case.signals()
    small, large, none = (aft_plus.Settings(head=h).build(case.context).double()(signals) for h in (0.5, 2.0, 0.0))
    torch.testing.assert_close(4 * (small - none), large - none)


def test_without_a_kernel_it_is_logit_kd_from_the_better_probe_and_reads_no_features(case: Case) -> None:
    signals, alone = case.signals(), aft_plus.Settings(kernel=0.0).build(case.context).double()
    rival = logit_kd.Settings(probe="best", cross_fit=True, temperature=1.0).build(case.context).double()
    assert torch.equal(alone(signals), rival(signals)) and alone.reads == rival.reads
    assert (alone.gates(), alone.log(), list(alone.parameters())) == ({}, {}, [])


def test_its_gates_train_at_their_own_rate_and_are_reported_by_block(case: Case) -> None:
    method = aft_plus.Settings(learning_rate=0.5).build(case.context).double()
    assert method.learning_rate == 0.5
    assert list(method.gates()) == ["teacher0", "teacher0: task", "teacher1", "teacher1: task"]
    method(case.signals()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in method.parameters())
    assert method.log() == {"gate_mean": pytest.approx(0.5), "gate_spread": pytest.approx(0.0)}


def test_head_and_features_both_learn(case: Case) -> None:
    signals = case.signals()
    gradients = torch.autograd.grad(
        aft_plus.Settings().build(case.context).double()(signals), [signals.features, signals.outputs]
    )
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_it_asks_for_a_mixture_of_the_last_layer_if_that_is_set(case: Case) -> None:
    assert [aft_plus.Settings(mix=mix).build(case.context).mix for mix in (True, False)] == [True, False]
    assert not logit_kd.Settings().build(case.context).mix


def test_its_keys_are_checked() -> None:
    with pytest.raises(UserError, match="unknown key `task_directions`"):
        parse(aft_plus.Settings, {"task_directions": True}, "params.yaml: runs.a.methods.aft_plus")


def test_nothing_of_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"head and kernel are both 0.*set weight: 0.0"):
        parse(aft_plus.Settings, {"head": 0.0, "kernel": 0.0}, "params.yaml: runs.a.methods.aft_plus")
