import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.methods import Transfer
from pipeline.methods.factor_transfer import Paraphraser, Settings
from tests.methods.case import Case


def build(case: Case, **keys: object) -> Transfer:
    torch.manual_seed(0)
    return Settings(epochs=3, **keys).build(case.context).double()


def layers(row: list[float], modules: torch.nn.Sequential) -> list[float]:
    """A stack of linear layers and ReLUs on one row, with loops."""
    for module in modules:
        if isinstance(module, torch.nn.ReLU):
            row = [max(0.0, x) for x in row]
        else:
            weights, biases = module.weight.tolist(), module.bias.tolist()
            sums = [sum(w * x for w, x in zip(weight, row, strict=True)) for weight in weights]
            row = [total + bias for total, bias in zip(sums, biases, strict=True)]
    return row


def test_equals_its_definition(case: Case) -> None:
    transfer, signals = build(case), case.signals(5)
    torch.nn.init.normal_(transfer.translator[-1].weight)
    total = 0.0
    for i in range(5):
        said = layers(signals.features[i].tolist(), transfer.translator)
        factor = [x for k in range(2) for x in layers(signals.teachers[k][i].tolist(), transfer.encoders[k])]
        norms = [math.sqrt(sum(x * x for x in row)) for row in (said, factor)]
        total += sum(abs(a / norms[0] - b / norms[1]) for a, b in zip(said, factor, strict=True))
    assert transfer(signals).item() == pytest.approx(total / 5, rel=1e-7)


def test_factors_have_half_the_width_and_are_not_learned_with_the_student(case: Case) -> None:
    transfer, signals = build(case), case.signals()
    factors = [encode(raw) for encode, raw in zip(transfer.encoders, signals.teachers, strict=True)]
    assert [factor.shape[1] for factor in factors] == [3, 2]
    assert all((factor >= 0).all() for factor in factors)
    assert not any(parameter.requires_grad for parameter in transfer.encoders.parameters())
    assert all(parameter.requires_grad for parameter in transfer.translator.parameters())


def test_the_translator_gives_every_row_the_same_output_at_first(case: Case) -> None:
    said = build(case).translator(case.signals().features)
    assert (said == said[0]).all()


def test_a_paraphraser_learns(case: Case) -> None:
    """More epochs never end with a larger validation error, though rows in training may fit ever better."""

    def error(epochs: int) -> float:
        torch.manual_seed(0)
        made: list[Paraphraser] = []
        original = Paraphraser.__init__

        def remember(self: Paraphraser, width: int) -> None:
            original(self, width)
            made.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Paraphraser, "__init__", remember)
            Settings(epochs=epochs, paraphraser_learning_rate=0.03, patience=5).build(case.context)
        val = case.context.teacher_features(0, case.context.val_rows).float()
        return made[0].error(val).item()

    errors = [error(epochs) for epochs in (1, 10, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def test_a_paraphraser_stops_after_its_patience_and_returns_to_its_best_state_on_val(
    make: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With errors that fall, rise, fall and rise: an epoch that does better ends the waiting, and the best is kept."""
    script = [9.0, 5.0, 6.0, 6.0, 4.0, 7.0, 4.0, 8.0, 1.0, 1.0]  # before the first epoch, and after each
    states: list[dict[str, torch.Tensor]] = []
    learn = Paraphraser.error

    def error(self: Paraphraser, raw: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return learn(self, raw)
        states.append({name: value.clone() for name, value in self.encode.state_dict().items()})
        return torch.tensor(script[len(states) - 1])

    monkeypatch.setattr(Paraphraser, "error", error)
    transfer = Settings(epochs=9, patience=3).build(make(widths=(6,)).context)
    assert len(states) == 1 + 7  # the best is epoch 4; that epoch 6 does as well is not better
    kept = transfer.encoders[0].state_dict()
    assert [all(torch.equal(kept[name], state[name]) for name in kept) for state in states] == [
        epoch == 4 for epoch in range(8)
    ]


def test_test_rows_and_labels_are_never_read(case: Case) -> None:
    allowed = set(case.context.train_rows) | set(case.context.val_rows)
    seen: set[int] = set()
    features = case.context.teacher_features

    def watched(number: int, rows: np.ndarray) -> torch.Tensor:
        seen.update(rows.tolist())
        return features(number, rows)

    Settings(epochs=1).build(replace(case.context, teacher_features=watched, labels=torch.full((60,), -1)))
    assert seen == allowed


def test_without_validation_rows_it_is_refused_before_training(case: Case) -> None:
    with pytest.raises(UserError, match="stops its paraphrasers by validation rows, and there are none"):
        Settings().build(replace(case.context, val_rows=np.array([], dtype=int)))
