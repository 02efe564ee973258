r"""How far a teacher's mean prediction moves from one group of rows to the next (https://arxiv.org/abs/2012.02909).

$$ \frac{1}{c} \sum_{k=1}^{c} \sqrt{\tfrac{1}{G-1} \sum_{g=1}^{G} (u_{gk} - \bar u_k)^2}, \quad
   u_{gk} = \frac{1}{m} \sum_{i \in g} p_{ik} $$

with p the teacher's probabilities of c classes, a group g of m rows, each in one of its views at random, and G groups.
Predictions that repeat one another move it far. The paper finds that students test better where it is small.
"""

import numpy as np
from jaxtyping import Float

GROUPS = 100
"""The number of groups. The standard error of a spread is then 7 % of it."""


def spread_of_means(predictions: Float[np.ndarray, "v n c"], rows: int, seed: int, groups: int = GROUPS) -> float:
    """The standard deviation of mean predictions over groups of rows, mean over classes.

    Args:
        predictions: of the v views of n rows; a single one for clean rows.
        rows: of a group, m of n, all different.
        seed: of the groups. Rows are drawn apart from views, so two sets of views are compared on the same rows.
        groups: how many are drawn.
    """
    views, n, _ = predictions.shape
    random, of_views = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    means = [
        predictions[of_views.integers(views, size=rows), random.permutation(n)[:rows]].mean(0) for _ in range(groups)
    ]
    return float(np.std(means, axis=0, ddof=1).mean())
