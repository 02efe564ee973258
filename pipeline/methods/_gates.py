"""Learned weights on the teachers' features, and Gram matrices of the weighted features."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.functional.kernels import SplitGram, centre, gram
from pipeline.methods._targets import Targets

Activation = Literal["sigmoid", "log"]
Combination = Literal["side_by_side", "outer_product"]


def side_by_side(blocks: Sequence[Float[Tensor, "*n _"]]) -> Float[Tensor, "*n width"]:
    """The blocks, concatenated; a single one is not copied."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), dim=-1)


class Gates(nn.Module):
    """A gate for each target feature, or for each block of them, and the centred Gram matrix of gated features.

    Only ratios of gates matter to a kernel. `sigmoid` gates, sigmoid(s), still have a common level and can saturate;
    `log` gates, exp(s - mean of all s), do not.

    Args:
        targets: gives the blocks' names, widths and owners.
        each: what has a gate: a feature (`diagonal`), a block (`teacher_gain`), or nothing (`fixed`).
        activation: maps scores, which start at 0, to gates.
        combine: the teachers' features `side_by_side`, or their `outer_product` (one factor per teacher).
    """

    def __init__(
        self,
        targets: Targets,
        each: Literal["diagonal", "teacher_gain", "fixed"] = "diagonal",
        activation: Activation = "sigmoid",
        combine: Combination = "side_by_side",
    ):
        super().__init__()
        self.names, self.widths, self.owners = targets.names, targets.widths, targets.owners
        self.activation = activation
        self.combine = combine
        learned = each != "fixed"
        sizes = self.widths if each == "diagonal" else [1] * len(self.widths)
        self.scores = nn.ParameterList(nn.Parameter(torch.zeros(size), requires_grad=learned) for size in sizes)

    def values(self) -> list[Float[Tensor, " _"]]:
        """The gates of each block: one per feature, or a single one."""
        if self.activation == "sigmoid":
            return [score.sigmoid() for score in self.scores]
        mean = torch.cat(list(self.scores)).mean()
        return [(score - mean).exp() for score in self.scores]

    def each_feature(self) -> Float[Tensor, " width"]:
        """The gate of every feature, of all blocks."""
        return side_by_side([gates.expand(width) for gates, width in zip(self.values(), self.widths, strict=True)])

    def forward(self, blocks: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "n n"]:
        """The Gram matrix of the centred, gated features; outer products are never formed."""
        if self.combine == "side_by_side":
            return gram(centre(side_by_side(blocks)), self.each_feature().square())
        gated = zip(blocks, (gates.square() for gates in self.values()), self.owners, strict=True)
        factors: dict[int, SplitGram] = {}
        for block, weight, owner in gated:
            part = SplitGram.of(block, weight)
            factors[owner] = factors[owner] + part if owner in factors else part
        first, *others = factors.values()
        for other in others:
            first = first * other
        return first.centred()

    def report(self) -> dict[str, Float[Tensor, " _"]]:
        """The gate of every feature, by name of its block; empty if none is learned."""
        if not any(score.requires_grad for score in self.scores):
            return {}
        blocks = zip(self.names, self.values(), self.widths, strict=True)
        return {name: gates.detach().expand(width) for name, gates, width in blocks}


class DenseGates(nn.Module):
    """A matrix S [D, D] on all target features side by side: t = psi S.

    Args:
        width: D.
        start: `random` entries from N(0, 1 / D), or the `identity`.
    """

    def __init__(self, width: int, start: Literal["random", "identity"]):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(width) if start == "identity" else torch.randn(width, width) / width**0.5)

    def forward(self, blocks: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "n n"]:
        """The Gram matrix of the centred, mapped features."""
        return gram(centre(side_by_side(blocks)) @ self.matrix)

    def report(self) -> dict[str, Tensor]:
        """Empty: a matrix that mixes features has no weight per feature."""
        return {}
