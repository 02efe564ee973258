"""A prepared dataset with another number of labels: the same rows, of which others have a visible label.

Which rows keep their label follows from their ids, the seed and the number of the split, as when the dataset was
prepared. So the roles are those that `aft prepare` gives with another `dataset.labelled`, without reading the source,
and they are nested: 50 labelled rows are among the 200.
"""

from pathlib import Path

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.scan import row_hash
from pipeline.data.splits import Amount, keep_labels, numbered
from pipeline.errors import UserError


def open_labelled(path: Path, labelled: Amount | None) -> Dataset:
    """The dataset in a folder, with `labelled` rows or that share of rows; as it was prepared if that is None.

    Raises:
        UserError: as `Dataset.open`; or there are fewer training rows with a label, or fewer labels than classes.
    """
    data = Dataset.open(path)
    if labelled is None:
        return data
    if (data.task.strata(data.labels) < 0).all():
        raise UserError(f"{path}: no row has a label; there are none to leave out")
    strata, present = numbered(data.task.strata(data.labels))
    rows = np.frombuffer(b"".join(map(row_hash, data.ids)), np.uint64)
    seed = int(data.manifest.settings["seed"])

    def name(number: int) -> str:
        return data.task.stratum(int(present[number]))

    return data.with_roles(
        [keep_labels(data.roles(split), strata, rows, name, labelled, seed, split) for split in range(data.splits)]
    )
