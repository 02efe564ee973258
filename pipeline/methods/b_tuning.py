"""B-Tuning (You et al., JMLR 2022, arXiv 2110.10545): follow the predictions of linear models on teachers' features."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pipeline import params
from pipeline.errors import UserError
from pipeline.functional.logme import logme
from pipeline.methods import Context, Signals, Transfer, full_precision


class Settings(params.Settings):
    """Teachers' features are raw, as published.

    Attributes:
        temperature: turns the teachers' LogME scores into shares.
        compat: "published" uses the scores of the published code, which are wrong if a teacher has more features than
            there are labelled rows.
    """

    temperature: float = Field(0.1, gt=0)
    compat: Literal["published"] | None = None

    def build(self, context: Context) -> Transfer:
        """Fit the linear models on the labelled training rows.

        Raises:
            UserError: no training row has a label.
        """
        rows = context.labelled_rows
        if len(rows) == 0:
            raise UserError("b_tuning fits linear models on labelled training rows, and there are none; label some")
        targets = torch.from_numpy(context.task.targets(context.labels[rows].cpu().numpy())).to(context.labels.device)
        teachers = [
            logme(context.teacher_features(number, rows), targets, self.compat)
            for number in range(len(context.teachers))
        ]
        student = logme(context.student_features(rows).detach(), targets, self.compat)
        shares = torch.softmax(torch.tensor([teacher.score for teacher in teachers]) / self.temperature, 0)
        names = [profile.name for profile in context.teachers]
        return BTuning(
            student.weights, [teacher.weights for teacher in teachers], dict(zip(names, shares, strict=True))
        )


class BTuning(Transfer):
    """mean((f M_S^T - sum_k pi_k psi_k M_k^T)^2), over rows and outputs.

    M_k [C, D_k] are the weights that LogME finds on teacher k's features psi_k, pi the softmax of its scores divided by
    the temperature; M_S [C, d] are those on the untrained student's features, and stay fixed.
    """

    student: Tensor

    def __init__(
        self,
        student: Float[Tensor, "c d"],
        teachers: list[Float[Tensor, "c _"]],
        shares: dict[str, Float[Tensor, ""]],
    ):
        super().__init__()
        self.shares = shares
        self.register_buffer("student", student, persistent=False)
        for number, (weights, share) in enumerate(zip(teachers, shares.values(), strict=True)):
            self.register_buffer(f"teacher{number}", share * weights, persistent=False)

    @full_precision
    def forward(self, signals: Signals) -> Float[Tensor, ""]:
        predictions = [raw @ self.get_buffer(f"teacher{number}").T for number, raw in enumerate(signals.teachers)]
        return (signals.features @ self.student.T - torch.stack(predictions).sum(0)).square().mean()

    def log(self) -> dict[str, float]:
        """The share of each teacher."""
        return {f"share of {name}": share.item() for name, share in self.shares.items()}
