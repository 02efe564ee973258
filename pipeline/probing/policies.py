"""Ranking the views of sources before any student is trained, from cached outputs of probes alone.

A set of views is measured by the spread of the probe's mean prediction over groups of rows: the smaller, the less the
teacher repeats itself (see `pipeline.functional.spread`). The measure does not see whether a view still shows what its
row shows, and rates an empty picture best. So the probe's score on views of validation rows stands next to it.
"""

from dataclasses import replace

import numpy as np

from pipeline.data import Dataset
from pipeline.functional.spread import spread_of_means
from pipeline.probing.saved import SavedProbe
from pipeline.project import Project
from pipeline.records import ViewsRecord
from pipeline.store import SourceFeatures

SHARE = 4
"""A group is one in so many of the rows that are compared."""


def rank_views(
    features: SourceFeatures, data: Dataset, project: Project, compared: list[np.ndarray]
) -> list[ViewsRecord]:
    """The clean rows and every set of views that a source has, the smallest spread first; none if it has no views.

    Args:
        features: of the source.
        data: the dataset.
        project: where its probes are.
        compared: per split, the training rows to draw groups from.

    Raises:
        UserError: the probe of the source has no outputs for its views.
    """
    kept = features.kept_views()
    if not kept:
        return []
    found = []
    for family, heads in {"": (), **kept}.items():
        seen = replace(features, source=replace(features.source, view=family))
        spreads, scores = [], []
        for number, rows in enumerate(compared):
            probe, task = SavedProbe(project, seen, number, data, heads), data.split_task(number)
            # Clean rows are one of the views, as in training; a labelled row's outputs come from the fit without it.
            outputs = [
                probe.outputs(rows, "linear_crossfit", np.full(len(rows), view)) for view in range(len(heads) + 1)
            ]
            predictions = [each if (p := task.probabilities(each)) is None else p for each in outputs]
            spreads.append(spread_of_means(np.stack(predictions), max(1, len(rows) // SHARE), number))
            val = data.split(number).val
            views = range(1, len(heads) + 1) if heads else (0,)
            of_views = [
                task.score(probe.outputs(val, views=np.full(len(val), view)), data.labels[val]) for view in views
            ]
            scores.append(float(np.mean(of_views)))
        found.append(
            ViewsRecord(source=features.name, family=family, count=len(heads), spread=tuple(spreads), val=tuple(scores))
        )
    return sorted(found, key=lambda record: record.mean_spread)
