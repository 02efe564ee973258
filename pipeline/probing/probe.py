"""The probe of one source on one split, as a module that maps raw features to outputs of the task."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

ProbeKind = Literal["linear", "kernel"]


class Probe(nn.Module):
    """outputs(raw) = W phi(x) + b, x = (raw - mean) / std; one formula for two kinds of probe.

    linear: phi(x) = x, D features. kernel: phi(x) = exp(-sharpness |x / |x| - landmark|^2), m features. Every weight
    [1 + K, C, D or m] and bias [1 + K, C] has 1 + K entries: number 0 is fitted on all labelled training rows, number
    1 + k without those of fold k.

    Attributes:
        mean, std: per feature, over all training rows [D]; std is never 0.
        row_norm: the mean norm of x over the training rows [].
        landmarks: unit rows [m, D].
        sharpness: of the kernel [].
        linear_weight, linear_bias, kernel_weight, kernel_bias: see above.
        linear_std, kernel_std: standard deviation of each output over the training rows [C]; never 0.
        linear_val_loss, kernel_val_loss: loss of each kind on the validation rows [].
    """

    mean: Tensor
    std: Tensor
    row_norm: Tensor
    landmarks: Tensor
    sharpness: Tensor

    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def better(self) -> ProbeKind:
        """The kind with the lower loss on validation rows."""
        lower = self.get_buffer("kernel_val_loss") < self.get_buffer("linear_val_loss")
        return "kernel" if bool(lower) else "linear"

    def forward(
        self, raw: Float[Tensor, "n d"], kind: ProbeKind = "linear", folds: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n c"]:
        """Outputs of raw features.

        Args:
            raw: features from the store.
            kind: of probe.
            folds: for each row, use the fit without this fold; -1 uses the fit on all rows. None is -1 for every row.
        """
        rows = (raw - self.mean) / self.std
        if kind == "kernel":
            rows = (2 * self.sharpness * (F.normalize(rows, dim=1) @ self.landmarks.T - 1)).exp()
        weight, bias = self.get_buffer(f"{kind}_weight"), self.get_buffer(f"{kind}_bias")
        if folds is None:
            return rows @ weight[0].T + bias[0]
        outputs = rows.new_empty(len(rows), weight.shape[1])
        for fit in range(len(weight)):
            mine = folds == fit - 1
            outputs[mine] = rows[mine] @ weight[fit].T + bias[fit]
        return outputs

    def directions(self, kind: ProbeKind) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Shift and scale that turn outputs into task directions: (outputs - shift) * scale.

        For the linear probe they are the products of x with the unit-norm rows of its weight, for the kernel probe its
        outputs; both have standard deviation 1 over the training rows.
        """
        bias, std = self.get_buffer(f"{kind}_bias")[0], self.get_buffer(f"{kind}_std")
        # Dividing x w by |w|, and then by the standard deviation of that, equals dividing by the deviation of x w.
        return (bias if kind == "linear" else torch.zeros_like(bias)), 1 / std
