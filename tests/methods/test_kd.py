import pytest
import torch

from pipeline.methods.kd import Settings
from tests.methods.case import Case


def test_equals_its_definition(case: Case) -> None:
    transfer = Settings().build(case.context).double()
    signals = case.signals(5)
    weight, bias = transfer.map.weight.tolist(), transfer.map.bias.tolist()
    teacher = torch.cat(signals.teachers, dim=1).tolist()
    total = 0.0
    for f, t in zip(signals.features.tolist(), teacher, strict=True):
        for j in range(11):
            total += (sum(weight[j][k] * f[k] for k in range(4)) + bias[j] - t[j]) ** 2
    assert transfer(signals).item() == pytest.approx(total / (5 * 11), rel=1e-9)


def test_is_zero_where_the_map_gives_the_teachers(case: Case) -> None:
    signals = case.signals(4)
    transfer = Settings().build(case.context).double()
    teacher = torch.cat(signals.teachers, dim=1)
    ones = torch.cat([signals.features.detach(), torch.ones(4, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(ones, teacher, driver="gelsd").solution
    with torch.no_grad():
        transfer.map.weight.copy_(solution[:-1].T)
        transfer.map.bias.copy_(solution[-1])
    assert transfer(signals).item() < 1e-20


def test_targets_are_scaled_as_the_settings_say(case: Case) -> None:
    signals = case.signals()
    plain = Settings().build(case.context).double()
    directed = Settings(task_directions=True).build(case.context).double()
    assert plain.map.out_features == 11
    assert directed.map.out_features == 17
    expected = (directed.map(signals.features) - directed.targets.side_by_side(signals)).square().mean()
    assert directed(signals).item() == pytest.approx(expected.item(), rel=1e-12)
