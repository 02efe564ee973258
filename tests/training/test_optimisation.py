"""Options of the optimiser, each against its definition in plain loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data import Split
from pipeline.errors import UserError
from pipeline.params import parse
from pipeline.students import Student
from pipeline.training.config import TrainSettings, TrialSettings
from pipeline.training.kept import Kept
from pipeline.training.optimisation import Optimisation, freeze, parameter_groups, rate

CPU = torch.device("cpu")


class Deep(Student):
    """Three layers, a norm each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.width = 4
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for _ in "012")
        self.head = nn.Linear(4, 3)

    def depths(self) -> dict[str, int]:
        return {name: 3 if name.startswith("head") else int(name.split(".")[1]) for name, _ in self.named_parameters()}

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs, self.head(inputs)


def train_settings(**values: Any) -> TrialSettings:
    return TrialSettings(**({"learning_rate": 0.01, "steps": 10} | values))


def test_the_rate_of_a_layer_is_that_of_the_layer_above_times_the_decay():
    student = Deep()
    groups = parameter_groups(student, train_settings(layer_decay=0.5))
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == dict(student.named_parameters()).keys()
    for name, found in rates.items():
        expected = 0.01
        for _ in range(3 - student.depths()[name]):
            expected *= 0.5
        assert found == pytest.approx(expected)


def test_biases_and_norms_decay_unless_matrices_do_alone():
    student = Deep()
    for decayed, vectors in (("all", 0.1), ("matrices", 0.0)):
        for group in parameter_groups(student, train_settings(weight_decay=0.1, decayed=decayed)):
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else vectors)


def test_without_options_all_parameters_are_one_group_in_their_order():
    student = Deep()
    (group,) = parameter_groups(student, train_settings(weight_decay=0.1))
    assert [id(p) for p in group["params"]] == [id(p) for p in student.parameters()]


@pytest.mark.parametrize("trained", [0, 1, 3])
def test_frozen_layers_stay_as_they_are(trained: int):
    student = Deep().train()
    freeze(student, trained)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimisation = Optimisation(student, [], train_settings(weight_decay=0.1), CPU)
    for step in range(3):
        optimisation.begin(step)
        optimisation.backward(student(torch.randn(8, 4))[1].square().mean())
        optimisation.end()
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    layers = {int(name.split(".")[1]) for name in moved if name.startswith("layers")}
    assert layers == set(range(3 - trained, 3))  # BatchNorm's statistics, too
    assert "head.weight" in moved


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(UserError, match=r"train.trained_layers: 4, but the student has 3 below its head; set fewer"):
        freeze(Deep(), 4)


@pytest.mark.parametrize("largest", [0.01, 1e6])
def test_a_gradient_longer_than_the_clip_is_scaled_down_to_it(largest: float):
    student, x = Deep().eval(), torch.randn(8, 4)
    method = nn.Linear(2, 1)
    optimisation = Optimisation(student, [(method, 0.1)], train_settings(clip=largest), CPU)
    optimisation.begin(0)
    optimisation.backward(student(x)[1].square().sum() + 100 * method.weight.sum())
    raw = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
    optimisation.end()
    norm = math.sqrt(sum(float(value) ** 2 for gradient in raw for value in gradient.flatten()))
    factor = min(1.0, largest / norm)
    for parameter, gradient in zip(student.parameters(), raw, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient * factor, rtol=1e-4, atol=1e-9)
    assert method.weight.grad is not None and (method.weight.grad == 100).all()  # the student's alone


def test_the_average_is_its_definition():
    student = Deep().train()
    kept = Kept(student, train_settings(average=0.7), True)
    expected = {name: value.double().clone() for name, value in student.state_dict().items()}
    for step in range(6):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student(torch.randn(8, 4))
        kept.update(step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, value in student.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    found = kept.student.state_dict()
    assert found["layers.0.1.num_batches_tracked"] == 6
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=1e-5, atol=1e-6), name


def test_without_an_average_the_student_itself_is_kept():
    student = Deep()
    kept = Kept(student, train_settings(), True)
    assert kept.student is student and not kept.modules


@pytest.mark.parametrize(
    ("scores", "higher", "stops", "best"),
    [
        ([0.1, 0.3, 0.3, 0.2], True, [False, False, False, True], 1),  # a tie is no better
        ([0.1, 0.3, 0.2, 0.4], True, [False, False, False, False], 3),
        ([0.1, 0.3, 0.2], False, [False, False, True], 0),
        ([-math.inf, -math.inf, 0.1], True, [False, False, False], 2),
    ],
)
def test_a_training_stops_after_so_many_validations_without_a_better_one(
    scores: list[float], higher: bool, stops: list[bool], best: int
):
    student = Deep()
    kept = Kept(student, train_settings(early_stopping=2), higher)
    for number in range(len(scores)):
        with torch.no_grad():
            student.head.bias.fill_(float(number))
        assert kept.over(scores[: number + 1]) == stops[number]
    kept.settle()
    assert kept.best(scores) == best and (student.head.bias == best).all()


