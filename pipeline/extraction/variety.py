"""Detects features that do not distinguish rows, in the first rows of an extraction."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pipeline.errors import UserError, count

FEWEST = 8
"""The number of different rows before anything is concluded from their features."""

ENOUGH = 1024
"""The number of different rows after which no more are checked."""

NUMBERS = 1 << 22
"""The most numbers of a head that are compared: fewer rows if each has many."""

SAME = 0.5
"""The largest share of rows that may have the same features."""

DISTINCT = 0.1
"""The least number of distinct features per different row; a tokenizer that only counts words gives few."""

SPREAD = 1e-3
"""The least standard deviation of a feature over rows, relative to its size: about the rounding of float16."""


class Variety:
    """Compares the features of rows whose contents differ, head by head.

    Equal rows count once, so a dataset with many equal rows is not blamed on the teacher.

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
                f"{self.where}: head `{head}`: {same} of {count(len(rows), 'row')} that differ have the same features, "
                f"so this teacher does not distinguish them; {advice}"
            )
        if len(counts) < DISTINCT * len(rows):
            raise UserError(
                f"{self.where}: head `{head}`: {count(len(rows), 'row')} that differ have only "
                f"{count(len(counts), 'different feature')}, so this teacher hardly distinguishes them; {advice}"
            )
        size = np.sqrt(np.square(wide).mean(0))
        # The median: a few features of large models are a thousand times larger than the others, and nearly constant.
        spread = float(np.median(wide.std(0)[size > 0] / size[size > 0]))
        if spread < SPREAD:
            raise UserError(
                f"{self.where}: head `{head}`: the features of {count(len(rows), 'row')} that differ are equal up to "
                f"{spread:.1e} of their size, so this teacher hardly distinguishes them; {advice}"
            )


def _wide(values: np.ndarray) -> np.ndarray:
    """As float64; uint16 holds the bits of bfloat16."""
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)
