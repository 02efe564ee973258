"""Sources of features: one head of one teacher's store, written `minilm` or `minilm/layer:4`.

`minilm@crops` is the same source with views of the rows in addition to clean rows; see `pipeline.views`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UserError

POOLED = "pooled"
"""The head that a teacher's bare name stands for."""

TOKENS = "tokens"
"""The head with many vectors per row. It can be stored and exported, but not be probed or learned from yet."""

ZERO_SHOT = "zero_shot"
"""The head with a logit for each class, from the names of the classes alone."""


@dataclass(frozen=True)
class Source:
    """One head of one teacher's feature store. Probes, bundles, signals and profiles are keyed by it.

    Attributes:
        teacher: a key of `teachers` in params.yaml.
        head: a head of its store, such as `pooled`, `cls` or `layer:4`.
        view: the family of views in addition to clean rows, such as `crops`; empty for clean rows only.
    """

    teacher: str
    head: str = POOLED
    view: str = ""

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Source":
        """Parse `TEACHER` or `TEACHER/HEAD`, either with `@VIEW`.

        Args:
            text: from params.yaml.
            where: its place, for messages.

        Raises:
            UserError: it has another form.
        """
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:/([a-z_]+(?::[A-Za-z0-9_.]+)?))?(?:@([a-z_]+))?", text)
        if found is None:
            place = f"{where}: " if where else ""
            raise UserError(
                f"{place}{text!r} is not a source of features; write TEACHER or TEACHER/HEAD, such as bert/layer:4; "
                "with views, TEACHER@VIEW or TEACHER/HEAD@VIEW, such as bert@word_dropout"
            )
        return cls(found[1], found[2] or POOLED, found[3] or "")

    @property
    def name(self) -> str:
        """Its name in params.yaml: only the teacher if the head is `pooled`."""
        clean = self.teacher if self.head == POOLED else f"{self.teacher}/{self.head}"
        return f"{clean}@{self.view}" if self.view else clean

    @property
    def clean(self) -> "Source":
        """The same source without views."""
        return replace(self, view="")

    @property
    def slug(self) -> str:
        """The head as a file name."""
        return self.head.replace(":", "-")

    def __str__(self) -> str:
        return self.name


def view_head(head: str, family: str, number: int) -> str:
    """The head of a store with the features of one view of every row; for view 0, the clean rows, `head` itself."""
    return f"{head}@{family}:{number}" if number else head


def check_heads(heads: Sequence[str], where: str) -> None:
    """Make sure that a teacher keeps a head that later stages can use, before hours are spent on its features.

    Args:
        heads: those that it keeps.
        where: their place in params.yaml, for messages.

    Raises:
        UserError: none of them is one vector per row.
    """
    if set(heads) == {TOKENS}:
        raise UserError(
            f"{where}: {TOKENS} alone has no vector per row, so nothing could be probed or learned; write "
            f"[{POOLED}, {TOKENS}]"
        )
