import math

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods import TeacherProfile, aft, aft_plus, logit_kd
from pipeline.params import parse
from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def affine(row: list[float], weight: Rows, bias: list[float]) -> list[float]:
    """`weight` has a row per class."""
    return [dot(each, row) + shift for each, shift in zip(weight, bias, strict=True)]


def log_softmax(logits: list[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def kernel(rows: Rows) -> Rows:
    """Centre each column, divide each row by its norm + 1e-8, multiply all pairs."""
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    rows = [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]
    unit = [[x / (math.sqrt(dot(row, row)) + 1e-8) for x in row] for row in rows]
    return [[dot(a, b) for b in unit] for a in unit]


def told(profile: TeacherProfile, raw: list[float], fold: int) -> tuple[list[float], list[float]]:
    """What the better probe without the fold says of a row, and what the row is in the teacher's kernel."""
    x = [(value - m) / s for value, m, s in zip(raw, profile.mean.tolist(), profile.std.tolist(), strict=True)]
    features = [value / profile.row_norm for value in x]
    if profile.kernel.better:
        probe = profile.kernel
        unit = [value / math.sqrt(dot(x, x)) for value in x]
        gaps = [[a - b for a, b in zip(unit, y, strict=True)] for y in probe.landmarks.tolist()]
        seen = [math.exp(-probe.sharpness * dot(gap, gap)) for gap in gaps]
        whole, bias = probe.weight.T.tolist(), probe.bias.tolist()
        without, without_bias = probe.fold_weight[fold].T.tolist(), probe.fold_bias[fold].tolist()
        task = [logit / std for logit, std in zip(affine(seen, whole, bias), probe.std.tolist(), strict=True)]
    else:
        seen, whole, bias = x, profile.probe_weight.tolist(), profile.probe_bias.tolist()
        without, without_bias = profile.fold_weight[fold].tolist(), profile.fold_bias[fold].tolist()
        pairs = zip(whole, profile.direction_std.tolist(), strict=True)
        task = [dot(x, weight) / math.sqrt(dot(weight, weight)) / std for weight, std in pairs]
    return affine(seen, whole, bias) if fold < 0 else affine(seen, without, without_bias), features + task


def test_equals_its_definition(case: Case) -> None:
    """With floats and loops: the divergence of the logits at temperature 1, and 3 times the gap of the kernels."""
    n, signals = 12, case.signals(12)
    folds = signals.folds.tolist()
    assert min(folds) < 0 <= max(folds)
    assert {profile.kernel.better for profile in case.context.teachers} == {False, True}
    divergence, targets = 0.0, []
    for i in range(n):
        pairs = zip(case.context.teachers, signals.teachers, strict=True)
        each = [told(profile, raw[i].tolist(), folds[i]) for profile, raw in pairs]
        said = zip(*(log_softmax(logits) for logits, _ in each), strict=True)
        p, q = log_softmax([sum(values) / 2 for values in said]), log_softmax(signals.logits[i].tolist())
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
    (gradient,) = torch.autograd.grad(alone(signals), [signals.logits], allow_unused=True)
    assert gradient is None


def test_the_share_of_the_head_counts(case: Case) -> None:
    signals = case.signals()
    small, large, none = (aft_plus.Settings(head=h).build(case.context).double()(signals) for h in (0.5, 2.0, 0.0))
    torch.testing.assert_close(4 * (small - none), large - none)


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
        aft_plus.Settings().build(case.context).double()(signals), [signals.features, signals.logits]
    )
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_its_keys_are_checked() -> None:
    with pytest.raises(UserError, match="unknown key `task_directions`"):
        parse(aft_plus.Settings, {"task_directions": True}, "params.yaml: runs.a.methods.aft_plus")


def test_nothing_of_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"head and kernel are both 0.*set weight: 0.0"):
        parse(aft_plus.Settings, {"head": 0.0, "kernel": 0.0}, "params.yaml: runs.a.methods.aft_plus")
