from dataclasses import replace

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from pipeline.errors import UserError
from pipeline.methods import Context
from pipeline.methods._targets import Targets, TargetSettings, whitening
from pipeline.params import parse
from tests.methods.case import Case, make_case


@pytest.fixture
def case() -> Case:
    return make_case()


def raw(context: Context, k: int) -> torch.Tensor:
    return context.teacher_features(k, context.train_rows)


def targets(context: Context, **settings: object) -> tuple[Targets, tuple[torch.Tensor, ...]]:
    made = Targets(parse(TargetSettings, settings, "here"), context)
    return made, made(context.initial_signals(context.train_rows, made.reads))


def test_as_published_is_raw_features_side_by_side(case: Case) -> None:
    made, blocks = targets(case.context)
    assert made.names == ["teacher0", "teacher1"]
    assert made.width == 11
    assert all(torch.equal(block, raw(case.context, k)) for k, block in enumerate(blocks))
    both = made.side_by_side(case.context.initial_signals(case.context.train_rows, made.reads))
    assert torch.equal(both, torch.cat([raw(case.context, 0), raw(case.context, 1)], dim=1))


def test_standardised_features_have_one_scale_and_rows_of_mean_norm_one(case: Case) -> None:
    _, blocks = targets(case.context, scaling="standardised")
    for block in blocks:
        torch.testing.assert_close(block.mean(0), torch.zeros_like(block[0]), atol=1e-12, rtol=0)
        torch.testing.assert_close(block.std(0), block.std(0).mean().expand(block.shape[1]))
        assert block.norm(dim=1).mean().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_task_directions_are_the_probes_outputs_shifted_and_scaled(case: Case, kind: str) -> None:
    made, blocks = targets(case.context, task_directions=True, probe=kind)
    assert made.names == ["teacher0", "teacher0: task", "teacher1", "teacher1: task"]
    assert made.widths == [6, 3, 5, 3]
    assert made.owners == [0, 0, 1, 1]
    _, standardised = targets(case.context, scaling="standardised")
    assert torch.equal(blocks[2], standardised[1])
    for k, profile in enumerate(case.context.teachers):
        outputs, along = case.context.teacher_outputs(kind, k, case.context.train_rows), profile.directions[kind]
        for c in range(3):
            torch.testing.assert_close(blocks[2 * k + 1][:, c], (outputs[:, c] - along.shift[c]) * along.scale[c])


def test_task_directions_with_raw_features_are_refused() -> None:
    with pytest.raises(UserError, match="task_directions need features on one scale: set scaling: standardised"):
        parse(TargetSettings, {"task_directions": True, "scaling": "as_published"}, "params.yaml: runs.a")


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


def test_the_best_probe_is_chosen_for_each_source(case: Case) -> None:
    assert [profile.better for profile in case.context.teachers] == ["linear", "kernel"]
    best, linear, kernel = (targets(case.context, task_directions=True, probe=p) for p in ("best", "linear", "kernel"))
    assert torch.equal(best[1][1], linear[1][1]) and not torch.equal(best[1][1], kernel[1][1])
    assert torch.equal(best[1][3], kernel[1][3]) and not torch.equal(best[1][3], linear[1][3])
    assert [made.reads for made, _ in (best, linear, kernel)] == [
        {"features", "linear", "kernel"}, {"features", "linear"}, {"features", "kernel"},
    ]  # fmt: skip


def test_a_probe_without_task_directions_would_do_nothing() -> None:
    with pytest.raises(UserError, match="probe does nothing without task_directions: true"):
        parse(TargetSettings, {"probe": "kernel"}, "params.yaml: runs.a")
