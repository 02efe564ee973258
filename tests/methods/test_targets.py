import math
from dataclasses import replace

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from pipeline.errors import UserError
from pipeline.methods import Context
from pipeline.methods._targets import ProbeLogits, Targets, TargetSettings, whitening
from pipeline.params import parse
from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


def raw(context: Context, k: int) -> torch.Tensor:
    return context.teacher_features(k, context.train_rows)


def targets(context: Context, **settings: object) -> tuple[Targets, tuple[torch.Tensor, ...]]:
    made = Targets(parse(TargetSettings, settings, "here"), context)
    return made, made(tuple(raw(context, k) for k in range(len(context.teachers))))


def test_as_published_is_raw_features_side_by_side(case: Case) -> None:
    made, blocks = targets(case.context)
    assert made.names == ["teacher0", "teacher1"]
    assert made.width == 11
    assert all(torch.equal(block, raw(case.context, k)) for k, block in enumerate(blocks))
    both = made.side_by_side(tuple(raw(case.context, k) for k in range(2)))
    assert torch.equal(both, torch.cat([raw(case.context, 0), raw(case.context, 1)], dim=1))


def test_standardised_features_have_one_scale_and_rows_of_mean_norm_one(case: Case) -> None:
    _, blocks = targets(case.context, scaling="standardised")
    for block in blocks:
        torch.testing.assert_close(block.mean(0), torch.zeros_like(block[0]), atol=1e-12, rtol=0)
        torch.testing.assert_close(block.std(0), block.std(0).mean().expand(block.shape[1]))
        assert block.norm(dim=1).mean().item() == pytest.approx(1)


def test_task_directions_are_what_the_probe_looks_at_at_unit_scale(case: Case) -> None:
    made, blocks = targets(case.context, task_directions=True)
    assert made.names == ["teacher0", "teacher0: task", "teacher1", "teacher1: task"]
    assert made.widths == [6, 3, 5, 3]
    assert made.owners == [0, 0, 1, 1]
    _, standardised = targets(case.context, scaling="standardised")
    assert torch.equal(blocks[2], standardised[1])
    for k, profile in enumerate(case.context.teachers):
        x = (raw(case.context, k) - profile.mean) / profile.std
        for c in range(3):
            direction = profile.probe_weight[c] / profile.probe_weight[c].norm()
            torch.testing.assert_close(blocks[2 * k + 1][:, c], x @ direction / (x @ direction).std(correction=0))


def test_a_class_the_probe_says_nothing_about_has_no_direction(case: Case) -> None:
    profile = case.context.teachers[0]
    profile.probe_weight[1] = 0
    profile.direction_std[1] = 0
    _, blocks = targets(case.context, task_directions=True)
    assert blocks[1][:, 1].abs().max() == 0
    assert blocks[1].isfinite().all()


def test_task_directions_beside_raw_features_are_refused() -> None:
    with pytest.raises(UserError, match="task_directions need features on one scale: set scaling: standardised"):
        parse(TargetSettings, {"task_directions": True, "scaling": "as_published"}, "params.yaml: runs.a")


def test_probe_logits_are_the_mean_over_teachers_of_log_probabilities(case: Case) -> None:
    signals = case.signals()
    said = ProbeLogits(case.context)(signals)
    pairs = zip(case.context.teachers, signals.teachers, strict=True)
    each = [profile.logits(rows).softmax(1).log() for profile, rows in pairs]
    torch.testing.assert_close(said, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("which", ["linear", "kernel"])
def test_cross_fitted_logits_are_those_of_the_probe_without_the_rows_fold(case: Case, which: str) -> None:
    signals = case.signals(40)
    said = ProbeLogits(case.context, which, cross_fit=True)(signals)
    assert set(signals.folds.tolist()) == {-1, 0, 1, 2, 3, 4}
    for i, fold in enumerate(signals.folds.tolist()):
        each = []
        for profile, rows in zip(case.context.teachers, signals.teachers, strict=True):
            x, kernel = (rows[i] - profile.mean) / profile.std, profile.kernel
            if which == "linear":
                weight = profile.probe_weight if fold < 0 else profile.fold_weight[fold]
                bias = profile.probe_bias if fold < 0 else profile.fold_bias[fold]
                logits = weight @ x + bias
            else:
                near = (-kernel.sharpness * (x / x.norm() - kernel.landmarks).square().sum(1)).exp()
                weight = kernel.weight if fold < 0 else kernel.fold_weight[fold]
                bias = kernel.bias if fold < 0 else kernel.fold_bias[fold]
                logits = near @ weight + bias
            each.append(logits.log_softmax(0))
        torch.testing.assert_close(said[i], (each[0] + each[1]) / 2)


def test_constants_follow_the_module_and_stay_out_of_checkpoints(case: Case) -> None:
    made, _ = targets(case.context, task_directions=True)
    assert made.state_dict() == {}
    assert all(buffer.device.type == "meta" for buffer in made.to("meta").buffers())


def test_whitened_features_are_principal_axes_of_one_scale() -> None:
    case = make_case(widths=(3,), rows=4000)
    _, (block,) = targets(case.context, scaling="whitened")
    covariance = block.T @ block / len(block)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64) / 3, atol=3e-3, rtol=0)
    assert block.square().sum(1).mean().item() == pytest.approx(1)


