"""Factor transfer (Kim et al., NeurIPS 2018, arXiv 1802.04977), on pooled features as in the AFT paper's comparison."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import params
from pipeline.errors import UserError
from pipeline.methods import Context, Signals, Transfer, full_precision


class Settings(params.Settings):
    """The teachers' features are raw, as published.

    Attributes:
        learning_rate: of the translator, which is trained with the student.
        paraphraser_learning_rate: of Adam, for each teacher's paraphraser, which is trained before the student.
        batch_size: of the paraphrasers, on training rows in their order.
        epochs: most epochs of a paraphraser.
        patience: epochs without a lower error on validation rows before a paraphraser stops; the best one is kept.
    """

    learning_rate: float = Field(1e-2, gt=0)
    paraphraser_learning_rate: float = Field(3e-4, gt=0)
    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(500, ge=1)
    patience: int = Field(10, ge=1)

    def build(self, context: Context) -> Transfer:
        """Train a paraphraser on each teacher's features of the training rows, labelled or not.

        Raises:
            UserError: there are no validation rows to stop by.
        """
        if len(context.val_rows) == 0:
            raise UserError("factor_transfer stops its paraphrasers by validation rows, and there are none; add some")
        paraphrasers = [_paraphraser(self, number, context) for number in range(len(context.teachers))]
        return FactorTransfer(paraphrasers, context.student_width, self.learning_rate)


class Paraphraser(nn.Module):
    """An autoencoder of D features; its code, D // 2 numbers that are not negative, is the teacher's factor."""

    def __init__(self, width: int):
        super().__init__()
        self.width = max(1, width // 2)
        self.encode = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.width), nn.ReLU(),
            nn.Linear(self.width, self.width), nn.ReLU(),
        )  # fmt: skip
        self.decode = nn.Sequential(
            nn.Linear(self.width, self.width), nn.ReLU(), nn.Linear(self.width, width), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip

    def error(self, raw: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Mean squared error of features decoded from their factor."""
        return F.mse_loss(self.decode(self.encode(raw)), raw)


class FactorTransfer(Transfer):
    """mean over rows of |p / |p|_2 - q / |q|_2|_1: p is the translator's output, q the concatenated factors.

    The translator is d -> d -> m -> m with ReLU between, m the width of q. Its last weights start at 0: at first
    its output is the same for every row, and only the translator learns.
    """

    def __init__(self, paraphrasers: list[Paraphraser], student_width: int, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate
        self.encoders = nn.ModuleList(paraphraser.encode for paraphraser in paraphrasers).requires_grad_(False)
        width = sum(paraphraser.width for paraphraser in paraphrasers)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        self.translator = nn.Sequential(
            nn.Linear(student_width, student_width), nn.ReLU(), nn.Linear(student_width, width), nn.ReLU(), last,
        )  # fmt: skip

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        factors = [encode(raw) for encode, raw in zip(self.encoders, signals.teachers, strict=True)]
        factor = F.normalize(torch.cat(factors, dim=1).detach(), dim=1)
        return (F.normalize(self.translator(signals.features), dim=1) - factor).abs().sum(1).mean()


@torch.enable_grad()
def _paraphraser(settings: Settings, number: int, context: Context) -> Paraphraser:
    def batches(rows: np.ndarray) -> Iterator[Tensor]:
        for start in range(0, len(rows), settings.batch_size):
            yield context.teacher_features(number, rows[start : start + settings.batch_size]).float()

    def error_on_val() -> float:
        with torch.no_grad():
            total = sum(paraphraser.error(raw).item() * len(raw) for raw in batches(context.val_rows))
        return total / len(context.val_rows)

    mean = context.teachers[number].mean
    paraphraser = Paraphraser(len(mean)).to(mean.device)
    optimizer = torch.optim.Adam(paraphraser.parameters(), settings.paraphraser_learning_rate)
    least, best, waited = error_on_val(), deepcopy(paraphraser.state_dict()), 0
    for _ in range(settings.epochs):
        for raw in batches(context.train_rows):
            optimizer.zero_grad()
            paraphraser.error(raw).backward()
            optimizer.step()
        if (error := error_on_val()) < least:
            least, best, waited = error, deepcopy(paraphraser.state_dict()), 0
        elif (waited := waited + 1) == settings.patience:
            break
    paraphraser.load_state_dict(best)
    return paraphraser
