import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipeline.methods.logit_kd import Settings
from tests.methods.world import World


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_definition(world: World, temperature: float) -> None:
    signals = world.signals(5)
    probes = zip(world.context.teachers, signals.teachers, strict=True)
    said = [profile.logits(raw).tolist() for profile, raw in probes]
    total = 0.0
    for i, logits in enumerate(signals.logits.tolist()):
        teacher = [sum(math.log(softmax(rows[i])[c]) for rows in said) / 2 for c in range(3)]
        p = softmax([t / temperature for t in teacher])
        q = softmax([s / temperature for s in logits])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    transfer = Settings(temperature=temperature).build(world.context)
    assert transfer(signals).item() == pytest.approx(temperature**2 * total / 5, rel=1e-9)


def test_is_zero_where_the_student_says_what_the_probe_says(worlds: Callable[..., World]) -> None:
    world = worlds(widths=(6,))
    signals = world.signals()
    agreeing = replace(signals, logits=world.context.teachers[0].logits(signals.teachers[0]) + 7)
    assert abs(Settings().build(world.context)(agreeing).item()) < 1e-12


def test_works_for_two_classes_and_extreme_logits(worlds: Callable[..., World]) -> None:
    world = worlds(classes=2)
    signals = world.signals()
    extreme = replace(signals, logits=torch.tensor([[1e4, -1e4]], dtype=torch.float64).expand(16, 2))
    assert Settings().build(world.context)(extreme).isfinite()