def test_warm_up_rises_linearly_and_then_a_cosine_falls():
    settings = train_settings(steps=20, warmup=0.2)
    for step in range(20):
        expected = (step + 1) / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 16)) / 2
        assert rate(step, settings) == pytest.approx(expected)
    student = Deep()
    optimisation = Optimisation(student, [], train_settings(steps=20, warmup=0.2, layer_decay=0.5), CPU)
    peaks = [group["lr"] for group in optimisation.optimizer.param_groups]
    optimisation.begin(2)
    assert [group["lr"] for group in optimisation.optimizer.param_groups] == pytest.approx([p * 0.75 for p in peaks])


def test_a_scaled_step_moves_as_an_unscaled_one_and_an_overflow_moves_nothing():
    plain, scaled = Deep().eval(), Deep().eval()
    x = torch.randn(8, 4)
    ends = []
    for student, precision in ((plain, "float32"), (scaled, "float16")):
        optimisation = Optimisation(student, [], train_settings(precision=precision, clip=0.1), CPU)
        optimisation.begin(0)
        optimisation.backward(student(x)[1].square().mean())
        optimisation.end()
        ends.append(optimisation)
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
    before = [parameter.detach().clone() for parameter in scaled.parameters()]
    scale = ends[1].scaler.get_scale()
    ends[1].begin(1)
    ends[1].backward(scaled(x)[1].sum() * 1e36)  # times the scale it is infinite
    ends[1].end()
    assert all(torch.equal(p, b) for p, b in zip(scaled.parameters(), before, strict=True))
    assert ends[1].scaler.get_scale() == scale / 2


def test_its_state_is_restored_in_the_layout_of_the_parameters():
    """The fused kernel walks through parameter and moments side by side, so both lie in memory in one order."""
    torch.manual_seed(0)
    settings, image = train_settings(precision="float16"), torch.randn(2, 3, 5, 5)

    class Convolution(Student):
        width = 4

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            features = self.layer(inputs).mean((2, 3))
            return features, features

    def step(student: Student, optimisation: Optimisation, number: int) -> None:
        optimisation.begin(number)
        optimisation.backward(student(image)[0].square().mean())
        optimisation.end()

    one = Convolution().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    first = Optimisation(one, [], settings, CPU)
    step(one, first, 0)
    other = Convolution().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other.load_state_dict(one.state_dict())
    second = Optimisation(other, [], settings, CPU)
    second.restore({name: value.clone().contiguous() for name, value in first.tensors().items()})
    step(one, first, 1)
    step(other, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def steps(labelled: int, more: int = 0, views: bool = False, **settings: Any) -> int:
    rows = np.arange(labelled + more)
    split = Split(labelled=rows[:labelled], unlabelled=rows[labelled:], val=rows[:0], test=rows[:0])
    return TrainSettings(**settings).of_trial(split, views).steps


def test_epochs_are_passes_over_the_labelled_rows():
    assert steps(100, epochs=3.0, batch_size=10) == 30
    assert steps(109, epochs=3.0, batch_size=10) == 30  # an epoch leaves nine rows out
    assert steps(100, 500, epochs=0.5, batch_size=10) == 5
    assert steps(7, epochs=2.0, batch_size=10) == 2  # a batch of all rows
    assert steps(100, epochs=0.01, batch_size=10) == 1
    assert steps(100, steps=7) == 7


def test_steps_follow_from_rows():
    assert steps(400, 5_200) == steps(400, 5_200, steps="auto") == 438  # 20 passes over 5,600 rows in batches of 256
    assert steps(400, 5_200, transfer_batch_size=128, batch_size=64) == 875
    # Where no row without a label is used, passes over the others.
    assert steps(4_000) == steps(4_000, 5_000, unlabelled=False) == 625
    # Twice as many where the rows are shown differently each time.
    assert steps(400, 5_200, views=True) == 875
    # Within bounds.
    assert steps(50) == steps(400, 1_000) == 200
    assert steps(400, 10_000_000) == 10_000


@pytest.mark.parametrize(
    ("settings", "more", "twice"),
    [
        ({}, 4_720, False),
        ({"augment": {"word_dropout": {}}}, 4_720, False),  # of labelled rows alone
        ({"augment": {"word_dropout": {}}, "augment_transfer": True}, 4_720, True),
        ({"augment_transfer": True}, 4_720, False),  # nothing to augment with
        ({"augment": {"word_dropout": {}}}, 0, True),  # methods see the labelled rows
    ],
)
def test_augmented_rows_are_seen_twice_as_often(settings: dict[str, Any], more: int, twice: bool):
    assert steps(5_120 - more, more, batch_size=256, **settings) == 400 * (2 if twice else 1)


def test_views_that_are_not_used_do_not_count():
    split = Split(labelled=np.arange(5_120), unlabelled=np.arange(0), val=np.arange(0), test=np.arange(0))
    lengths = [TrainSettings(views=used).of_trial(split, True).steps for used in (0, 2, None)]
    assert lengths == [800, 1_600, 1_600]


@pytest.mark.parametrize("wrong", [0, 2.5, True, "many", None])
def test_steps_are_a_number_or_auto(wrong: Any):
    with pytest.raises(UserError) as caught:
        parse(TrainSettings, {"steps": wrong}, "train")
    assert str(caught.value) == f"train.steps: should be a whole number >= 1, or auto, found {wrong!r}"


def test_a_number_with_an_exponent_is_spelled_out():
    with pytest.raises(UserError, match=r"train.steps: '1e3' is text to YAML; write 1.0e\+3"):
        parse(TrainSettings, {"steps": "1e3"}, "train")
