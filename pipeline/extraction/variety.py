"""Features that do not tell rows apart: found in the first rows of an extraction, before a store holds more of them."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pipeline.errors import UserError

FEWEST = 8
"""Rows that differ, before anything is concluded from their features."""

ENOUGH = 1024
"""Rows that differ, after which no more are looked at."""

NUMBERS = 1 << 22
"""Of a head that are compared at most; fewer rows where each has many."""

SAME = 0.5
"""The share of rows that may have one and the same features."""

DISTINCT = 0.1
"""Distinct features per row that differs, at least: those of a tokenizer that only counts words are few."""

SPREAD = 1e-3
"""A feature's deviation over the rows as a share of its size, at least: about what storing in float16 rounds away."""


class Variety:
    """Compares the features of rows whose contents differ, head by head.

    Rows that are equal count once, so that a dataset of really equal rows is no fault of the teacher.

    Args:
        where: the store, for the message.
    """

    def __init__(self, where: str):
        self.where = where
        self.seen: dict[str, dict[bytes, np.ndarray]] = {}

    def check(self, digests: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
        """Take in the rows of a shard.

        Args:
            digests: of the rows' contents, [n].
            features: per head, [n, *shape]; bits of bfloat16 as uint16.

        Raises:
            UserError: a head is the same for most rows, or differs by no more than rounding.
        """
        for head, values in features.items():
            seen = self.seen.setdefault(head, {})
            enough = min(ENOUGH, max(FEWEST, NUMBERS // max(1, values[0].size)))
            if len(seen) >= enough:
                continue
            for digest, row in zip(digests, values, strict=True):
                if len(seen) < enough:
                    seen.setdefault(bytes(digest), row.copy())
            if len(seen) >= FEWEST:
                self._compare(head, np.stack(list(seen.values())))
            if len(seen) >= enough:
                # Only the number of rows counts from here on.
                self.seen[head] = dict.fromkeys(seen, np.empty(0))

    def _compare(self, head: str, rows: np.ndarray) -> None:
        wide = _wide(rows).reshape(len(rows), -1)
        if not np.isfinite(wide).all():
            return  # the writer names the rows that are not finite
        counts = Counter(row.tobytes() for row in rows)
        same = counts.most_common(1)[0][1]
        advice = "check its weights, its tokenizer and its pooling"
        if same > SAME * len(rows):
            raise UserError(
                f"{self.where}: head `{head}`: {same} of {len(rows)} rows that differ have the same features, so this "
                f"teacher does not tell them apart; {advice}"
            )
        if len(counts) < DISTINCT * len(rows):
            raise UserError(
                f"{self.where}: head `{head}`: {len(rows)} rows that differ have {len(counts)} different features, so "
                f"this teacher hardly tells them apart; {advice}"
            )
        size = np.sqrt(np.square(wide).mean(0))
        # The median: a few features of large models are a thousand times the others, and nearly constant.
        spread = float(np.median(wide.std(0)[size > 0] / size[size > 0]))
        if spread < SPREAD:
            raise UserError(
                f"{self.where}: head `{head}`: the features of {len(rows)} rows that differ are equal but for "
                f"{spread:.1e} of their size, so this teacher hardly tells them apart; {advice}"
            )


def _wide(values: np.ndarray) -> np.ndarray:
    """As float64, from the bits of bfloat16 too."""
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)