def test_whitening_shrinks_as_ledoit_and_wolf_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, many features: the inverse is that of scikit-learn's covariance; passing in blocks changes nothing."""
    context = make_case(widths=(30,)).context
    x = context.teachers[0].standardise(raw(context, 0))
    covariance, shrinkage = ledoit_wolf(x.numpy(), assume_centered=True)
    assert 0.01 < shrinkage < 0.99
    whole = whitening(0, context)
    precision = torch.linalg.inv(torch.tensor(covariance))
    norm = (x @ whole @ whole.T @ x.T).trace() / (x @ precision @ x.T).trace()
    torch.testing.assert_close(whole @ whole.T, precision * norm, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr("pipeline.methods._targets.BLOCK", 7)
    torch.testing.assert_close(whitening(0, context).abs(), whole.abs())
    variances = (x @ torch.nn.functional.normalize(whole, dim=0)).square().mean(0)
    assert (variances.diff() <= 1e-9).all()  # strongest axis first


def test_whitening_leaves_a_constant_feature_alone() -> None:
    context = make_case(widths=(3,)).context
    flat = replace(
        context, teacher_features=lambda k, rows: context.teacher_features(k, rows) * torch.tensor([1, 1, 0.0])
    )
    flat.teachers[0].mean[2] = 0
    assert whitening(0, flat).isfinite().all()


def test_directions_of_a_kernel_probe_are_its_logits_at_unit_scale(case: Case) -> None:
    _, blocks = targets(case.context, task_directions=True, probe="kernel")
    for k, profile in enumerate(case.context.teachers):
        kernel = profile.kernel
        for row, block in zip(raw(case.context, k)[:4], blocks[2 * k + 1], strict=False):
            x = (row - profile.mean) / profile.std
            x = x / x.norm()
            near = [math.exp(-kernel.sharpness * float((x - y).square().sum())) for y in kernel.landmarks]
            for c in range(3):
                logit = sum(n * float(w) for n, w in zip(near, kernel.weight[:, c], strict=True)) + float(
                    kernel.bias[c]
                )
                assert float(block[c]) == pytest.approx(logit / float(kernel.std[c]))


def test_the_best_probe_is_each_teachers_own(case: Case) -> None:
    assert [profile.kernel.better for profile in case.context.teachers] == [False, True]
    rows = tuple(raw(case.context, k) for k in range(2))
    best, linear, kernel = (
        targets(case.context, task_directions=True, probe=p)[1] for p in ("best", "linear", "kernel")
    )
    assert torch.equal(best[1], linear[1]) and not torch.equal(best[1], kernel[1])
    assert torch.equal(best[3], kernel[3]) and not torch.equal(best[3], linear[3])
    signals = replace(case.signals(40), teachers=rows)
    said = [ProbeLogits(case.context, which)(signals) for which in ("best", "linear", "kernel")]
    assert not torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])
    parts = [p(x).log_softmax(1) for p, x in zip(ProbeLogits(case.context, "best").probes, rows, strict=True)]
    torch.testing.assert_close(said[0], (parts[0] + parts[1]) / 2)
    torch.testing.assert_close(parts[0], case.context.teachers[0].logits(rows[0]).log_softmax(1))
    torch.testing.assert_close(parts[1], (kernel[3] * case.context.teachers[1].kernel.std).log_softmax(1))


def test_a_probe_without_task_directions_would_do_nothing() -> None:
    with pytest.raises(UserError, match="probe does nothing without task_directions: true"):
        parse(TargetSettings, {"probe": "kernel"}, "params.yaml: runs.a")
