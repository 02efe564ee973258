"""Sources of features: one head of one teacher's store, written `minilm` or `minilm/layer:4`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UserError

POOLED = "pooled"
"""The head that a teacher's bare name stands for."""

TOKENS = "tokens"
"""The head with many vectors per row. It can be stored and exported, but nothing is probed or learned from it yet."""


@dataclass(frozen=True)
class Source:
    """One head of one teacher's feature store. Probes, bundles, signals and profiles are keyed by it.

    Attributes:
        teacher: a key of `teachers` in params.yaml.
        head: a head of its store, such as `pooled`, `cls` or `layer:4`.
    """

    teacher: str
    head: str = POOLED

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Source":
        """Read `TEACHER` or `TEACHER/HEAD`.

        Args:
            text: as it is written in params.yaml.
            where: its place, for messages.

        Raises:
            UserError: it is written in another way.
        """
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:/([a-z_]+(?::[0-9]+)?))?", text)
        if found is None:
            place = f"{where}: " if where else ""
            raise UserError(
                f"{place}{text!r} is not a source of features; write TEACHER or TEACHER/HEAD, such as bert/layer:4"
            )
        return cls(found[1], found[2] or POOLED)

    @property
    def name(self) -> str:
        """How it is written: the teacher alone where the head is `pooled`."""
        return self.teacher if self.head == POOLED else f"{self.teacher}/{self.head}"

    @property
    def slug(self) -> str:
        """The head as a file name."""
        return self.head.replace(":", "-")

    def __str__(self) -> str:
        return self.name


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
