"""Two runs, seed by seed: what the last lines say of the difference."""

import pytest

from pipeline import tasks
from pipeline.functional.statistics import paired
from pipeline.reporting.pairing import Pairing


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ((0.5, 0.6), "All scores are equal, as those of one and the same training are."),
        ((0.6, 0.5), "The interval contains 0: these seeds do not tell the two apart."),
    ],
)
def test_equal_scores_are_not_called_noise(scores: tuple[float, float], line: str):
    own = (0.5, 0.6)
    difference = paired([mine - other for mine, other in zip(own, scores, strict=True)])
    metric = tasks.build("classification", ("a", "b")).primary
    assert str(Pairing(("a", "b"), "test", metric, (0, 1), (own, scores), difference)).splitlines()[-1] == line
