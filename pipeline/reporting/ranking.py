"""The report's section on the choice of teachers: the record of `assess`, and its drawing."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.probing.assessment import PATH, Assessment, Subset
from pipeline.probing.recommendation import order
from pipeline.reporting import figures, text
from pipeline.reporting.comparison import load

MOST = 16
"""Subsets drawn, the best ones; the table has all."""


@dataclass(frozen=True)
class Ranking:
    """What the page shows of an assessment.

    Attributes:
        assessment: the record.
        wide, narrow: the drawing of the best subsets, for a screen and for a phone; empty where there is one subset.
        drawn: how many subsets are in it.
    """

    assessment: Assessment
    wide: str
    narrow: str
    drawn: int

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """All that were scored."""
        return self.assessment.subsets

    def recommended(self, subset: Subset) -> bool:
        """Whether it is the one to use."""
        return subset.teachers == self.assessment.recommended


def ranking(root: Path, dataset: str) -> Ranking | None:
    """Read and draw the assessment below `root`; None where there is none.

    Raises:
        UserError: it is damaged, or of another dataset than the one with this digest.
    """
    path = root / PATH
    if not path.is_file():
        return None
    found = load(Assessment, path, "aft assess")
    if found.dataset != dataset:
        raise UserError(f"{path}: of another dataset; run `aft assess` again")
    ranked = sorted(found.subsets, key=order)
    best, shown = ranked[0], ranked[:MOST]
    if len(shown) == 1:
        return Ranking(found, "", "", 0)
    told = ", ".join(f"{subset.name} {text.percent(subset.val_accuracy)}%" for subset in shown)
    wide, narrow = (
        figures.differences(
            [_dots(subset, best, 36 if small else 26) for subset in shown],
            f"t{small:d}",
            f"Validation accuracy of the probes of subsets of teachers: {told}",
            small,
            "points of validation accuracy against the best",
            "the best",
        )
        for small in (False, True)
    )
    return Ranking(found, wide, narrow, len(shown))


def _dots(subset: Subset, best: Subset, letters: int) -> figures.Dots:
    pairs = zip(subset.scores, best.scores, strict=True)
    against = subset.against_best
    interval = None
    if against is not None and against.low is not None and against.high is not None:
        interval = (100 * against.low, 100 * against.high)
    return figures.Dots(
        name=textwrap.fill(subset.name, letters),
        seeds=[100 * (one.val_accuracy - other.val_accuracy) for one, other in pairs],
        mean=100 * (subset.val_accuracy - best.val_accuracy),
        interval=interval,
        reference=None,
        quiet=not subset.inside_noise,
    )
