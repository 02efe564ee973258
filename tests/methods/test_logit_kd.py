from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods.logit_kd import Settings
from pipeline.params import parse, plugin
from tests.methods.case import Case, loops_divergence


@pytest.mark.parametrize("logits", ["probe", "head"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_its_definition(case: Case, temperature: float, logits: str) -> None:
    signals = case.signals(5)
    transfer = Settings.model_validate({"temperature": temperature, "logits": logits}).build(case.context)
    expected = loops_divergence(signals, "head" if logits == "head" else "linear", temperature)
    assert transfer(signals).item() == pytest.approx(expected, rel=1e-9)


def test_is_zero_where_the_student_and_the_probe_agree(make: Callable[..., Case]) -> None:
    case = make(widths=(6,))
    signals = case.signals()
    agreeing = replace(signals, outputs=signals.teacher_outputs["linear"][0] + 7)
    assert abs(Settings().build(case.context)(agreeing).item()) < 1e-12


def test_works_for_two_classes_and_extreme_logits(make: Callable[..., Case]) -> None:
    case = make(classes=2)
    signals = case.signals()
    extreme = replace(signals, outputs=torch.tensor([[1e4, -1e4]], dtype=torch.float64).expand(16, 2))
    assert Settings().build(case.context)(extreme).isfinite()


@pytest.mark.parametrize("probe", ["best", "kernel"])
@pytest.mark.parametrize("crossed", [False, True])
def test_the_mean_of_probe_and_zero_shot_equals_its_definition(case: Case, probe: str, crossed: bool) -> None:
    """Of two sources, whose better probes differ: the mean of four log-probabilities, with plain loops."""
    signals = case.signals(5)
    kinds = ["linear", "kernel"] if probe == "best" else ["kernel", "kernel"]
    kinds = [f"{kind}_crossfit" for kind in kinds] if crossed else kinds
    settings = {"logits": "probe_and_zero_shot", "probe": probe, "cross_fit": crossed, "temperature": 2.0}
    transfer = parse(plugin("methods", "logit_kd").Settings, settings, "here").build(case.context)
    assert transfer.reads == {*kinds, "zero_shot"}
    four = [signals.teacher_outputs[kind][k] for k, own in enumerate(kinds) for kind in (own, "zero_shot")]
    mean_of_four = replace(signals, teacher_outputs={"head": tuple(four)})
    assert transfer(signals).item() == pytest.approx(loops_divergence(mean_of_four, "head", 2.0), rel=1e-9)


@pytest.mark.parametrize("logits", ["head", "zero_shot"])
@pytest.mark.parametrize("name", ["logit_kd", "logit_standardisation"])
@pytest.mark.parametrize("useless", [{"probe": "best"}, {"probe": "kernel"}, {"cross_fit": True}])
def test_settings_of_the_probe_are_refused_without_it(name: str, useless: dict[str, Any], logits: str) -> None:
    with pytest.raises(UserError, match=f"probe and cross_fit do nothing with logits: {logits}; drop them") as caught:
        parse(plugin("methods", name).Settings, {"logits": logits} | useless, "here")
    assert "\n" not in str(caught.value)
    parse(plugin("methods", name).Settings, {"logits": logits, "probe": "linear", "cross_fit": False}, "here")


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, ["linear", "linear"]),
        ({"probe": "kernel"}, ["kernel", "kernel"]),
        ({"probe": "best"}, ["linear", "kernel"]),
        ({"probe": "best", "cross_fit": True}, ["linear_crossfit", "kernel_crossfit"]),
        ({"logits": "head"}, ["head", "head"]),
        ({"logits": "zero_shot"}, ["zero_shot", "zero_shot"]),
    ],
)
def test_the_outputs_that_are_asked_for_are_followed_and_nothing_else_is_read(
    case: Case, settings: dict[str, Any], kinds: list[str]
) -> None:
    signals = case.signals()
    transfer = Settings(**settings, temperature=1.0).build(case.context)
    assert transfer.reads == frozenset(kinds)
    together = sum(signals.teacher_outputs[kind][number].log_softmax(1) for number, kind in enumerate(kinds)) / 2
    student = signals.outputs.log_softmax(1)
    teacher = together.log_softmax(1)
    expected = (teacher.exp() * (teacher - student)).sum(1).mean()
    bare = replace(signals, teachers=(), teacher_outputs={kind: signals.teacher_outputs[kind] for kind in set(kinds)})
    torch.testing.assert_close(transfer(bare), expected)


def test_logits_of_half_precision_are_compared_in_full(case: Case) -> None:
    signals = case.signals()
    transfer = Settings(logits="head", temperature=1.0).build(case.context)
    half = replace(
        signals,
        teacher_outputs={"head": tuple(rows.half() for rows in signals.teacher_outputs["head"])},
        outputs=signals.outputs.half(),
    )
    full = replace(
        half,
        teacher_outputs={"head": tuple(rows.float() for rows in half.teacher_outputs["head"])},
        outputs=half.outputs.float(),
    )
    assert torch.equal(transfer(half), transfer(full))
